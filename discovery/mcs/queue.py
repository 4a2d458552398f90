"""Which names are to be looked at: each once, those that changed before those of a slow round, failed ones later.

No I/O. A name that is worked on is not handed out again before it is done; what happened meanwhile is not lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from federation.aio.clock import Clock
from federation.model.ids import ServiceName

_TICK = 0.02


class WorkQueue:
    """`add` and `later` put names in, `take` hands one out, `done` gives it back."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._urgent: dict[ServiceName, None] = {}
        self._slow: dict[ServiceName, None] = {}
        self._busy: set[ServiceName] = set()
        self._again: set[ServiceName] = set()
        self._due: dict[ServiceName, float] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._slow) + len(self._busy) + len(self._due)

    def add(self, names: Iterable[ServiceName], *, slow: bool = False, hurry: bool = True) -> None:
        """`hurry` ends the wait of names that failed: something else is wanted of them now."""
        for name in names:
            if name in self._due:
                if not hurry:
                    continue
                del self._due[name]
            if name in self._busy:
                self._again.add(name)
            elif slow and name not in self._urgent:
                self._slow[name] = None
            else:
                self._slow.pop(name, None)
                self._urgent[name] = None
        self._call()

    def later(self, name: ServiceName, seconds: float) -> None:
        """Hand it out again after this time. For a name that is worked on: not before it is done, either."""
        self._urgent.pop(name, None)
        self._slow.pop(name, None)
        self._again.discard(name)
        self._due[name] = self._clock.monotonic() + seconds
        self._timed.set()

    def looking(self, name: ServiceName) -> None:
        """Who has taken it looks at how it is now: what happened up to here is no reason to come again."""
        self._again.discard(name)

    async def take(self) -> ServiceName:
        """The next name; waits for one."""
        while True:
            for names in (self._urgent, self._slow):
                if names:
                    name = next(iter(names))
                    del names[name]
                    self._busy.add(name)
                    return name
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._call()  # it may have been this one's turn
                raise

    def take_more(self, most: int) -> list[ServiceName]:
        """Up to `most` that could be taken at once."""
        taken: list[ServiceName] = []
        for names in (self._urgent, self._slow):
            while names and len(taken) < most:
                name = next(iter(names))
                del names[name]
                self._busy.add(name)
                taken.append(name)
        return taken

    def _call(self) -> None:
        """Wake as many waiters as there are names."""
        for _ in range(len(self._urgent) + len(self._slow)):
            while self._waiters:
                waiter = self._waiters.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    break
            else:
                return

    def done(self, name: ServiceName) -> None:
        """The work on it has ended."""
        self._busy.discard(name)
        if name in self._again:
            self._again.discard(name)
            self.add((name,), hurry=False)

    async def run(self) -> None:
        """Bring up what is due, until cancelled."""
        while True:
            if not self._due:
                self._timed.clear()
                await self._timed.wait()
                continue
            now = self._clock.monotonic()
            due = [name for name, at in self._due.items() if at <= now and name not in self._busy]
            for name in due:
                del self._due[name]
            self.add(due)
            if self._due:
                await self._clock.sleep(max(_TICK, min(self._due.values()) - now))
