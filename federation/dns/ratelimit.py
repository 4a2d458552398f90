"""Response rate limit: how many UDP answers a client network gets, so that a flood with a forged sender gains nothing.

A token bucket for each prefix. Of the answers over the limit, every `slip`-th is a truncated one no longer than the
query: a real client then comes by TCP, which cannot be forged; the others are dropped.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache


class Verdict(enum.Enum):
    """What to do with a query."""

    PASS = "pass"  # noqa: S105 - not a password
    SLIP = "slip"
    DROP = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """`per_second` answers to each network of `ipv4_prefix` or `ipv6_prefix` bits; `burst` may come at once.

    `networks` are remembered; beyond that the one that was quiet longest starts anew.
    """

    per_second: float = 1000.0
    burst: float = 2000.0
    ipv4_prefix: int = 24
    ipv6_prefix: int = 56
    slip: int = 2
    networks: int = 10_000


class Limiter:
    """The buckets. `now` is a monotonic clock in seconds."""

    def __init__(self, limit: RateLimit, now: Callable[[], float]) -> None:
        self._limit, self._now = limit, now
        self._buckets: dict[str, tuple[float, float]] = {}
        self._over = 0
        self._network = lru_cache(maxsize=limit.networks)(self._network_of)

    def judge(self, address: str) -> Verdict:
        """Take one token from the bucket of the network that `address` is in."""
        key, now, limit = self._network(address), self._now(), self._limit
        tokens, since = self._buckets.pop(key, (limit.burst, now))
        tokens = min(limit.burst, tokens + (now - since) * limit.per_second)
        if len(self._buckets) >= limit.networks:
            del self._buckets[next(iter(self._buckets))]
        if tokens >= 1:
            self._buckets[key] = (tokens - 1, now)
            return Verdict.PASS
        self._buckets[key] = (tokens, now)
        self._over += 1
        return Verdict.SLIP if limit.slip and self._over % limit.slip == 0 else Verdict.DROP

    def _network_of(self, address: str) -> str:
        host = ipaddress.ip_address(address.partition("%")[0])
        bits = self._limit.ipv4_prefix if host.version == 4 else self._limit.ipv6_prefix
        return str(ipaddress.ip_network((host, bits), strict=False))
