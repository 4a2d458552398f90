"""Addresses on loopback for federations that run beside each other on one machine, without privileges."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import closing


def loopback_addresses(seed: random.Random) -> Iterator[str]:
    """Addresses of one random /24 below 127.0.0.0/9, where no other process is likely to listen."""
    net = f"127.{seed.randint(16, 110)}.{seed.randint(0, 255)}"
    return (f"{net}.{host}" for host in range(1, 255))


def virtual_ranges(seed: random.Random) -> Iterator[str]:
    """Disjoint /22 ranges of 127.128.0.0/9: each sidecar of a machine needs one of its own for the loopback way."""
    picks = seed.sample(range(1 << 13), 64)
    return (f"127.{128 + (pick >> 6)}.{(pick & 63) << 2}.0/22" for pick in picks)


def free_port(address: str) -> int:
    """A TCP port on which nobody listens at `address` now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family)) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
