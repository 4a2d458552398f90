"""What one origin may claim: pure accounting, and a token bucket for its rate. Others are never charged for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from federation.errors import QuotaExceeded
from federation.model.record import Kind
from federation.registry.settings import Quotas


@dataclass(frozen=True, slots=True)
class Size:
    """What one record counts."""

    services: int = 0
    gateways: int = 0
    endpoints: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, kind: Kind, *, length: int, endpoints: int = 0) -> Size:
        """`length` is the payload's, in bytes."""
        return _size(int(kind is Kind.SERVICE), int(kind is Kind.GATEWAY), endpoints, length)


_size = lru_cache(maxsize=4096)(Size)  # one is kept for every record, and most are alike
NOTHING = Size()


_COUNTED = ("services", "gateways", "endpoints", "bytes")


class Usage:
    """The running total of one origin."""

    __slots__ = ("bytes", "endpoints", "gateways", "services")

    def __init__(self) -> None:
        self.services = self.gateways = self.endpoints = self.bytes = 0

    def replace(self, old: Size, new: Size, limits: Quotas) -> None:
        """Count `new` instead of `old`; raises QuotaExceeded and counts nothing when that would be too much.

        What shrinks is always accepted, also where a lowered limit is exceeded already.
        """
        if new.bytes > limits.record_bytes:
            raise QuotaExceeded(f"the record has {new.bytes} bytes; at most {limits.record_bytes} are taken")
        for what in _COUNTED:
            more = getattr(new, what) - getattr(old, what)
            if more <= 0:
                continue
            present, limit = getattr(self, what), getattr(limits, what)
            if present + more > limit:
                raise QuotaExceeded(
                    f"the cluster has {present} {what} and would get {present + more}; at most {limit} are allowed",
                    hint=f"export less, or raise quotas.{what} in the registry's settings",
                )
        self.services += new.services - old.services
        self.gateways += new.gateways - old.gateways
        self.endpoints += new.endpoints - old.endpoints
        self.bytes += new.bytes - old.bytes


class TokenBucket:
    """`rate` tokens per second, at most `burst` saved; time is monotonic seconds, given by the caller."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at = burst, now

    def take(self, count: float, now: float) -> float:
        """Take `count` tokens, on credit if need be; returns the seconds until the debt is paid, 0 without one.

        Whoever waits that long before taking again keeps to the rate, whatever the size of its batches.
        """
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate) - count
        self._at = max(self._at, now)
        return max(0.0, -self._tokens / self._rate)
