"""Serves one Envoy over delta ADS on a UNIX socket.

Arrives: snapshots (`publish`) and the client's requests. Leaves: responses, the names that are wanted on demand, the
newest acknowledged generation and what Envoy refuses. The rules are in `delta`; here are the socket, the tasks and the
clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from federation.aio.clock import Clock, SystemClock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.errors import InvalidInput, Unavailable
from federation.log import Logger, get
from federation.xds.consistency import ON_DEMAND, check
from federation.xds.delta import Session
from federation.xds.exchange import Nack, Request
from federation.xds.metrics import XdsMetrics
from federation.xds.snapshot import InconsistentSnapshot, Snapshot, TypeUrl

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_LONGEST_PATH = 107  # of a UNIX socket on Linux
_TIMINGS = 4096
_TICK = 0.25

Demand = Callable[[TypeUrl, frozenset[str]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a generation was published and when Envoy had acknowledged all of it; monotonic seconds."""

    generation: int
    published: float
    acked: float

    @property
    def seconds(self) -> float:
        return self.acked - self.published


class _Stream:
    """A session and the event that wakes its writer."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.wake = asyncio.Event()


class AdsServer:
    """The ADS end of one Envoy.

    `demand` is called with cluster names that Envoy asks for and the snapshot lacks: publish them, or `refuse` them;
    after `hold` seconds they are refused by themselves. Clusters whose names start with one of `on_demand` are sent to
    an Envoy only when it names them, never because of its wildcard. `static` are the clusters that stand in the
    bootstrap. What Envoy refuses is tried again every `retry_refused` seconds. Call everything from the event loop's
    thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        demand: Demand | None = None,
        on_demand: Sequence[str] = ON_DEMAND,
        static: Iterable[str] = (),
        hold: float = 5.0,
        retry_refused: float = 30.0,
        metrics: XdsMetrics | None = None,
        log: Logger | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._path = path
        self._demand = demand
        self._on_demand = tuple(on_demand)
        self._static = frozenset(static)
        self._hold = hold
        self._retry_refused = retry_refused
        self._metrics = metrics or XdsMetrics(None)
        self._log = log or get("xds")
        self._clock: Clock = clock or SystemClock()
        self._server: Any = None
        self._ticker: asyncio.Task[None] | None = None
        self._snapshot = Snapshot()
        self._generation = 0
        self._streams: list[_Stream] = []
        self._last: Session | None = None
        self._published: OrderedDict[int, float] = OrderedDict()
        self._timings: OrderedDict[int, Timing] = OrderedDict()
        self._nacks: dict[tuple[TypeUrl, str], Nack] = {}
        self._refused_at = 0.0
        self._due = asyncio.Event()  # something has to be done by the clock
        self.acked: Latest[int] = Latest(0)
        self.refused: Latest[int] = Latest(0)
        """How many resources Envoy refuses; set whenever `nacks` changes."""

    # The state that others look at.

    @property
    def path(self) -> Path:
        """The socket."""
        return self._path

    @property
    def connected(self) -> bool:
        """Whether an Envoy has a stream open."""
        return bool(self._streams)

    @property
    def synced(self) -> bool:
        """Whether the Envoy that is connected now has acknowledged the newest generation."""
        return bool(self._streams) and self._generation > 0 and self._streams[-1].session.acked >= self._generation

    @property
    def generation(self) -> int:
        """The newest generation; 0 before the first `publish`."""
        return self._generation

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot."""
        return self._snapshot

    @property
    def nacks(self) -> Mapping[tuple[TypeUrl, str], Nack]:
        """What Envoy refuses now, and why; it goes on with the last good version of each."""
        return MappingProxyType(self._nacks)

    def timing(self, generation: int) -> Timing | None:
        """When `generation` was published and acknowledged; None if it is not yet, or long ago (4,096 are kept)."""
        return self._timings.get(generation)

    def subscribed(self, kind: TypeUrl) -> frozenset[str]:
        """The names that Envoy has subscribed explicitly; for clusters: those in use on demand."""
        return self._streams[-1].session.named(kind) if self._streams else frozenset()

    # What the owner does.

    async def start(self) -> None:
        """Listen on the socket; raises InvalidInput (the path is too long) or Unavailable (it cannot be bound)."""
        if len(os.fsencode(self._path)) > _LONGEST_PATH:
            raise InvalidInput(
                f"the socket path {self._path} has more than {_LONGEST_PATH} bytes",
                hint="choose a shorter state directory",
            )
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", 64 << 20),
                ("grpc.max_send_message_length", -1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
            response_serializer=None,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {"DeltaAggregatedResources": handler}),)
        )
        try:
            server.add_insecure_port(f"unix:{self._path}")
            await server.start()
        except (RuntimeError, OSError) as error:
            raise Unavailable(f"cannot listen on {self._path}: {error}") from error
        self._server = server
        self._ticker = asyncio.create_task(self._tick(), name="xds-ticker")

    async def close(self) -> None:
        """End the stream and remove the socket; Envoy goes on with what it has."""
        ticker, self._ticker = self._ticker, None
        await cancel(ticker)
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace=None)
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def publish(self, snapshot: Snapshot) -> int:
        """Make `snapshot` what Envoy should have and return its generation; what did not change is not sent.

        Raises InconsistentSnapshot, and keeps the last good one, when a reference in it leads nowhere.
        """
        try:
            check(snapshot, on_demand=self._on_demand, static=self._static, previous=self._snapshot)
        except InconsistentSnapshot as error:
            self._metrics.inconsistent.inc()
            self._log.error("snapshot refused", reason=error.message, generation=self._generation)
            raise
        self._generation += 1
        self._snapshot = snapshot
        self._published[self._generation] = self._clock.monotonic()
        if len(self._published) > _TIMINGS:
            self._published.popitem(last=False)
        self._metrics.generation.set(self._generation)
        for stream in self._streams:
            stream.session.publish(self._generation, snapshot)
            stream.wake.set()
        self._observe()
        return self._generation

    def refuse(self, kind: TypeUrl, names: Iterable[str]) -> None:
        """Tell Envoy that `names`, which it asked for, do not exist. It stays subscribed: a later `publish` that has
        one of them sends it."""
        wanted = tuple(names)
        for stream in self._streams:
            stream.session.refuse(kind, wanted)
            stream.wake.set()
        self._observe()

    def retry(self, kind: TypeUrl | None = None, name: str | None = None) -> None:
        """Send again what Envoy refused (all, of one type, one): the cause may be gone, such as a port in use."""
        for stream in self._streams:
            stream.session.release(kind, name)
            stream.wake.set()
        self._observe()

    # The streams.

    async def _serve(self, _: Any, context: Any) -> None:
        session = Session(on_demand=self._on_demand, hold=self._hold, heir_of=self._last)
        stream = _Stream(session)
        if self._generation:
            session.publish(self._generation, self._snapshot)
        self._streams.append(stream)
        self._last = session
        self._metrics.connected.set(1)
        self._log.info("envoy connected", generation=self._generation)
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(stream, context), name="xds-writer")
                await self._read(stream, context)
                writer.cancel()
        finally:
            self._streams.remove(stream)
            self._observe()
            self._metrics.connected.set(1 if self._streams else 0)
            self._log.info("envoy disconnected", generation=self._generation)

    async def _read(self, stream: _Stream, context: Any) -> None:
        while True:
            message = await context.read()
            if message is grpc.aio.EOF:
                return
            request = self._parsed(message)
            if request is None:
                continue
            missing = stream.session.receive(request, now=self._clock.monotonic())
            stream.wake.set()
            self._observe()
            wanted = frozenset(name for name in missing if name.startswith(self._on_demand))
            if wanted and self._demand is not None:
                try:
                    self._demand(request.kind, wanted)
                except (
                    Exception
                ):  # the owner's fault must not end the stream; the names are refused when their time is over
                    self._log.exception("names on demand were not taken", names=sorted(wanted)[:10])

    def _parsed(self, message: Any) -> Request | None:
        try:
            kind = TypeUrl(message.type_url)
        except ValueError:
            self._log.warning("envoy asks for a type that is not served", type=message.type_url)
            return None
        error = message.error_detail.message if message.HasField("error_detail") else None
        if error is not None:
            self._metrics.nacks.labels(kind.label).inc()
            self._log.warning("envoy refused a response", type=kind.label, detail=error[:2000])
        return Request(
            kind=kind,
            subscribe=tuple(message.resource_names_subscribe),
            unsubscribe=tuple(message.resource_names_unsubscribe),
            initial_versions=dict(message.initial_resource_versions),
            nonce=message.response_nonce,
            error=error,
        )

    async def _write(self, stream: _Stream, context: Any) -> None:
        while True:
            response = stream.session.next()
            if response is None:
                stream.wake.clear()
                await stream.wake.wait()
                continue
            self._metrics.responses.labels(response.kind.label).inc()
            await context.write(response.encode())

    async def _tick(self) -> None:
        while True:
            await self._due.wait()  # an idle process does not wake up
            await self._clock.sleep(_TICK)
            self._due.clear()
            now = self._clock.monotonic()
            if self._nacks and now - self._refused_at >= self._retry_refused:
                self._refused_at = now
                self.retry()
            for stream in self._streams:
                if stream.session.waiting:
                    stream.session.tick(now)
                    stream.wake.set()
            self._observe()

    def _observe(self) -> None:
        """Bring `acked` and `nacks` up to the newest stream."""
        if not self._streams:
            return
        session = self._streams[-1].session
        now = self._clock.monotonic()
        if session.acked > self.acked.value:
            while self._published and next(iter(self._published)) <= session.acked:
                generation, published = self._published.popitem(last=False)
                self._timings[generation] = Timing(generation=generation, published=published, acked=now)
                self._metrics.seconds.observe(now - published)
            while len(self._timings) > _TIMINGS:
                self._timings.popitem(last=False)
            self._metrics.acked.set(session.acked)
            self.acked.set(session.acked)
        nacks = session.nacks
        if nacks.keys() - self._nacks.keys():
            self._refused_at = now
        for key in nacks.keys() - self._nacks.keys():
            self._log.error("resource quarantined", type=key[0].label, name=key[1], detail=nacks[key].detail[:2000])
        self._metrics.quarantine(self._nacks, nacks)
        changed, self._nacks = nacks != self._nacks, nacks
        if changed:
            self.refused.set(len(nacks))
        if nacks or any(stream.session.waiting for stream in self._streams):
            self._due.set()
