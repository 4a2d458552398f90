"""Ports and addresses of this machine that no other test, demo or benchmark of ours will use, without privileges.

A port that is looked for now and bound later can be lost in between, to an outgoing connection or to somebody who looks
at the same time. So ports are picked outside of those that the kernel gives to outgoing connections, and who picks from
a block of ports has claimed it before: a claim is an abstract UNIX socket (unix(7)), which one process at a time can
bind in a network namespace, and which is gone when that process is, however it ends.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from federation.errors import Unavailable

BLOCK = 64
"""Ports that are claimed together."""

PORTS = range(10240, 65536)
"""Where ports are looked for: above what well-known services use."""

PORTS_OF_IMPORTS = range(10000, 30000)
"""What agents give to imports by default, at the gateways' own addresses: avoided where there are enough others."""

FEW = 16
"""Blocks that are too few for several suites at once."""

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Claims:
    """What is claimed here is nobody else's in this network namespace until `close` or the end of this process."""

    def __init__(self) -> None:
        self._held: list[int] = []

    def take(self, what: str) -> bool:
        """Claim `what`; False when somebody has it, this process included."""
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(f"\0isthmus/{what}")
        except OSError as error:
            held.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        self._held.append(held.detach())
        return True

    def close(self) -> None:
        """Give everything back."""
        while self._held:
            os.close(self._held.pop())


class Ports:
    """Ports, each once, of blocks that are claimed until the process ends."""

    def __init__(self, blocks: Sequence[int], rng: random.Random, claims: Claims) -> None:
        self._claims = claims
        self._blocks = rng.sample(blocks, len(blocks))
        self._left = self._claimed()

    def take(self, address: str) -> int:
        """A port that nobody holds, neither at `address` nor on all addresses, for TCP and for UDP.

        Raises Unavailable when there is none, OSError for an address that this machine does not have.
        """
        for port in self._left:
            if _is_free(address, port):
                return port
        raise Unavailable("every port is claimed or in use", code="no_free_port")

    def _claimed(self) -> Iterator[int]:
        while self._blocks:
            start = self._blocks.pop()
            if self._claims.take(f"ports/{start}"):
                yield from range(start, start + BLOCK)


def blocks_outside(ephemeral: str) -> list[int]:
    """The blocks to look in, by their first ports; `ephemeral` is the text of ip_local_port_range (ip(7)).

    Where all but a few ports are ephemeral, all blocks: then the claims alone keep our processes apart.
    """
    try:
        first, last = map(int, ephemeral.split())
    except ValueError:
        first, last = 32768, 60999
    blocks = list(range(PORTS.start, PORTS.stop, BLOCK))
    outside = [start for start in blocks if start + BLOCK <= first or start > last]
    better = [start for start in outside if start >= PORTS_OF_IMPORTS.stop]
    return next((found for found in (better, outside) if len(found) >= FEW), blocks)


def _read_ephemeral() -> str:
    try:
        return _EPHEMERAL.read_text()
    except OSError:
        return ""


def _is_free(address: str, port: int) -> bool:
    """Whether a socket that shares nothing gets `port` at `address` and on all addresses, for TCP and for UDP."""
    everywhere = ["0.0.0.0", "::"] if socket.has_dualstack_ipv6() else ["0.0.0.0"]
    for host in (address, *everywhere):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
                try:
                    probe.bind((host, port))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                    return False
    return True


_OURS = Claims()


@functools.cache
def _ports() -> Ports:
    return Ports(blocks_outside(_read_ephemeral()), random.Random(), _OURS)


def free_port(address: str = "127.0.0.1") -> int:
    """A port for a server that starts later at `address`; no process of ours is given it again while this one lives.

    Raises Unavailable when there is none, OSError for an address that this machine does not have.
    """
    return _ports().take(address)


def loopback_addresses(seed: random.Random, claims: Claims = _OURS) -> Iterator[str]:
    """Addresses of one random /24 below 127.0.0.0/9, which nobody else of ours has."""
    while True:
        net = f"127.{seed.randint(16, 110)}.{seed.randint(0, 255)}"
        if claims.take(f"addresses/{net}"):
            return (f"{net}.{host}" for host in range(1, 255))


def virtual_ranges(seed: random.Random, claims: Claims = _OURS) -> Iterator[str]:
    """Disjoint /22 ranges of 127.128.0.0/9, which nobody else of ours has.

    Each sidecar of a machine needs one of its own for the loopback way.
    """
    for pick in seed.sample(range(1 << 13), 1 << 13):
        found = f"127.{128 + (pick >> 6)}.{(pick & 63) << 2}.0/22"
        if claims.take(f"addresses/{found}"):
            yield found
