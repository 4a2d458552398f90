from __future__ import annotations

import errno
import ipaddress
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice

import pytest

from clusters.network import (
    BLOCK,
    PORTS,
    PORTS_OF_IMPORTS,
    Claims,
    Ports,
    blocks_outside,
    free_port,
    loopback_addresses,
    virtual_ranges,
)
from discovery.settings import ClusterSetSettings
from federation.errors import Unavailable

DRAW = """
import sys
from clusters.network import free_port
print(*[free_port() for _ in range(int(sys.argv[1]))], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def claims() -> Iterator[Claims]:
    made = Claims()
    yield made
    made.close()


def draw(number: int) -> tuple[subprocess.Popen[str], list[int]]:
    """Another process that has drawn so many ports and lives on, and what it got."""
    other = subprocess.Popen(
        [sys.executable, "-c", DRAW, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    return other, [int(port) for port in other.stdout.readline().split()]


def take(ports: Ports) -> int:
    """The next port at 127.0.0.1; 0 when there is none."""
    try:
        return ports.take("127.0.0.1")
    except Unavailable:
        return 0


def end(other: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    other.send_signal(number)
    other.communicate()


def test_addresses_and_ranges_lie_on_loopback_and_apart(claims: Claims) -> None:
    addresses, ranges = [], []
    for seed in (1, 1, 2):
        rng = random.Random(seed)
        addresses += [ipaddress.ip_address(a) for a in islice(loopback_addresses(rng, claims), 10)]
        ranges += [ipaddress.ip_network(r) for r in islice(virtual_ranges(rng, claims), 10)]
    assert len(set(addresses)) == 30
    assert all(a in ipaddress.ip_network("127.0.0.0/9") for a in addresses)
    assert all(r.subnet_of(ipaddress.ip_network("127.128.0.0/9")) for r in ranges)
    assert not any(a.overlaps(b) for a in ranges for b in ranges if a is not b)


@pytest.mark.parametrize(
    ("ephemeral", "expected"),
    [
        ("32768\t60999\n", {(30016, 32704), (61056, 65472)}),
        ("32768 65535", {(30016, 32704)}),
        ("30000 60999", {(61056, 65472)}),
        ("16384 65535", {(10240, 16320)}),
        ("1024 65535", {(10240, 65472)}),
        ("", {(30016, 32704), (61056, 65472)}),
        ("a b", {(30016, 32704), (61056, 65472)}),
    ],
)
def test_where_ports_are_looked_for(ephemeral: str, expected: set[tuple[int, int]]) -> None:
    """Given as runs of blocks, by the first and the last of each."""
    blocks = blocks_outside(ephemeral)
    runs = {b for b in blocks if b - BLOCK not in blocks}, {b for b in blocks if b + BLOCK not in blocks}
    assert set(zip(*map(sorted, runs), strict=True)) == expected


def test_imports_have_other_ports() -> None:
    assert ClusterSetSettings().gateway_ports == (PORTS_OF_IMPORTS.start, PORTS_OF_IMPORTS.stop - 1)


def test_no_outgoing_connection_is_given_a_free_port() -> None:
    """What binding to port 0 gives is in the ephemeral range, and the kernel may give it to anybody a moment later."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first, last = map(int, file.read().split())
    if len(blocks_outside(f"{first} {last}")) * BLOCK == len(PORTS):
        pytest.skip("on this machine every port may be given to an outgoing connection")
    assert not [port for port in (free_port() for _ in range(20)) if first <= port <= last]


def test_a_port_is_given_once(claims: Claims) -> None:
    blocks = range(PORTS.start, PORTS.start + 4 * BLOCK, BLOCK)
    ports = Ports(blocks, random.Random(0), claims)
    taken = []
    while port := take(ports):
        taken.append(port)
    assert len(taken) == len(set(taken)) <= 4 * BLOCK
    assert set(taken) <= set(range(blocks.start, blocks.stop))
    assert not take(Ports(blocks, random.Random(0), Claims()))  # somebody else has claimed all of them


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::"])
def test_a_port_that_somebody_holds_is_passed_over(claims: Claims, host: str, kind: socket.SocketKind) -> None:
    ports = Ports(PORTS[::BLOCK], random.Random(), claims)
    while (first := ports.take("127.0.0.1")) % BLOCK == BLOCK - 1:
        pass
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as held:
        try:
            held.bind((host, first + 1))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                pytest.skip("this host has no IPv6")
        assert ports.take("127.0.0.1") != first + 1


def test_an_address_of_another_machine_is_no_address_for_a_port() -> None:
    with pytest.raises(OSError, match="assign"):
        free_port("192.0.2.77")


def test_processes_are_given_different_ports() -> None:
    """Also while nobody listens yet: all of them draw what they need before any server starts."""
    drawn: list[int] = [free_port() for _ in range(100)]
    others = []
    try:
        for _ in range(3):
            other, ports = draw(100)
            others.append(other)
            drawn += ports
    finally:
        for other in others:
            end(other)
    assert len(drawn) == len(set(drawn)) == 400


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_claim_ends_with_its_process_however_that_ends(claims: Claims, number: int) -> None:
    other, ports = draw(1)
    block = f"ports/{ports[0] // BLOCK * BLOCK}"
    try:
        assert not claims.take(block)
    finally:
        end(other, number)
    assert claims.take(block)


def test_a_claim_is_given_back(claims: Claims) -> None:
    what = f"test/{os.getpid()}"
    assert claims.take(what)
    assert not Claims().take(what)
    claims.close()
    assert claims.take(what)
