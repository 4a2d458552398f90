"""Serves the catalogue's streams: Watch (a log to many consumers) and Publish (one origin into the owner's log).

Arrives: gRPC streams of serialised messages. Leaves: frames of federation.catalog.source, shared as bytes between all
consumers at the same place. Who may connect, and what they see, the owner says by `offer` and `accept`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from federation.aio.clock import Clock, SystemClock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.catalog.replica import Log, Source, Visible, everything
from federation.catalog.source import anything
from federation.errors import InvalidInput, IsthmusError
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry.publish import Intake, PublishStream, _nothing
from federation.registry.pump import Pump, SlowConsumer, Ticker
from federation.registry.status import status_of, trailer

SERVICE = "federation.v1.Catalog"
HEARTBEATS = 3
"""A peer that was silent for so many heartbeats is gone."""

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.so_reuseport", 0),
)
"""For grpc.aio.server: a peer that is gone without a word is noticed in 30 s."""


@dataclass(slots=True, kw_only=True)
class Offer:
    """What one consumer gets. `visible` filters; a new predicate set in `refilter` takes over while the stream runs.
    `deniable`: as Source has it.

    The callbacks must not block: `on_ack` for each Ack, `on_presence` for each Presence, `on_names` with the names
    (added, dropped) of a subscription by name, `on_open` once, with the function that ends the stream with a Goodbye
    (code, detail), `on_close` once, with the reason.
    """

    log: Log
    visible: Visible = everything
    deniable: Callable[[str], bool] = anything
    refilter: Latest[Visible] | None = None
    on_ack: Callable[[pb.Ack], None] = field(default=_nothing)
    on_presence: Callable[[pb.Presence], None] = field(default=_nothing)
    on_names: Callable[[frozenset[str], frozenset[str]], None] = field(default=_nothing)
    on_open: Callable[[Callable[..., None]], None] = field(default=_nothing)
    on_close: Callable[[str], None] = field(default=_nothing)


class _Hub:
    """Wakes every stream over one log, once per turn of the event loop however many changes were made in it."""

    def __init__(self, log: Log, interval: float) -> None:
        self.ticker = Ticker(interval)
        self.pumps = self.ticker.pumps
        self._scheduled = False
        self._unlisten = log.listen(self._changed)

    def close(self) -> None:
        self._unlisten()

    def _changed(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._scheduled = False
        for pump in self.pumps:
            pump.wake()


class WatchStream:
    """One stream of Catalog/Watch at the server."""

    __slots__ = ("_clock", "_context", "_heard", "_offer", "_patience", "_source", "pump")

    def __init__(self, offer: Offer, context: Any, *, heartbeat: float, write_timeout: float, clock: Clock) -> None:
        self._offer = offer
        self._context = context
        self._clock = clock
        self._heard = clock.monotonic()
        self._patience = (HEARTBEATS + 1) * heartbeat
        visible = offer.refilter.value if offer.refilter is not None else offer.visible
        self._source = Source(offer.log, visible=visible, deniable=offer.deniable, heartbeat_ms=int(heartbeat * 1000))
        self.pump = Pump(
            self._source, write=context.write, heartbeat=heartbeat, write_timeout=write_timeout, beat=self._beat
        )

    async def run(self) -> str:
        """Until either end closes it; returns the reason. Raises SlowConsumer, InvalidInput."""
        helpers = [asyncio.create_task(self._read(), name="watch-demands")]
        if self._offer.refilter is not None:
            helpers.append(asyncio.create_task(self._refilter(self._offer.refilter), name="watch-refilter"))
        try:
            await self.pump.run()
        finally:
            for helper in helpers:
                await cancel(helper)
        return self.pump.reason

    def _beat(self) -> None:
        if self._clock.monotonic() - self._heard > self._patience:
            raise SlowConsumer(f"nothing was heard for {self._patience:g} s")

    async def _read(self) -> None:
        try:
            while (raw := await self._context.read()) is not grpc.aio.EOF:
                self._heard = self._clock.monotonic()
                self._demand(raw)
            self.pump.close("closed")
        except Exception as error:  # of the stream, or of the owner's callbacks: it is the stream's end
            self.pump.fail(error)

    def _demand(self, raw: bytes) -> None:
        try:
            demand = pb.Demand.FromString(raw)
        except DecodeError as error:
            raise InvalidInput(f"no Demand message: {error}", code="malformed_demand") from error
        body = demand.WhichOneof("body")
        if body == "subscribe":
            added, dropped = self._source.receive(demand.subscribe)
            if added or dropped:
                self._offer.on_names(added, dropped)
            self.pump.wake()
        elif body == "ack":
            self._offer.on_ack(demand.ack)
        elif body == "presence":
            self._offer.on_presence(demand.presence)
        elif body == "goodbye":
            self.pump.close("goodbye")

    async def _refilter(self, latest: Latest[Visible]) -> None:
        version = -1
        while True:
            version, visible = await latest.newer(version)
            self._source.refilter(visible)
            self.pump.wake()


class CatalogServicer:
    """Watch and, where `accept` is given, Publish, for a grpc.aio server.

    `offer` and `accept` authenticate the stream and raise IsthmusError (Denied …) to refuse it. `heartbeat` and
    `write_timeout` are seconds. `stop` says goodbye to everyone, with retry times spread over `spread` seconds.
    """

    def __init__(
        self,
        *,
        offer: Callable[[Any], Awaitable[Offer]],
        accept: Callable[[Any], Awaitable[Intake]] | None = None,
        clock: Clock | None = None,
        write_timeout: float = 10.0,
        heartbeat: float = 5.0,
        spread: float = 2.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._offer = offer
        self._accept = accept
        self._clock = clock or SystemClock()
        self._write_timeout = write_timeout
        self._heartbeat = heartbeat
        self._spread = spread
        self._uniform = uniform
        self._hubs: dict[Log, _Hub] = {}
        self._publishing: set[PublishStream] = set()
        self._stopping = False
        self.slow_consumers = 0

    def add_to(self, server: Any) -> None:
        """Register both methods; messages stay bytes."""
        handlers = {"Watch": grpc.stream_stream_rpc_method_handler(self._watch)}
        if self._accept is not None:
            handlers["Publish"] = grpc.stream_stream_rpc_method_handler(self._publish)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    @property
    def streams(self) -> int:
        """Streams of both kinds that are open now."""
        return len(self._publishing) + sum(len(hub.pumps) for hub in self._hubs.values())

    def stop(self) -> None:
        """Say Goodbye (going_away) on every stream; the clients come back after a time of their own."""
        self._stopping = True
        pumps: Iterable[Pump | PublishStream] = [p for hub in self._hubs.values() for p in hub.pumps]
        for stream in [*pumps, *self._publishing]:
            retry = int(1000 * self._uniform(0.05, max(0.05, self._spread)))
            stream.close("going_away", "the server stops", retry_after_ms=retry)

    async def _watch(self, _: Any, context: Any) -> None:
        try:
            offer = await self._offer(context)
        except IsthmusError as error:
            await _abort(context, error)
            return
        stream = WatchStream(
            offer, context, heartbeat=self._heartbeat, write_timeout=self._write_timeout, clock=self._clock
        )
        hub = self._hubs.get(offer.log)
        if hub is None:
            hub = self._hubs[offer.log] = _Hub(offer.log, min(self._heartbeat, self._write_timeout) / 4)
        hub.ticker.add(stream.pump)
        reason = "cancelled"
        try:
            if self._stopping:
                stream.pump.close("going_away", "the server stops", retry_after_ms=int(1000 * self._spread))
            offer.on_open(stream.pump.close)
            reason = await stream.run()
        except IsthmusError as error:
            reason = error.error_code
            self.slow_consumers += isinstance(error, SlowConsumer)
            await _abort(context, error)
        finally:
            hub.ticker.discard(stream.pump)
            if not hub.pumps:
                hub.close()
                self._hubs.pop(offer.log, None)
            offer.on_close(reason)

    async def _publish(self, _: Any, context: Any) -> None:
        assert self._accept is not None  # noqa: S101 - the method is registered only then
        try:
            intake = await self._accept(context)
        except IsthmusError as error:
            await _abort(context, error)
            return
        stream = PublishStream(intake, context, heartbeats=HEARTBEATS, write_timeout=self._write_timeout)
        self._publishing.add(stream)
        reason = "cancelled"
        try:
            if self._stopping:
                stream.close("going_away", "the server stops", retry_after_ms=int(1000 * self._spread))
            intake.on_open(stream.close)
            reason = await stream.run()
        except TimeoutError:
            reason = "slow_consumer"
        finally:
            self._publishing.discard(stream)
            intake.on_close(reason)


async def _abort(context: Any, error: IsthmusError) -> None:
    """End the stream with the error's status; a peer that does not even take that is cut off."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            await context.abort(status_of(error), error.message, trailing_metadata=trailer(error))
