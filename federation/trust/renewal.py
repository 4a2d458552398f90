"""Keeps a credential fresh: renews it around the middle of its life, for ever, and publishes the newest.

Arrives: a credential and a way to get another. Leaves: `Renewer.latest`, which servers and clients read at each use.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import IsthmusError
from federation.log import Logger
from federation.trust.svid import utc

_LONGEST_SLEEP = 60.0
"""Seconds; after each the wall clock is looked at again: a suspended machine or a corrected clock is noticed."""
_SHORTEST_RETRY = 0.2
"""Seconds."""
_JITTER = 0.1
"""Part of the life by which the middle is missed on purpose, so that a fleet does not renew at once."""
_RESERVE = timedelta(seconds=10)
"""What is left of a life when it is renewed, at least: on a busy machine the start of the process that makes keys, and
the agent's answer, may take as long. Where a life is short for that, a quarter of it passes all the same."""


class Expiring(Protocol):
    """A credential with a life: Svid, workload.Grant."""

    @property
    def issued_at(self) -> datetime: ...
    @property
    def not_after(self) -> datetime: ...


E = TypeVar("E", bound=Expiring)


class Renewer(Generic[E]):
    """Owns one credential. `latest` always holds one; whether it is still valid is told by `expires_in`."""

    def __init__(
        self,
        initial: E,
        renew: Callable[[], Awaitable[E]],
        *,
        clock: Clock,
        log: Logger,
        backoff: Backoff | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.latest: Latest[E] = Latest(initial)
        self.failures = 0  # in a row
        self._renew, self._clock, self._log = renew, clock, log
        self._backoff = backoff or Backoff(base=0.5, cap=30.0)
        self._uniform = uniform

    @property
    def current(self) -> E:
        return self.latest.value

    def expires_in(self) -> float:
        """Seconds until the newest credential is worthless; negative when it is."""
        return (self.current.not_after - utc(self._clock)).total_seconds()

    async def run(self) -> None:
        """Renew for ever; failures are retried without end, and `latest` keeps the old credential meanwhile."""
        while True:
            await self._until_due()
            await self._until_renewed()
            await self._clock.sleep(_SHORTEST_RETRY)  # even if what signs gives nothing that lives longer

    async def _until_renewed(self) -> None:
        while True:
            try:
                fresh = await self._renew()
            except (IsthmusError, OSError) as error:
                await self._failed(error)
                continue
            self.failures = 0
            self._backoff.reset()
            self.latest.set(fresh)
            self._log.info("identity renewed", expires=fresh.not_after.isoformat())
            return

    async def _failed(self, error: Exception) -> None:
        self.failures += 1
        left = self.expires_in()
        delay = self._backoff.next()
        if left > 0:  # what is left of the life must hold several attempts
            delay = min(delay, max(_SHORTEST_RETRY, left / 4))
        self._log.warning("identity not renewed", error=str(error), expires_in=round(left), retry_in=round(delay, 2))
        await self._clock.sleep(delay)

    async def _until_due(self) -> None:
        """Return around the middle of the life by the monotonic or by the wall clock, whichever comes first."""
        credential = self.current
        life = credential.not_after - credential.issued_at
        middle = life * self._uniform(0.5 - _JITTER, 0.5 + _JITTER)
        due = credential.issued_at + min(middle, max(life / 4, life - _RESERVE))
        remaining = (due - utc(self._clock)).total_seconds()
        # A wall clock that was set back must not keep us from renewing: never wait longer than the life itself.
        deadline = self._clock.monotonic() + min(remaining, life / timedelta(seconds=1))
        while True:
            left = min(deadline - self._clock.monotonic(), (due - utc(self._clock)).total_seconds())
            if left <= 0:
                return
            await self._clock.sleep(min(left, _LONGEST_SLEEP))


async def obtain(get: Callable[[], Awaitable[E]], *, clock: Clock, log: Logger, backoff: Backoff | None = None) -> E:
    """The first credential: tries for ever, since what signs may not be up yet.

    A refusal is retried too: the table that refuses may be corrected meanwhile.
    """
    delays = backoff or Backoff(base=0.2, cap=10.0)
    while True:
        try:
            return await get()
        except (IsthmusError, OSError) as error:
            delay = delays.next()
            log.warning("no identity yet", error=str(error), retry_in=round(delay, 2))
            await clock.sleep(delay)
