"""When the next blocking query is sent, and with which index: the rules of Consul's HTTP API, without I/O.

An index that went down means that the servers are others, or were restored: begin anew from 0. An index below 1 would
not block: use 1. A return is no change: who reads says whether the content differed. Returns without a change draw from
a bucket that fills less than once a second, whatever the servers do to their indexes; a change gives some back, so that
what wakes a watch beside it does not slow it down.
"""

from __future__ import annotations

from dataclasses import dataclass

BURST = 6.0
"""Returns without a change that are answered by another query at once."""
REFILL = 0.5
"""Of those, a second."""
EARNED = 2.0
"""What a change gives back."""
LEAST = 0.02
"""Seconds between two queries, at least: what changes faster is read together."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Query with `index` (0: do not block) not before `at`, in monotonic seconds."""

    index: int
    at: float


class Blocking:
    """One endpoint that is watched."""

    def __init__(self, *, now: float) -> None:
        self._index = 0
        self._tokens, self._filled = BURST, now
        self._at = now
        self._asked = float("-inf")

    @property
    def index(self) -> int:
        """What was last seen; 0 before, and after it went backwards."""
        return self._index

    def next(self) -> Ask:
        """What to do now."""
        return Ask(self._index, self._at)

    def asked(self, *, now: float) -> None:
        """The query has been sent."""
        self._asked = now

    def answered(self, index: int, *, changed: bool, now: float) -> bool:
        """An answer with X-Consul-Index `index`, whose content differed from the last one, or not. Whether the index
        went backwards."""
        back = 0 < index < self._index
        self._index = 0 if back else max(index, 1)
        self._fill(now)
        if changed:
            self._tokens = min(BURST, self._tokens + EARNED)
            self._at = max(now, self._asked + LEAST)
        else:
            self._spend(now)
        return back

    def unbelieved(self, *, now: float) -> None:
        """An answer that does not count: whoever gave it has another history, so ask without an index."""
        self._index = 0
        self._fill(now)
        self._spend(now)

    def failed(self, *, at: float) -> None:
        """No answer; not before `at` again. The index stays: what was missed is what a server still knows."""
        self._at = at

    def reset(self) -> None:
        """Begin anew: what is held is not what was read last."""
        self._index = 0

    def _fill(self, now: float) -> None:
        self._tokens = min(BURST, self._tokens + (now - self._filled) * REFILL)
        self._filled = now

    def _spend(self, now: float) -> None:
        self._tokens -= 1.0
        wait = 0.0 if self._tokens >= 0 else -self._tokens / REFILL
        self._at = max(now + wait, self._asked + LEAST)
