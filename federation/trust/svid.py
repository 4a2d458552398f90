"""An X.509-SVID with its key: what a process shows to prove who it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from federation.aio.clock import Clock
from federation.model.ids import SpiffeId
from federation.trust.pem import armour

BACKDATE = timedelta(minutes=5)
"""How far `not_before` lies before the moment of issue: a verifier's clock may be that much behind."""


def utc(clock: Clock) -> datetime:
    """The wall clock as an aware datetime, whole microseconds."""
    return datetime.fromtimestamp(clock.wall_ns() // 1000 / 1e6, tz=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """A leaf and its intermediates (DER, the leaf first; never the root).

    `key_pem` (PKCS#8) is empty where only the owner of the CSR holds the key.
    """

    spiffe_id: SpiffeId
    chain: tuple[bytes, ...]
    key_pem: bytes = field(default=b"", repr=False)
    not_before: datetime
    not_after: datetime

    @property
    def chain_pem(self) -> bytes:
        return armour(self.chain)

    @property
    def issued_at(self) -> datetime:
        """The moment of issue, to the second: half life is counted from here."""
        return min(self.not_before + BACKDATE, self.not_after)
