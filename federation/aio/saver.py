"""Keeps a state file near what is in memory: written behind the events, at a bounded rate, never two writes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from federation.aio.clock import Clock
from federation.aio.files import write_state
from federation.errors import IsthmusError


class Saver:
    """Writes `dump()` to `path` (checksummed, atomic) after `touch`, at most once per `interval` seconds.

    `dump` runs in the event loop (it must see a consistent state); where it gives a function, that makes the bytes in
    the thread that also does the write and its fsync. A failed write keeps the old file and is tried again.
    """

    def __init__(
        self,
        path: Path,
        dump: Callable[[], bytes | Callable[[], bytes]],
        *,
        interval: float,
        clock: Clock,
        on_result: Callable[[IsthmusError | None], None],
    ) -> None:
        """`on_result` is told of every write: its error, or None when it succeeded."""
        self._path, self._dump, self._interval, self._clock = path, dump, interval, clock
        self._on_result = on_result
        self._touched = asyncio.Event()
        self._writing = asyncio.Lock()

    def touch(self) -> None:
        """The state is another than the one on disk."""
        self._touched.set()

    async def run(self) -> None:
        """Write when touched, until cancelled."""
        while True:
            await self._touched.wait()
            await self.flush()
            await self._clock.sleep(self._interval)

    async def flush(self) -> None:
        """Write now what was touched."""
        async with self._writing:
            if self._touched.is_set():
                self._touched.clear()
                await self._write(self._dump())

    async def _write(self, data: bytes | Callable[[], bytes]) -> None:
        def encode_and_write() -> None:
            write_state(self._path, data if isinstance(data, bytes) else data())

        write = asyncio.ensure_future(asyncio.to_thread(encode_and_write))
        try:
            await asyncio.shield(write)
        except asyncio.CancelledError:
            await asyncio.wait({write})  # a thread cannot be cancelled; the next write must not meet it
            self._touched.set()
            raise
        except IsthmusError as error:
            self._touched.set()
            self._on_result(error)
        else:
            self._on_result(None)
