"""One blocking query after another: the thin driver of discovery.consul.blocking.

    ConsulClient.health, .services … ─ Answer ─→ judge ─→ take ─→ Blocking ─→ the next query

An answer that cannot be believed (discovery.consul.belief) is not taken, and the next one is asked of the leader.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from discovery.consul.belief import Doubt, doubt
from discovery.consul.blocking import Blocking
from discovery.consul.client import Answer
from discovery.consul.errors import ServerFailed, TooMany
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.errors import IsthmusError
from federation.log import Logger

_BUSY_SECONDS = 5.0


class Read(Protocol):
    """One read of an endpoint: at once with index 0, otherwise when there is something newer, or after `wait`."""

    def __call__(self, *, index: int, wait: float, stale: bool) -> Awaitable[Answer]: ...


class Watch:
    """`run` until cancelled. `take` gets every answer that is believed, and says whether its content differed from the
    last one; it may raise msgspec.MsgspecError. `tell` gets what is wrong with the reading, None when nothing is."""

    def __init__(
        self,
        read: Read,
        take: Callable[[Answer], bool],
        *,
        what: str,
        wait: float,
        stale: bool,
        max_stale: float,
        tell: Callable[[IsthmusError | Doubt | None], None],
        clock: Clock,
        log: Logger,
        rng: random.Random,
    ) -> None:
        self._read, self._take, self._what, self._tell = read, take, what, tell
        self._wait, self._stale, self._max_stale = wait, stale, max_stale
        self._clock, self._log = clock, log
        self._blocking = Blocking(now=clock.monotonic())
        self._backoff = Backoff(base=0.1, cap=5.0, uniform=rng.uniform)
        self._of_leader = False
        self.queries = 0
        """That were sent."""

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self.turn()

    async def turn(self) -> None:
        """One query, when it is due."""
        clock, blocking = self._clock, self._blocking
        ask = blocking.next()
        if (delay := ask.at - clock.monotonic()) > 0:
            await clock.sleep(delay)
        blocking.asked(now=clock.monotonic())
        self.queries += 1
        try:
            answer = await self._read(index=ask.index, wait=self._wait, stale=self._stale and not self._of_leader)
        except IsthmusError as error:
            self._failed(error)
            return
        reason = doubt(answer.meta, stale=self._stale, max_stale=self._max_stale)
        if reason is not None:
            self._of_leader = True  # it knows; where there is none, that is said plainly
            blocking.unbelieved(now=clock.monotonic())
            self._tell(reason)
            return
        try:
            changed = self._take(answer)
        except msgspec.MsgspecError as error:
            self._failed(ServerFailed(f"{self._what}: no answer that makes sense: {error}"))
            return
        self._of_leader = False
        self._backoff.reset()
        if blocking.answered(answer.meta.index, changed=changed, now=clock.monotonic()):
            self._log.info("the index went backwards: read anew", what=self._what, index=answer.meta.index)
        self._tell(None)

    def again(self) -> None:
        """The next query does not block."""
        self._blocking.reset()

    def _failed(self, error: IsthmusError) -> None:
        delay = self._backoff.next()
        if isinstance(error, TooMany):
            delay = max(delay, _BUSY_SECONDS)
        self._blocking.failed(at=self._clock.monotonic() + delay)
        self._tell(error)
