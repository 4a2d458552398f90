"""What a pod has sent that calls a name all the while (`clusters.caller`), read from its log.

Outcomes have the monotonic time of this machine, which all containers share: steps of a story can be told apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from clusters import caller
from clusters.load import Outcome
from clusters.waiting import START, until
from federation.errors import TimedOut

_LOOK = 0.2
"""Seconds between looks at a log."""


@dataclass(frozen=True, slots=True)
class Calls:
    """The requests of one calling pod."""

    read: Callable[[], Awaitable[str]]
    """Its log so far; raises Unavailable while it cannot be read."""

    async def outcomes(self) -> list[Outcome]:
        """All that have ended."""
        return caller.parse(await self.read())

    async def since(self, moment: float) -> list[Outcome]:
        """Those that began after `moment` (monotonic) and have ended."""
        return [one for one in await self.outcomes() if one.begin > moment]

    async def lost(self) -> list[Outcome]:
        """Those that failed after the first answer; before it the pod's names may not be known yet."""
        sent = await self.outcomes()
        first = next((i for i, one in enumerate(sent) if not one.error), len(sent))
        return failed(sent[first:])

    async def answered_by(self, *clusters: str, number: int = 20, seconds: float = START) -> list[Outcome]:
        """Wait until the last `number` requests were answered by one of `clusters`.

        All of them began after this call; returns everything that was sent meanwhile.
        """
        what = f"{number} answers on end of {' or '.join(clusters)}"
        return await self._settled(lambda one: one.cluster in clusters, number, seconds, what)

    async def refused(self, *, number: int = 20, seconds: float = START) -> list[Outcome]:
        """Wait until the last `number` requests, all begun after this call, have failed; returns these."""
        sent = await self._settled(lambda one: bool(one.error), number, seconds, f"{number} failures on end")
        return sent[-number:]

    async def _settled(self, good: Callable[[Outcome], bool], number: int, seconds: float, what: str) -> list[Outcome]:
        began, seen = time.monotonic(), list[Outcome]()

        async def settled() -> bool:
            nonlocal seen
            seen = await self.since(began)
            last = seen[-number:]
            if len(last) == number and all(map(good, last)):
                return True
            await asyncio.sleep(_LOOK)
            return False

        try:
            await until(settled, seconds=seconds, what=what)
        except TimedOut as error:
            raise TimedOut(f"{error.message}; the last ones: {seen[-3:]}") from error
        return seen


def failed(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those that failed."""
    return [one for one in outcomes if one.error]
