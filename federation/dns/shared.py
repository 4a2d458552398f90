"""Work that many wait for is done once: a bounded number of keys in flight, each with the callbacks that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Shared(Generic[K, V]):
    """Runs `work(key)` once for all who join while it runs. `work` must not raise: failure is a value.

    At most `most` keys are in flight, and at most `waiting` callbacks wait altogether. `close` cancels all; the
    callbacks are then not called.
    """

    def __init__(self, work: Callable[[K], Coroutine[Any, Any, V]], *, name: str, most: int, waiting: int) -> None:
        self._work, self._name, self._most, self._waiting = work, name, most, waiting
        self._callbacks: dict[K, list[Callable[[V], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0

    def join(self, key: K, done: Callable[[V], None]) -> bool:
        """Call `done` with the result when it is there. False: too much is in flight already, `done` is not called."""
        waiters = self._callbacks.get(key)
        if self._count >= self._waiting or (waiters is None and len(self._callbacks) >= self._most):
            return False
        self._count += 1
        if waiters is not None:
            waiters.append(done)
            return True
        self._callbacks[key] = [done]
        task = asyncio.get_running_loop().create_task(self._run(key), name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    @property
    def in_flight(self) -> int:
        """How many keys are being worked on."""
        return len(self._callbacks)

    async def close(self) -> None:
        """Cancel what runs and wait for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: K) -> None:
        try:
            value = await self._work(key)
        finally:
            waiters = self._callbacks.pop(key)
            self._count -= len(waiters)
        for done in waiters:
            done(value)
