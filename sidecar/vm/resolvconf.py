"""resolv.conf(5): what it says, and the same with the sidecar in front. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

HEADER = """\
# Written for isthmus: the sidecar answers first. What stood here before is kept in /var/lib/isthmus/host and comes back
# by `fedctl vm dns --undo` or `fedctl vm uninstall`.
"""
MOST = 3
"""Nameservers that the resolver of the C library looks at (MAXNS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvConf:
    """`nameservers` in order; `others`: the lines with other keywords, as they are."""

    nameservers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def parse(text: str) -> ResolvConf:
    """Comments are dropped, and nameservers that are no addresses, as the C library drops them."""
    nameservers: list[str] = []
    others: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] != "nameserver":
            others.append(line.rstrip())
        elif len(words) > 1 and _is_address(words[1]) and words[1] not in nameservers:
            nameservers.append(words[1])
    return ResolvConf(nameservers=tuple(nameservers), others=tuple(others))


def with_sidecar(text: str, address: str) -> str:
    """The file with the sidecar as first nameserver.

    The others follow, for as long as the sidecar is away. `rotate` goes: it would ask them in turn, and they do not
    know our names.
    """
    found = parse(text)
    servers = [address, *(s for s in found.nameservers if s != address)][:MOST]
    lines = [f"nameserver {server}" for server in servers]
    for line in found.others:
        kept = _without_rotate(line)
        if kept:
            lines.append(kept)
    return HEADER + "\n".join(lines) + "\n"


def _without_rotate(line: str) -> str:
    words = line.split()
    if words[0] != "options" or "rotate" not in words:
        return line
    left = [word for word in words if word != "rotate"]
    return " ".join(left) if len(left) > 1 else ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
