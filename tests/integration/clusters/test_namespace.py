from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from clusters.namespace import BridgedNamespace, LocalNetwork, NetworkNamespace, free_network, run
from clusters.network import Claims
from federation.errors import Unavailable

pytestmark = pytest.mark.integration

CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=15) as connection:
    print(connection.getsockname()[0])
"""


@pytest.fixture
def two() -> Iterator[tuple[NetworkNamespace, NetworkNamespace]]:
    try:
        first = NetworkNamespace(uplink=True)
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    second = NetworkNamespace(uplink=True)
    yield first, second
    first.close()
    second.close()


def test_each_reaches_this_one_by_a_network_of_its_own(two: tuple[NetworkNamespace, NetworkNamespace]) -> None:
    assert len({address for space in two for address in (space.inside, space.outside)}) == 4
    for space in two:
        with socket.create_server((space.outside, 0)) as server:
            assert space.python(CONNECT, space.outside, str(server.getsockname()[1])).strip() == space.inside


def test_what_fails_inside_is_told(two: tuple[NetworkNamespace, NetworkNamespace]) -> None:
    with pytest.raises(Unavailable, match="no such luck"):
        two[0].python("raise SystemExit('no such luck')")


def test_nothing_is_left_of_one_that_was_closed(two: tuple[NetworkNamespace, NetworkNamespace]) -> None:
    first, second = two
    first.close()
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert first.name not in names
    assert second.name in names
    first.close()  # again changes nothing


def test_every_address_of_a_local_network_is_ours_until_it_is_closed() -> None:
    try:
        network, other = LocalNetwork(), LocalNetwork()
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    addresses = list(network.addresses())
    assert len(addresses) == 254
    assert not set(addresses) & set(other.addresses())
    with socket.create_server((addresses[-1], 0)) as server:
        address = server.getsockname()
        socket.create_connection(address, timeout=15).close()
    network.close()
    other.close()
    with pytest.raises(OSError, match="assign requested address"):
        socket.create_server((addresses[0], 0))


@pytest.fixture
def switch(two: tuple[NetworkNamespace, NetworkNamespace]) -> Iterator[tuple[str, str]]:
    """A network like those of containers: the name of its bridge here, and the first three numbers of its addresses."""
    claims, name = Claims(), f"isb{secrets.token_hex(3)}"
    net = free_network(claims)
    for command in (f"link add {name} type bridge", f"addr add {net}.1/24 dev {name}", f"link set {name} up"):
        run(f"ip {command}")
    yield name, net
    run(f"ip link del {name}")
    claims.close()


def test_machines_of_one_network_reach_this_one_and_have_a_resolver_of_their_own(switch: tuple[str, str]) -> None:
    bridge, net = switch
    first, second = (BridgedNamespace(bridge, IPv4Network(f"{net}.0/24"), f"{net}.1") for _ in range(2))
    try:
        assert [first.inside, second.inside, first.outside] == [f"{net}.254", f"{net}.253", f"{net}.1"]
        with socket.create_server((first.outside, 0)) as server:
            for space in (first, second):
                assert space.python(CONNECT, space.outside, str(server.getsockname()[1])).strip() == space.inside
        first.resolve_by("127.0.0.55")
        read = "print(open('/etc/resolv.conf').read())"
        assert first.python(read).strip() == "nameserver 127.0.0.55"
        assert "127.0.0.55" not in second.python(read)
    finally:
        first.close()
        second.close()
    assert not Path("/etc/netns", first.name).exists()
