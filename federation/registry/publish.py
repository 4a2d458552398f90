"""Takes in what one origin publishes: the server's half of Catalog/Publish, for one stream.

Arrives: Updates of one origin (the mTLS identity of the stream said which; never the payload). Leaves: `Changes` to the
owner, who answers with the records that it rejects; then an Ack, so that the origin knows what the owner has taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from federation.catalog.replica import Changes, Farewell, Log, OutOfStep, Sink
from federation.errors import IsthmusError
from federation.model.record import Kind, OriginState
from federation.proto.v1 import catalog_pb2 as pb

LONGEST_PAUSE = 1.0
"""Seconds between two signs of life to an origin that is made to wait."""
FIRST_FRAME = 10.0
"""Seconds until Hello must have come; after it, three heartbeats without a frame end the stream."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that the owner does not take: its code is stable, `detail` one line that says what to do."""

    kind: Kind
    name: str
    code: str
    detail: str

    def to_pb(self) -> pb.Rejection:
        return pb.Rejection(kind=self.kind.name, name=self.name, code=self.code, detail=self.detail)

    @classmethod
    def from_pb(cls, message: pb.Rejection) -> Rejection:
        return cls(Kind(message.kind), message.name, message.code, message.detail)


def _nothing(*_: Any) -> None:
    """A callback that nobody set."""


@dataclass(slots=True, kw_only=True)
class Intake:
    """How the owner takes in one origin. `sink` (with `origin` set) outlives the streams, so that they can resume.

    `on_changes` gets validated changes and returns what it rejects; it may raise an IsthmusError (QuotaExceeded …),
    which closes the stream with that code, and the origin's next stream begins with a snapshot. When `changes.complete`
    is not empty, `sink.replica` holds everything of the origin: take it from there (`relay` does). `on_alive` is called
    for every frame (renew the lease), `on_close` once, with the reason. `on_open` gets the function that ends a stream
    with a Goodbye (code, detail). `pause` is asked after every frame for the seconds until the next one may be read: an
    origin that claims too much too fast is slowed down by flow control.
    """

    sink: Sink
    on_changes: Callable[[Changes], Sequence[Rejection]]
    on_alive: Callable[[], None] = field(default=_nothing)
    on_close: Callable[[str], None] = field(default=_nothing)
    on_open: Callable[[Callable[..., None]], None] = field(default=_nothing)
    pause: Callable[[], float] = field(default=lambda: 0.0)


def relay(changes: Changes, sink: Sink, log: Log, *, rejected: Sequence[Rejection] = ()) -> None:
    """Bring `changes` of one origin into `log`, but for what is `rejected`."""
    refused = {(r.kind, r.name) for r in rejected}
    for origin in changes.origins:
        if origin.state is OriginState.GONE:
            log.set_origin(origin)
    for name in changes.complete:
        records = [r for r in sink.replica.records(origin=name) if (r.key.kind, r.key.name) not in refused]
        log.reset_origin(name, sink.replica.newest(name), records)
    rest = [r for r in changes.put if r.key.origin not in changes.complete]
    log.put(r for r in rest if (r.key.kind, r.key.name) not in refused)
    for key in changes.deleted:
        if key.origin not in changes.complete:
            log.delete(key, sink.replica.newest(key.origin))
    for r in rest:
        if (r.key.kind, r.key.name) in refused:
            log.delete(r.key, r.version)  # what it replaced would contradict what the origin now says


class PublishStream:
    """One stream of Catalog/Publish at the server."""

    def __init__(self, intake: Intake, context: Any, *, heartbeats: int, write_timeout: float) -> None:
        self._intake = intake
        self._context = context
        self._heartbeats = heartbeats
        self._write_timeout = write_timeout
        self._closing: asyncio.Timeout | None = None
        self._farewell: tuple[str, str, int] | None = None

    def close(self, code: str, detail: str = "", *, retry_after_ms: int = 0) -> None:
        """End the stream with a Goodbye."""
        self._farewell = (code, detail, retry_after_ms)
        if self._closing is not None:
            self._closing.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> str:
        """Until either end closes it; returns the reason."""
        sink = self._intake.sink
        demand = sink.open()
        stream = sink.stream
        await self._write(demand)
        while True:
            patience = self._heartbeats * sink.heartbeat if sink.heartbeat else FIRST_FRAME
            try:
                async with asyncio.timeout(patience) as self._closing:
                    if self._farewell is not None:
                        raise TimeoutError
                    raw = await self._context.read()
            except TimeoutError:
                code, detail, retry = self._farewell or ("silent", f"nothing was heard for {patience:g} s", 0)
                return await self._goodbye(code, detail, retry)
            finally:
                self._closing = None
            if raw is grpc.aio.EOF:
                return "closed"
            if sink.stream != stream:
                return await self._goodbye("superseded", "a newer stream of the same origin took over")
            try:
                rejections = self._take(raw, stream)
            except Farewell as bye:
                return bye.error_code
            except OutOfStep as error:
                return await self._goodbye(error.error_code, error.message)
            except IsthmusError as error:
                sink.resync()
                return await self._goodbye(error.error_code, str(error))
            if rejections is not None:
                await asyncio.sleep(0)  # first to those who wait for what has changed
                await self._write(sink.ack(rejections=[r.to_pb() for r in rejections]))
            while self._farewell is None and (pause := self._intake.pause()) > 0:
                await asyncio.sleep(min(pause, LONGEST_PAUSE))
                await self._write(sink.ack())  # the origin hears that it is waited for

    def _take(self, raw: bytes, stream: int) -> Sequence[Rejection] | None:
        intake = self._intake
        changes = intake.sink.receive(raw, stream=stream)
        intake.on_alive()
        if changes is None:
            return None
        # An overruled report is no change, and has to be refused each time that it comes.
        return intake.on_changes(changes) if changes or changes.complete or intake.sink.overruled else ()

    async def _goodbye(self, code: str, detail: str, retry_after_ms: int = 0) -> str:
        await self._write(pb.Demand(goodbye=pb.Goodbye(code=code, detail=detail, retry_after_ms=retry_after_ms)))
        return code

    async def _write(self, demand: pb.Demand) -> None:
        async with asyncio.timeout(self._write_timeout):
            await self._context.write(demand.SerializeToString())
