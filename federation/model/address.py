"""host:port as people write it, and ranges of addresses: parsed once, at the edge."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from federation.errors import InvalidInput
from federation.model.ids import parse_port


def split_address(text: str, *, what: str, zero: bool = True) -> tuple[str, int]:
    """("127.0.0.1", 7400) of "127.0.0.1:7400", ("::1", 7400) of "[::1]:7400"; port 0 only where `zero` allows it.

    Raises InvalidInput naming `what` it should have been.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not colon or not host or not digits or any(c.isspace() for c in host):
        raise InvalidInput(
            f"{what} {text[:80]!r} is not HOST:PORT",
            hint="for example 127.0.0.1:7400 or [::1]:7400",
            code="invalid_address",
        )
    number = int(port)
    return host, 0 if zero and number == 0 else parse_port(number, what=f"{what}: port")


def join_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def networks(texts: Iterable[str]) -> list[IPv4Network | IPv6Network]:
    """Those of `texts` that are networks, whichever of their addresses they are written by."""
    found: list[IPv4Network | IPv6Network] = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            continue
    return found


def collapsed(texts: Iterable[str]) -> tuple[str, ...]:
    """The networks of `texts`, neighbours as one: the ranges of a cluster's nodes become those of the cluster."""
    found = networks(texts)
    four = ipaddress.collapse_addresses(net for net in found if isinstance(net, IPv4Network))
    six = ipaddress.collapse_addresses(net for net in found if isinstance(net, IPv6Network))
    return (*map(str, four), *map(str, six))


def overlaps(
    one: Iterable[str], other: Iterable[str]
) -> list[tuple[IPv4Network | IPv6Network, IPv4Network | IPv6Network]]:
    """Pairs of networks of the two that have addresses in common."""
    theirs = networks(other)
    return [(x, y) for x in networks(one) for y in theirs if x.version == y.version and x.overlaps(y)]
