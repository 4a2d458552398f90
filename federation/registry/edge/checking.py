"""When the health checks of new names begin: while Envoy has nothing more urgent to do.

The first checks of a name cost Envoy's main thread a handshake for each gateway, and that thread also takes up new
names. So checks keep out of the way of look-ups: they begin when nobody has waited for Envoy for a moment, a few sets
of endpoints at a time, the next when Envoy has acknowledged those before. Look-ups without end do not hold them back
for ever. Until its checks begin, a gateway that is dead is found by pings, connect time-outs and outlier detection
alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.aio.tasks import first_of

POLL = 2.0
"""Seconds between two looks at whether Envoy has new sets of endpoints where it has acknowledged nothing meanwhile:
those of a cluster that it asked for by itself. A process that nobody asks for anything hardly wakes up."""
QUIET = 0.25
"""Seconds since somebody last waited for Envoy: look-ups come in bursts."""
PATIENCE = 10.0
"""Seconds for which look-ups that keep coming can hold checks back wholly."""
TOGETHER = 4
"""Sets that begin with one update, which costs as much as for one; their handshakes take some milliseconds."""
PAUSE = 0.2
"""Seconds between two beginnings, at least: 20 names a second, whatever waits."""
BUSY_PAUSE = 0.5
"""The same while look-ups keep coming and patience is over; then each begins alone."""
SHARE = 4
"""Of the time that an acknowledgement took, this many times as long is left to others."""
LIMIT = 1.0
"""Seconds for an acknowledgement; an Envoy that takes longer has other troubles."""


class Checking:
    """Paces the beginnings. `begin` sends the longest waiting sets of endpoints, at most so many, with checks.

    `begin` says whether there were any, `publish` then brings them to Envoy and returns a ticket for `acknowledged`.
    `hurried` is when somebody last began to wait for Envoy, in monotonic seconds of the clock; `news` what it has
    acknowledged.
    """

    def __init__(
        self,
        *,
        begin: Callable[[int], bool],
        publish: Callable[[], int],
        acknowledged: Callable[[int, float], Awaitable[bool]],
        hurried: Callable[[], float],
        news: Latest[int],
        clock: Clock,
    ) -> None:
        self._begin, self._publish, self._acknowledged = begin, publish, acknowledged
        self._hurried, self._news, self._clock = hurried, news, clock
        self._held_since: float | None = None

    async def run(self) -> None:
        """Forever."""
        while True:
            seen = self._news.version
            held = self._hold()
            if held > 0:
                await self._clock.sleep(held)
            elif self._begin(TOGETHER if (calm := self._held_since is None) else 1):
                began = self._clock.monotonic()
                await self._acknowledged(self._publish(), LIMIT)
                pause = PAUSE if calm else BUSY_PAUSE
                await self._clock.sleep(max(pause, SHARE * (self._clock.monotonic() - began)))
            else:
                await first_of(self._news.newer(seen), self._clock.sleep(POLL))

    def _hold(self) -> float:
        """Seconds for which nothing begins yet."""
        now = self._clock.monotonic()
        hurry = self._hurried() + QUIET - now
        if hurry <= 0:
            self._held_since = None
            return 0.0
        if self._held_since is None:
            self._held_since = now
        return max(0.0, min(hurry, self._held_since + PATIENCE - now))
