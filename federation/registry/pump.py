"""Moves the frames of one Source to one stream: the sending half of Watch at the server, of Publish at the client.

Arrives: `wake` when the log, the filter or the demands changed. Leaves: bytes, one frame in flight at a time; what
changes meanwhile coalesces, because the next frame is computed only when it can be written. No change waits for a
timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from federation.catalog.frames import goodbye_frame
from federation.catalog.replica import Source
from federation.errors import TimedOut


class SlowConsumer(TimedOut):
    """A frame could not be written in time; the consumer resumes when it can read again."""

    code = "slow_consumer"


class Pump:
    """Writes what `source` has to say by `write`; a write that lasts longer than `write_timeout` s raises SlowConsumer.

    After `heartbeat` seconds without a frame a Progress is sent, which proves that both ends hold the same.
    """

    __slots__ = ("_farewell", "_heartbeat", "_source", "_wake", "_write", "_write_timeout", "beat")

    def __init__(
        self,
        source: Source,
        *,
        write: Callable[[bytes], Awaitable[None]],
        heartbeat: float,
        write_timeout: float,
        beat: Callable[[], None] | None = None,
    ) -> None:
        self._source = source
        self._write = write
        self._heartbeat = heartbeat
        self._write_timeout = write_timeout
        self._wake = asyncio.Event()
        self._farewell: bytes | None = None
        self.beat = beat  # called at each heartbeat; may raise to end the stream

    def wake(self) -> None:
        self._wake.set()

    def close(self, code: str, detail: str = "", *, retry_after_ms: int = 0) -> None:
        """End the stream with a Goodbye as soon as the frame in flight is written."""
        if self._farewell is None:
            self._farewell = goodbye_frame(code, detail, retry_after_ms=retry_after_ms)
            self._wake.set()

    async def run(self) -> None:
        """Until `close`; raises SlowConsumer, and what `write` raises."""
        loop = asyncio.get_running_loop()
        next_beat = loop.time() + self._heartbeat
        while True:
            self._wake.clear()
            if self._farewell is not None:
                await self._send(self._farewell)
                return
            frame = self._source.next_update()
            if frame is not None:
                await self._send(frame)
                continue
            try:
                async with asyncio.timeout_at(next_beat):
                    await self._wake.wait()
            except TimeoutError:
                next_beat = loop.time() + self._heartbeat
                if self.beat is not None:
                    self.beat()
                progress = self._source.progress()
                if progress is not None:
                    await self._send(progress)

    async def _send(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._write(frame)
        except TimeoutError:
            raise SlowConsumer(f"a frame of {len(frame)} bytes was not taken in {self._write_timeout:g} s") from None
