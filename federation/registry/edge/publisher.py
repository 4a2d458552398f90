"""Publishes snapshots to Envoy: the first change at once, and while one push is in flight the next ones coalesce.

Arrive: pokes ("something changed"), from any callback of the event loop. Leaves: at most one unacknowledged snapshot at
a time, each built from the newest state, and the revision of the view that Envoy has acknowledged, which only
rises within one history.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from federation.aio.clock import Clock, SystemClock
from federation.aio.latest import Latest
from federation.errors import IsthmusError
from federation.log import Logger

if TYPE_CHECKING:
    from federation.xds.snapshot import Snapshot

IN_FLIGHT_LIMIT = 1.0
"""Seconds after which an unacknowledged push no longer holds the next one back (a NACK never acknowledges)."""


class Server(Protocol):
    """What is asked of federation.xds.server.AdsServer."""

    acked: Latest[int]

    @property
    def connected(self) -> bool: ...
    def publish(self, snapshot: Snapshot) -> int: ...


@dataclass(frozen=True, slots=True)
class Built:
    """A snapshot, and the revision of the view that it was built from (a number within `history`)."""

    snapshot: Snapshot
    revision: int
    history: str = ""


@dataclass(frozen=True, slots=True)
class _Push:
    generation: int
    ticket: int
    revision: int
    history: str


class Publisher:
    """Owns the order of build, publish and acknowledge; `run` is its one task."""

    def __init__(
        self,
        *,
        build: Callable[[], Built],
        server: Server,
        on_acknowledged: Callable[[str, int], None],
        on_failure: Callable[[str | None], None],
        log: Logger,
        clock: Clock | None = None,
        in_flight_limit: float = IN_FLIGHT_LIMIT,
    ) -> None:
        """`on_acknowledged` gets the view's history and revision, `on_failure` a text, or None when building works."""
        self._build, self._server = build, server
        self._on_acknowledged, self._on_failure = on_acknowledged, on_failure
        self._log, self._limit = log, in_flight_limit
        self._clock = clock or SystemClock()
        self._wanted = 0
        self._published = 0
        self._urgent = False
        self._poked = asyncio.Event()
        self._moved = asyncio.Event()  # an acknowledgement or something urgent: a push in flight may be overtaken
        self._sent: deque[_Push] = deque()
        self._told = ("", -1)
        self.acknowledged: Latest[int] = Latest(0)  # newest ticket that Envoy has acknowledged
        self.pushes = 0
        self.hurried = float("-inf")
        """When somebody last began to wait for a push, in monotonic seconds of the clock."""

    def poke(self, *, urgent: bool = False) -> int:
        """Something changed. Returns a ticket for `wait`; calls within one turn of the loop share a push.

        `urgent`: somebody waits for it, so it does not wait for what is in flight.
        """
        self._wanted += 1
        self._poked.set()
        if urgent:
            self.hurried = self._clock.monotonic()
            self._urgent = True
            self._moved.set()
        return self._wanted

    def push_now(self) -> None:
        """Build and publish at once, whatever is in flight: for what Envoy itself asked for and holds a caller for."""
        self.poke(urgent=True)
        self._push()

    async def wait(self, ticket: int, *, limit: float) -> bool:
        """Whether Envoy acknowledges what was poked with `ticket` within `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                version = -1
                while True:
                    version, newest = await self.acknowledged.newer(version)
                    if newest >= ticket:
                        return True
        except TimeoutError:
            return False

    async def run(self) -> None:
        """Forever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_acks(), name="publisher-acks")
            group.create_task(self._push_all(), name="publisher-push")

    async def _push_all(self) -> None:
        while True:
            await self._poked.wait()
            await asyncio.sleep(0)  # whatever else this turn of the loop brings goes into the same push
            self._poked.clear()
            quicker = self._published == self._wanted  # `push_now`
            newest = self._sent[-1] if self._sent else None
            push = newest if quicker else self._push()
            if push is not None and self._server.connected:
                await self._in_flight(push)

    def _push(self) -> _Push | None:
        ticket, self._urgent = self._wanted, False
        try:
            built = self._build()
            generation = self._server.publish(built.snapshot)
        except IsthmusError as error:
            # The last good snapshot stays. Only what we foresaw: anything else is a bug and ends the process.
            self._on_failure(str(error))
            return None
        self._on_failure(None)
        self.pushes += 1
        self._published = ticket
        push = _Push(generation, ticket, built.revision, built.history)
        self._sent.append(push)
        self._settle(self._server.acked.value)
        return push

    async def _in_flight(self, push: _Push) -> None:
        try:
            async with asyncio.timeout(self._limit):
                while self._server.acked.value < push.generation and not self._urgent:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            self._log.warning("envoy has not acknowledged", generation=push.generation, seconds=self._limit)

    async def _follow_acks(self) -> None:
        version = -1
        while True:
            version, acked = await self._server.acked.newer(version)
            self._settle(acked)

    def _settle(self, acked: int) -> None:
        """Tell of the newest push that `acked` covers; older ones are covered by it."""
        self._moved.set()
        newest: _Push | None = None
        while self._sent and self._sent[0].generation <= acked:
            newest = self._sent.popleft()
        if newest is None:
            return
        # Read by scripts/bench propagation: the machine's processes share this clock.
        self._log.debug("envoy acknowledged", generation=acked, revision=newest.revision, at_ns=time.monotonic_ns())
        self.acknowledged.set(newest.ticket)
        history, revision = self._told
        if newest.history != history or newest.revision > revision:
            self._told = (newest.history, newest.revision)
            self._on_acknowledged(newest.history, newest.revision)
