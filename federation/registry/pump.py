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


class Ticker:
    """One timer for any number of pumps: time-outs of their own would cost more than the writing."""

    __slots__ = ("_handle", "_interval", "pumps")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._handle: asyncio.TimerHandle | None = None
        self.pumps: set[Pump] = set()

    def add(self, pump: Pump) -> None:
        self.pumps.add(pump)
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(self._interval, self._tick)

    def discard(self, pump: Pump) -> None:
        self.pumps.discard(pump)
        if not self.pumps and self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(self._interval, self._tick)
        now = loop.time()
        for pump in self.pumps:
            pump.tick(now)


class Pump:
    """Writes what `source` has to say by `write`; a write that lasts longer than `write_timeout` s raises SlowConsumer.

    Every `heartbeat` seconds in which there is nothing to write a Progress is sent, which proves that both ends hold
    the same. `tick` must be called a few times in each heartbeat (Ticker).
    """

    __slots__ = (
        "_deadline",
        "_due",
        "_error",
        "_farewell",
        "_heartbeat",
        "_loop",
        "_next_beat",
        "_slow",
        "_source",
        "_task",
        "_waiter",
        "_woken",
        "_write",
        "_write_timeout",
        "beat",
        "reason",
    )

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
        self._loop = asyncio.get_running_loop()
        self._woken = False
        self._waiter: asyncio.Future[None] | None = None  # an Event would cost more: there are thousands of pumps
        self._farewell: bytes | None = None
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._deadline: float | None = None  # while a frame is in flight
        self._slow = False
        self._due = False  # a heartbeat
        self._next_beat = self._loop.time() + heartbeat
        self.reason = ""  # the code that `close` was given
        self.beat = beat  # called at each heartbeat; may raise to end the stream

    def wake(self) -> None:
        self._woken = True
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def close(self, code: str, detail: str = "", *, retry_after_ms: int = 0) -> None:
        """End the stream with a Goodbye as soon as the frame in flight is written."""
        if self._farewell is None:
            self.reason = code
            self._farewell = goodbye_frame(code, detail, retry_after_ms=retry_after_ms)
            self.wake()

    def fail(self, error: Exception) -> None:
        """Let `run` raise `error` as soon as the frame in flight is written."""
        self._error = error
        self.wake()

    def tick(self, now: float) -> None:
        """Cut off a write that lasts too long; begin a heartbeat that is due."""
        if self._deadline is not None:
            if now > self._deadline and self._task is not None and not self._slow:
                self._slow = True
                self._task.cancel()
        elif now >= self._next_beat:
            self._next_beat = now + self._heartbeat
            self._due = True
            self.wake()

    async def run(self) -> None:
        """Until `close`; raises SlowConsumer, and what `write` and `beat` raise."""
        self._task = asyncio.current_task()
        source = self._source
        while True:
            self._woken = False
            if self._error is not None:
                raise self._error
            if self._farewell is not None:
                await self._send(self._farewell)
                return
            frame = source.next_update()
            if frame is None and self._due:
                self._due = False
                if self.beat is not None:
                    self.beat()
                frame = source.progress()
            if frame is not None:
                await self._send(frame)
            if not self._woken and not self._due and (source.caught_up or not source.subscribed):
                self._waiter = self._loop.create_future()
                await self._waiter

    async def _send(self, frame: bytes) -> None:
        self._deadline = self._loop.time() + self._write_timeout
        try:
            await self._write(frame)
        except asyncio.CancelledError:
            if not self._slow or self._task is None:
                raise
            self._task.uncancel()
            text = f"a frame of {len(frame)} bytes was not taken in {self._write_timeout:g} s"
            raise SlowConsumer(text) from None
        finally:
            self._deadline = None
