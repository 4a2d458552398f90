"""The resolvers of /etc/resolv.conf (resolv.conf(5)), for whoever forwards to what this host used before."""

from __future__ import annotations

import ipaddress

_MOST = 3  # MAXNS: the C library reads no more


def parse_resolvers(text: str) -> tuple[tuple[str, int], ...]:
    """The (address, 53) of each `nameserver` line; lines that the C library would not understand are passed over."""
    found: list[tuple[str, int]] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                ipaddress.ip_address(words[1])
            except ValueError:
                continue
            found.append((words[1], 53))
    return tuple(dict.fromkeys(found))[:_MOST]
