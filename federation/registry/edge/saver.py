"""Keeps the last view on disk, so that the process starts and serves when the agent is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from federation.aio.clock import Clock
from federation.aio.files import write_state
from federation.errors import StorageFailed

PAUSE = 5.0
"""Seconds between two writes: the file may be this much older than what is served."""


class Saver:
    """Writes `dump()` to `path` (checksummed, atomic) some time after `touch`, in a thread; never two at once."""

    def __init__(
        self,
        path: Path,
        dump: Callable[[], bytes],
        *,
        clock: Clock,
        on_failure: Callable[[str | None], None],
        pause: float = PAUSE,
    ) -> None:
        """`on_failure` gets a text, or None when writing works again. What runs goes on either way."""
        self._path, self._dump, self._clock, self._pause = path, dump, clock, pause
        self._on_failure = on_failure
        self._touched = asyncio.Event()

    def touch(self) -> None:
        """What `dump` gives has changed."""
        self._touched.set()

    async def run(self) -> None:
        """Forever."""
        while True:
            await self._touched.wait()
            await self.flush()
            await self._clock.sleep(self._pause)

    async def flush(self) -> None:
        """Write now what has changed."""
        if not self._touched.is_set():
            return
        self._touched.clear()
        try:
            await asyncio.to_thread(write_state, self._path, self._dump())
        except StorageFailed as error:
            self._touched.set()
            self._on_failure(str(error))
        else:
            self._on_failure(None)
