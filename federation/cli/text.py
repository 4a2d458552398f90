"""Times as people read them."""

from __future__ import annotations

import datetime


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
