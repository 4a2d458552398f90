"""State files of the agent: written behind the events, at a bounded rate; what is damaged is put aside and rebuilt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from federation.aio.clock import Clock
from federation.aio.files import read_state, write_state
from federation.errors import CorruptState, IsthmusError
from federation.log import Logger
from federation.model.cluster import Problem


def read_or_none(path: Path, log: Logger) -> bytes | None:
    """The state at `path`; None where there is none or where it is damaged, which is logged and put aside."""
    try:
        return read_state(path)
    except CorruptState as error:
        set_aside(path, log, error)
    except IsthmusError as error:
        log.error("state unreadable", file=path.name, error=str(error))
    return None


def set_aside(path: Path, log: Logger, error: Exception) -> None:
    """Keep a damaged file beside itself as `<name>.corrupt`, for whoever wants to know why."""
    log.error("state damaged, rebuilding it", file=path.name, error=str(error))
    try:
        path.replace(path.with_name(path.name + ".corrupt"))
    except OSError as failure:
        log.warning("the damaged state stays", file=path.name, error=str(failure))


class Saver:
    """Writes `dump()` to `path` after `touch`, at most once per `interval` seconds, and once more at `flush`.

    `dump` runs in the event loop (it must see a consistent state); where it gives a function, that makes the bytes in
    the thread that also does the write and its fsync. A failed write keeps the old file, is reported in `problem` and
    tried again.
    """

    def __init__(
        self,
        path: Path,
        dump: Callable[[], bytes | Callable[[], bytes]],
        *,
        interval: float,
        clock: Clock,
        log: Logger,
        on_problem: Callable[[], None] = lambda: None,
    ) -> None:
        self._path, self._dump, self._interval = path, dump, interval
        self._clock, self._log, self._on_problem = clock, log, on_problem
        self._touched = asyncio.Event()
        self._writing = asyncio.Lock()
        self._written: bytes | None = None
        self.problem: Problem | None = None

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
            try:
                await asyncio.shield(write)
            except asyncio.CancelledError:
                await asyncio.wait({write})  # a thread cannot be cancelled; the next write must not meet it
                self._touched.set()
                raise
        except IsthmusError as error:
            self._touched.set()
            if self.problem is None:
                self._log.error("state not written", file=self._path.name, error=str(error))
                self.problem = Problem(error.error_code, self._path.name, error.message, self._clock.wall_ns())
                self._on_problem()
            return
        if self.problem is not None:
            self.problem = None
            self._on_problem()
