"""Which gateway addresses a federation accepts: none that would lead a consumer back to itself or to its host.

A consumer dials what the origin claims. An origin that claims loopback, link-local or metadata addresses would have the
consumer's proxy talk to the consumer's own machine (CVE-2021-25737 is the precedent), so that each address is judged
in every form that a kernel or a translator takes it apart to: IPv4-mapped, IPv4-compatible, SIIT, 6to4, Teredo, NAT64,
ISATAP. A DNS name is refused: Envoy is told addresses, and nobody resolves names for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from federation.errors import InvalidInput
from federation.model.ids import parse_label

_REFUSED_V4 = {
    IPv4Network("0.0.0.0/8"): "unspecified",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("169.254.0.0/16"): "link-local (cloud metadata is there)",
    IPv4Network("100.100.100.200/32"): "a cloud's metadata service",
    IPv4Network("168.63.129.16/32"): "a cloud's host agent",
    IPv4Network("192.0.0.192/32"): "a cloud's metadata service",
    IPv4Network("192.88.99.0/24"): "a 6to4 relay",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved (sidecars and cluster-set addresses use it)",
}
_REFUSED_V6 = {
    IPv6Network("::/128"): "unspecified",
    IPv6Network("::1/128"): "loopback",
    IPv6Network("fe80::/10"): "link-local",
    IPv6Network("fec0::/10"): "site-local",
    IPv6Network("ff00::/8"): "multicast",
    IPv6Network("100::/64"): "discard-only",
    IPv6Network("fd00:ec2::/32"): "a cloud's metadata service",
    IPv6Network("fd20:ce::254/128"): "a cloud's metadata service",
}
_LOOPBACK = (IPv4Network("127.0.0.0/9"), IPv6Network("::1/128"))  # 127.128.0.0/9 is the sidecars' own
_EMBEDDED_LAST_32 = tuple(
    map(
        IPv6Network,
        # IPv4-compatible, IPv4-mapped, SIIT (RFC 2765), NAT64 (RFC 6052), NAT64 for local use (RFC 8215)
        ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"),
    )
)
_6TO4 = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)

GATEWAY = "gateway address"

_NUMBER = re.compile(r"[0-9]+\Z|0x[0-9a-f]*\Z", re.ASCII)


@lru_cache(maxsize=16_384)  # headless services have thousands, and one changes at a time
def check_gateway_address(text: str, *, single_machine: bool, what: str = GATEWAY) -> str:
    """The address in its canonical form; loopback passes only where all members run on one machine.

    `what` it is, for errors. Raises InvalidInput (forbidden_address, malformed_address; address_is_a_name for what may
    be a DNS name).
    """
    try:
        address = ip_address(text)
    except ValueError:
        raise _no_address(text, what) from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise _forbidden(text, "bound to an interface", what)
    if single_machine and any(address.version == net.version and address in net for net in _LOOPBACK):
        return str(address)
    reason = _refusal(address)
    if reason:
        raise _forbidden(text, reason, what)
    return str(address)


def _refusal(address: IPv4Address | IPv6Address) -> str:
    """Why the address is refused; empty: it is not."""
    refused = _REFUSED_V4 if isinstance(address, IPv4Address) else _REFUSED_V6
    for network, reason in refused.items():
        if address in network:
            return reason
    if isinstance(address, IPv6Address):
        for inner in _embedded(address):
            reason = _refusal(inner)
            if reason:
                return f"{inner} in another form, which is {reason}"
    return ""


def _embedded(address: IPv6Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that some translator or tunnel would make of it."""
    number = int(address)
    low = number & 0xFFFF_FFFF
    if any(address in net for net in _EMBEDDED_LAST_32):
        yield IPv4Address(low)
    if address in _NAT64_LOCAL:  # with a /48 prefix the u octet (bits 64 to 71) parts the address: RFC 6052, 2.2
        yield IPv4Address((number >> 64 & 0xFFFF) << 16 | number >> 40 & 0xFFFF)
    if address in _6TO4:
        yield IPv4Address(number >> 80 & 0xFFFF_FFFF)
    if address in _TEREDO:
        yield IPv4Address(number >> 64 & 0xFFFF_FFFF)
        yield IPv4Address(low ^ 0xFFFF_FFFF)
    if number >> 32 & 0xFFFF_FFFF in _ISATAP:
        yield IPv4Address(low)


def _no_address(text: str, what: str) -> InvalidInput:
    """Why `text`, which is no IP address, is refused: names that C libraries take for numbers are no DNS names."""
    labels = text.lower().removesuffix(".").split(".")
    if len(text) > 254 or _NUMBER.match(labels[-1]) or not all(map(_is_label, labels)):
        return InvalidInput(f"{what} {text[:80]!r} is not an IP address", code="malformed_address")
    reason, hint = "an IP address is needed", "give the IP address that the name leads to"
    if what == GATEWAY:
        reason = "gateways are announced by IP address"
        hint += "; a gateway per address if there are several"
    return InvalidInput(f"{what} {text[:80]!r} is a name, and {reason}", hint=hint, code="address_is_a_name")


def _is_label(text: str) -> bool:
    try:
        parse_label(text, what="part")
    except InvalidInput:
        return False
    return True


def _forbidden(text: str, reason: str, what: str) -> InvalidInput:
    who = "other clusters reach this gateway" if what == GATEWAY else "others reach it"
    return InvalidInput(
        f"{what} {text[:80]!r} is {reason}", hint=f"give an address at which {who}", code="forbidden_address"
    )
