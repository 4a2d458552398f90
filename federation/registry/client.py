"""Keeps a sink in step with a server (WatchClient), or a server with a log (PublishClient), for as long as it takes.

Arrives: how to connect, and the sink or the log. Leaves: `Changes` to a callback; Acks, names, presence to the server.
Both reconnect without end, with capped backoff, resume where they were, notice a stream that is only half open, and at
a change of credentials make the new channel before they drop the old. Light: grpc, protobuf and the catalogue only.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc

from federation.aio.backoff import Backoff
from federation.aio.clock import Clock, SystemClock
from federation.aio.tasks import cancel
from federation.catalog.replica import Changes, Farewell, Log, OutOfStep, Sink, Source
from federation.errors import IsthmusError, TimedOut, Unavailable
from federation.log import Logger
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry.publish import Rejection
from federation.registry.pump import Pump, Ticker
from federation.registry.status import from_rpc_error

WATCH = "/federation.v1.Catalog/Watch"
PUBLISH = "/federation.v1.Catalog/Publish"

HEARTBEATS = 3
"""A server that was silent for so many heartbeats is gone."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
)
"""For the channels that `connect` makes. The pool of its own keeps an old connection from being used again."""

PUBLISH_FRAME_BYTES = 32 * 1024
"""The owner checks every record of a frame before anything else gets its turn: some 300 at a time."""

Connect = Callable[[], Awaitable[Any]]


