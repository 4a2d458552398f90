"""Times and addresses as people read them."""

from __future__ import annotations

import datetime

from federation.errors import InvalidInput
from federation.model.ids import parse_port


def timestamp(ns: int) -> str:
    """Nanoseconds since the epoch as UTC, to the second; empty for 0 (never)."""
    if not ns:
        return ""
    return datetime.datetime.fromtimestamp(ns // 1_000_000_000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def age(ns: int, now_ns: int) -> str:
    """How long ago `ns` was, in the largest whole unit: "3s", "5m", "2h", "4d"; empty for 0 (never)."""
    if not ns:
        return ""
    seconds = max(0, now_ns - ns) // 1_000_000_000
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def host_port(address: str, port: int) -> str:
    """address:port, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def parse_host_port(text: str) -> tuple[str, int]:
    """From "127.0.0.1:7443" or "[::1]:7443"; raises InvalidInput."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise InvalidInput(f"{text[:80]!r} is not HOST:PORT", hint="for example 127.0.0.1:7443 or [::1]:7443")
    return host.removeprefix("[").removesuffix("]"), parse_port(int(port), what="port")
