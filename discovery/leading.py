"""Which of several agents of one cluster leads, as each of them sees it.

Said by a Lease in the API server (discovery.kube.elector) or by a lock of Consul (discovery.consul.lock).
"""

from __future__ import annotations

from dataclasses import dataclass

from federation.aio.clock import Clock
from federation.aio.latest import Latest

MOST_OUTBID = 2**40
"""By so much, at most, a new epoch is above the last one, when the registry has heard of a newer one than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Who leads, as one replica sees it.

    `leader`: the holder of the Lease or lock, empty for nobody; `since`: when it became that (a meta/v1 MicroTime, by
    its own clock; empty where that is not known). `expired`: no renewal was seen for as long as the Lease lasts.
    """

    identity: str
    leader: str
    since: str
    leading: bool
    reporting: bool
    expired: bool


class Term(Latest[int | None]):
    """The epoch while this replica leads. Who reads it at the moment of a write never sees one that has ended, not even
    when the process, or its machine, stood still in between."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(None)
        self._clock = clock
        self._until, self._until_wall = float("-inf"), 0

    @property
    def value(self) -> int | None:
        """None as soon as the time is up, whether or not anybody has been told."""
        return super().value if self.lasts else None

    @property
    def lasts(self) -> bool:
        """Monotonic time stands still while a machine is suspended, and the wall clock may be set back: either ends
        it."""
        return self._clock.monotonic() < self._until and self._clock.wall_ns() < self._until_wall

    @property
    def until(self) -> float:
        """Monotonic seconds."""
        return self._until

    def extend(self, epoch: int, *, sent: float, sent_wall_ns: int, seconds: float) -> None:
        """A renewal that was sent at `sent` has been answered."""
        told = super().value
        self._until, self._until_wall = sent + seconds, sent_wall_ns + int(seconds * 1e9)
        if told != epoch:
            self.set(epoch)

    def end(self) -> bool:
        """It is over: everybody is told. Whether that is news."""
        self._until = float("-inf")
        news = super().value is not None
        if news:
            self.set(None)
        return news