class _Client:
    """What both clients share: the loop that connects, the watchdog, and the change of credentials."""

    def __init__(
        self,
        *,
        connect: Connect,
        backoff: Backoff | None,
        clock: Clock | None,
        log: Logger | None,
        patience: float,
        what: str,
        on_failed: Callable[[IsthmusError], None],
    ) -> None:
        self._connect, self._what, self._on_failed = connect, what, on_failed
        self._backoff = backoff or Backoff(base=0.1, cap=5.0)
        self._clock = clock or SystemClock()
        self._log = log
        self._patience = patience
        self._renewed = asyncio.Event()
        self._left = asyncio.Event()
        self.connected = False
        """The stream is open and the other end has spoken."""
        self.last_seen: float | None = None
        """Monotonic seconds of the clock, of the last frame."""
        self.last_error: IsthmusError | None = None
        """Why the last attempt failed; None while connected."""
        self.connections = 0

    async def run(self) -> None:
        """Connect, and connect again, until cancelled (or until the server has answered our Goodbye)."""
        channel: Any = None
        try:
            while True:
                delay = 0.0
                try:
                    if channel is None:
                        self._renewed.clear()
                        channel = await self._dial()
                    channel = await self._until_renewed(channel)
                    continue
                except Farewell as bye:
                    self._failed(bye)
                    if bye.error_code == "goodbye":  # the answer to ours
                        self._left.set()
                        return
                    delay = bye.retry_after or self._backoff.next()
                except IsthmusError as error:
                    self._failed(error)
                    delay = self._backoff.next()
                await _close(channel)
                channel = None
                await self._clock.sleep(delay)
        finally:
            self.connected = False
            await asyncio.shield(_close(channel))

    def reconnect(self) -> None:
        """The credentials were renewed: a new channel is made, then the old one is closed."""
        self._renewed.set()

    async def _dial(self) -> Any:
        try:
            return await self._connect()
        except IsthmusError:
            raise
        except (grpc.RpcError, OSError, TimeoutError) as error:
            raise Unavailable(f"no connection: {error}") from error

    async def _until_renewed(self, channel: Any) -> Any:
        """Serve on `channel` until it breaks (raises) or a newer one is ready (returned; the old one is closed)."""
        session = asyncio.create_task(self._guarded(channel), name=f"{type(self).__name__}-session")
        renewal = asyncio.create_task(self._replacement(), name=f"{type(self).__name__}-renewal")
        newer: Any = None
        try:
            await asyncio.wait({session, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if renewal.done():
                newer = renewal.result()
                return newer
            session.result()
            raise Unavailable("the stream ended")
        finally:
            await cancel(renewal)
            await _ended(session)
            if newer is not None:
                await _close(channel)

    async def _replacement(self) -> Any:
        backoff = Backoff(base=0.2, cap=10.0)
        while True:
            await self._renewed.wait()
            self._renewed.clear()
            channel: Any = None
            try:
                channel = await self._dial()
                async with asyncio.timeout(self._patience):
                    await channel.channel_ready()
                ready, channel = channel, None
                return ready
            except (IsthmusError, TimeoutError):
                self._renewed.set()
            finally:
                await _close(channel)
            await self._clock.sleep(backoff.next())

    async def _guarded(self, channel: Any) -> None:
        """One session; what gRPC raises leaves as an IsthmusError."""
        self.connections += 1
        try:
            await self._session(channel)
        except Exception as caught:
            error = _first(caught)
            if isinstance(error, grpc.RpcError):
                raise from_rpc_error(error, what=self._what) from None
            if isinstance(error, (grpc.aio.UsageError, asyncio.InvalidStateError)):
                raise Unavailable(f"the stream broke: {error}") from None
            raise error from None

    async def _session(self, channel: Any) -> None:
        raise NotImplementedError

    def _heard(self) -> None:
        self.last_seen = self._clock.monotonic()
        if not self.connected:
            self.connected = True
            self.last_error = None
            if self._log is not None:
                self._log.info("connected")

    def _failed(self, error: IsthmusError) -> None:
        self.connected = False
        if self._log is not None and (self.last_error is None or self.last_error.error_code != error.error_code):
            self._log.warning("disconnected", code=error.error_code, detail=error.message)
        self.last_error = error
        self._on_failed(error)

    async def _read(self, call: Any, patience: float) -> bytes:
        """The next message; raises TimedOut when nothing comes for `patience` s, and the status of an ended stream."""
        try:
            async with asyncio.timeout(patience):
                raw = await call.read()
        except TimeoutError:
            raise TimedOut(f"nothing was heard for {patience:g} s", code="silent") from None
        if raw is grpc.aio.EOF:
            async with asyncio.timeout(patience):
                code = await call.code()
                if code is not grpc.StatusCode.OK:
                    raise grpc.aio.AioRpcError(
                        code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
                    )
            raise Unavailable("the other end closed the stream")
        self._heard()
        return bytes(raw)


class WatchClient(_Client):
    """Keeps `sink` in step. `connect` makes a channel (credentials included; CHANNEL_OPTIONS).

    `on_changes` is called for each update that changed something, and for each that says how far the sink is; it must
    not block. `presence` is asked for at the beginning of each stream and at `announce`. What was received counts as
    applied (`auto_ack`), until the owner first calls `applied`. `ack_delay` (seconds, least and most) spreads the Acks
    of many consumers. `patience` s: until the server has spoken first; afterwards three heartbeats. `what` is dialled,
    for errors; `on_failed` gets why a stream ended or none was made.
    """

    def __init__(
        self,
        *,
        connect: Connect,
        sink: Sink,
        on_changes: Callable[[Changes], None],
        presence: Callable[[], pb.Presence | None] = lambda: None,
        backoff: Backoff | None = None,
        clock: Clock | None = None,
        log: Logger | None = None,
        auto_ack: bool = True,
        ack_delay: tuple[float, float] = (0.05, 0.25),
        patience: float = 10.0,
        what: str = "the catalogue",
        on_failed: Callable[[IsthmusError], None] = lambda _: None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        super().__init__(
            connect=connect, backoff=backoff, clock=clock, log=log, patience=patience, what=what, on_failed=on_failed
        )
        self.sink = sink
        self._on_changes = on_changes
        self._presence = presence
        self._auto_ack = auto_ack
        self._ack_delay = ack_delay
        self._uniform = uniform
        self._wake = asyncio.Event()
        self._announce = False
        self._leave = False
        self._applied = sink.replica.revision
        self._ack_due: float | None = None

    def subscribe(self, names: Iterable[str]) -> None:
        """Follow IMPORT records by name; the answer comes as Changes (put or absent)."""
        self.sink.subscribe(names)
        self._wake.set()

    def unsubscribe(self, names: Iterable[str]) -> None:
        """No longer follow these names; what was held of them is deleted at once."""
        changes = self.sink.unsubscribe(names)
        self._wake.set()
        if changes:
            self._on_changes(changes)

    def applied(self, revision: int) -> None:
        """Everything up to `revision` is in force here (for an edge: Envoy has acknowledged it); an Ack will say so."""
        self._auto_ack = False
        self._applied = revision
        self._ask_ack()

    def announce(self) -> None:
        """The presence changed: tell the server."""
        self._announce = True
        self._wake.set()

    async def goodbye(self, *, patience: float = 1.0) -> None:
        """Tell the server that this consumer leaves on purpose, and wait until it has heard; `run` returns then.

        Gives up after `patience` seconds, and at once while there is no connection.
        """
        self._leave = True
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience if self.connected else 0):
                await self._left.wait()

    def _ask_ack(self) -> None:
        if self._ack_due is None:
            delay = self._uniform(*self._ack_delay)
            loop = asyncio.get_running_loop()
            self._ack_due = loop.time() + delay
            loop.call_later(delay, self._wake.set)

    async def _session(self, channel: Any) -> None:
        call = channel.stream_stream(WATCH)()
        try:
            await call.write(self.sink.open().SerializeToString())
            stream = self.sink.stream
            self._announce = self._presence() is not None
            self._ack_due = None
            self._wake.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(call), name="watch-demands")
                await self._receive(call, stream)
        finally:
            call.cancel()

    async def _receive(self, call: Any, stream: int) -> None:
        patience = self._patience
        while True:
            raw = await self._read(call, patience)
            changes = self.sink.receive(raw, stream=stream)
            patience = HEARTBEATS * self.sink.heartbeat or self._patience
            if changes is None:
                continue
            self._backoff.reset()
            if self._auto_ack:
                self._applied = changes.revision
            self._ask_ack()
            self._on_changes(changes)

    async def _write(self, call: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            for demand in self.sink.demands():
                await call.write(demand.SerializeToString())
            if self._announce:
                self._announce = False
                presence = self._presence()
                if presence is not None:
                    await call.write(pb.Demand(presence=presence).SerializeToString())
            if self._leave:
                self._leave = False
                await call.write(pb.Demand(goodbye=pb.Goodbye(code="leaving")).SerializeToString())
            if self._ack_due is not None and loop.time() >= self._ack_due - 0.001:
                self._ack_due = None
                await call.write(pb.Demand(ack=pb.Ack(revision=self._applied)).SerializeToString())


class PublishClient(_Client):
    """Brings `log` to the server, which knows by the credentials whose it is.

    `on_rejections` gets what the server does not take. `acknowledged` is the newest revision of the log that the server
    has taken in, `on_ack` is called when it rises. `on_failed` as with WatchClient.
    """

    def __init__(
        self,
        *,
        connect: Connect,
        log_: Log,
        on_rejections: Callable[[tuple[Rejection, ...]], None] = lambda _: None,
        on_ack: Callable[[int], None] = lambda _: None,
        backoff: Backoff | None = None,
        clock: Clock | None = None,
        log: Logger | None = None,
        heartbeat: float = 5.0,
        write_timeout: float = 10.0,
        patience: float = 10.0,
        what: str = "the catalogue",
        on_failed: Callable[[IsthmusError], None] = lambda _: None,
    ) -> None:
        super().__init__(
            connect=connect, backoff=backoff, clock=clock, log=log, patience=patience, what=what, on_failed=on_failed
        )
        self.catalog = log_
        self.acknowledged = 0
        self._on_rejections = on_rejections
        self._on_ack = on_ack
        self._heartbeat = heartbeat
        self._write_timeout = write_timeout
        self._pump: Pump | None = None

    def announce(self) -> None:
        """Write what the log has got; it happens by itself after each change."""
        if self._pump is not None:
            self._pump.wake()

    async def _session(self, channel: Any) -> None:
        call = channel.stream_stream(PUBLISH)()
        unlisten: Callable[[], None] | None = None
        ticker = Ticker(min(self._heartbeat, self._write_timeout) / 4)
        try:
            source = Source(self.catalog, heartbeat_ms=int(self._heartbeat * 1000), frame_bytes=PUBLISH_FRAME_BYTES)
            self._receive(source, await self._read(call, self._patience))
            self._pump = pump = Pump(
                source, write=call.write, heartbeat=self._heartbeat, write_timeout=self._write_timeout
            )
            unlisten = self.catalog.listen(pump.wake)
            ticker.add(pump)
            async with asyncio.TaskGroup() as group:
                group.create_task(pump.run(), name="publish-updates")
                while True:
                    self._receive(source, await self._read(call, HEARTBEATS * self._heartbeat))
        finally:
            if self._pump is not None:
                ticker.discard(self._pump)
            self._pump = None
            if unlisten is not None:
                unlisten()
            call.cancel()

    def _receive(self, source: Source, raw: bytes) -> None:
        demand = pb.Demand.FromString(raw)
        body = demand.WhichOneof("body")
        if body == "goodbye":
            bye = demand.goodbye
            raise Farewell(bye.code or "going_away", bye.detail, bye.retry_after_ms / 1000)
        if body == "subscribe":
            source.receive(demand.subscribe)
        elif body == "ack":
            self._backoff.reset()
            if demand.ack.rejections:
                self._on_rejections(tuple(Rejection.from_pb(r) for r in demand.ack.rejections))
            if demand.ack.revision != self.acknowledged:
                self.acknowledged = demand.ack.revision
                self._on_ack(self.acknowledged)


def _first(error: BaseException) -> Any:
    """The error itself, or the first one inside a group that a TaskGroup made."""
    found: Any = error
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _ended(session: asyncio.Task[None]) -> None:
    """Cancel the session; its own failure was looked at before, or no longer matters."""
    with contextlib.suppress(IsthmusError):
        await cancel(session)


async def _close(channel: Any) -> None:
    if channel is not None:
        await channel.close()


__all__ = ["CHANNEL_OPTIONS", "OutOfStep", "PublishClient", "Rejection", "WatchClient"]
