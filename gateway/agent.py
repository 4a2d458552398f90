"""A gateway process: what the agent tells becomes its Envoy's configuration, and the agent learns where it is reached.

Arrive: exports, peers and the imports that are led through the gateway; the names that Envoy asks for, and what it
counts. Leave: snapshots (by way of gateway.build), Presence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from federation import __version__, log
from federation.aio.clock import Clock, SystemClock
from federation.envoy.ledger import Changes
from federation.envoy.names import INBOUND
from federation.envoy.process import open_files
from federation.envoy.traffic import PATTERN, Traffic
from federation.errors import TimedOut, Unavailable
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.record import Kind
from federation.model.view import View
from federation.model.wire import gateway_to_pb, problem_to_pb
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2
from federation.registry.edge.measures import gauge
from federation.registry.edge.runtime import Edge
from federation.registry.edge.serve import serve as edge_serve
from federation.trust.workload import Grant
from federation.xds.snapshot import Resource, TypeUrl
from gateway.asked import Asked
from gateway.build import Builder, GatewayConfig
from gateway.called import Called
from gateway.settings import GatewaySettings

ANNOUNCE_SECONDS = 1.0
"""Between the announcement and the first word to who is connected: those who come anew then go elsewhere."""

DRAIN_MARGIN = 5.0
"""Seconds for which the cluster of a replaced listener outlasts the connections that this one had."""


class GatewayPart:
    """The gateway's side of an Edge."""

    def __init__(self, settings: GatewaySettings, edge: Edge) -> None:
        self._settings, self._edge = settings, edge
        self.asked = asked = Asked(limit=settings.names_limit, refused_limit=settings.refused_limit)
        self.called = called = Called(
            idle_seconds=settings.egress_idle_seconds, drain_seconds=settings.drain_seconds + DRAIN_MARGIN
        )
        self._builder: Builder | None = None
        for name, text, value in (
            ("isthmus_gateway_egress_listeners", "Ports for workloads without a sidecar", self._listening),
            (
                "isthmus_gateway_egress_called",
                "Those of them that are called",
                lambda: float(called.count),
            ),
            ("isthmus_gateway_names_served", "What Envoy asked for and has", lambda: float(asked.served)),
            ("isthmus_gateway_names_refused", "What Envoy asked for in vain", lambda: float(asked.refused)),
        ):
            gauge(edge.registry, name, text, value)

    def update(self, view: View, grant: Grant, changed: Collection[ServiceName] | None) -> Changes:
        """See Part."""
        if self._builder is None:
            self._builder = Builder(
                GatewayConfig(
                    cluster=grant.cluster,
                    trust_domain=grant.bundle.trust_domain,
                    suffix=self._settings.suffix,
                    address=self._settings.bind,
                    port=self._settings.listen_port,
                    identity=grant.svid,
                    egress_address=self._settings.egress_bind,
                    most_listeners=self._most_listeners(),
                ),
                called=self.called,
                finish=Resource.of,
            )
        asked = self.asked
        changes = self._builder.update(
            view, asked=asked.names, silent=asked.silent, changed=changed, identity=grant.svid
        )
        asked.settle(self._builder.take_moved())
        self._tell_left_out(len(self._builder.egress.left_out))
        return changes

    def _listening(self) -> float:
        return float(self._builder.egress.listening) if self._builder is not None else 0.0

    def _most_listeners(self) -> int:
        """Each has a socket for each worker; half of what Envoy may open is left to connections."""
        return open_files() // 2 // self._settings.envoy.concurrency

    def _tell_left_out(self, imports: int) -> None:
        if not imports:
            self._edge.problems.clear("file_limit", "egress")
            return
        self._edge.problems.set(
            "file_limit",
            "egress",
            f"{imports} imports have no port here: Envoy may open {open_files()} files, half of them for listeners,"
            f" each of which takes {self._settings.envoy.concurrency}; raise the hard limit (ulimit -Hn, LimitNOFILE=)",
        )

    def presence(self, problems: tuple[Problem, ...]) -> pb.Presence:
        """See Part."""
        return pb.Presence(
            role=pb.Presence.GATEWAY_PROCESS,
            name=self._settings.name,
            version=__version__,
            gateway=self._announced(),
            problems=map(problem_to_pb, problems),
        )

    def _announced(self) -> records_pb2.Gateway | None:
        """Nothing before Envoy listens: peers would call in vain. Draining when it cannot: they look elsewhere."""
        if not self._edge.server.acked.value:
            return None
        draining = self._edge.draining or bool(self._refused())
        return gateway_to_pb(self._settings.announced(draining=draining))

    def _refused(self) -> str:
        """Why Envoy has not opened the port for peers, where it has said so."""
        nack = self._edge.server.nacks.get((TypeUrl.LISTENER, INBOUND))
        return nack.detail if nack is not None else ""

    def changed(self, imports: set[ServiceName], absent: Iterable[str]) -> None:
        """See Part. Everything follows from the view at the next publish."""

    def missing(self) -> str:
        """See Part."""
        refused = self._refused()
        return f"envoy cannot listen for peers: {refused}" if refused else ""

    async def start(self) -> dict[str, int]:
        """See Member: Envoy opens all ports."""
        return {}

    async def run(self) -> None:
        """See Member: announce the gateway when it is open, then look at what is used; all else is a callback."""
        acked = self._edge.server.acked
        while not acked.value:
            await acked.newer(acked.version)
        self._edge.client.announce()
        await self._sweep()

    async def _sweep(self) -> None:
        """What workloads without a sidecar do not call any more is given up."""
        edge, traffic = self._edge, Traffic()
        pause = min(30.0, self._settings.egress_idle_seconds / 4)
        while True:
            await edge.clock.sleep(pause)
            if not self.called.busy:
                continue
            try:
                used = traffic.used(await edge.envoy.admin.stats(PATTERN))
            except (Unavailable, TimedOut):
                continue  # nobody can tell what is used: nothing is given up
            if self.called.sweep(used, edge.clock.monotonic()):
                edge.publisher.poke()

    async def drain(self) -> None:
        """See Member: peers hear of it first; what comes all the same is served, and what runs may end."""
        edge, seconds = self._edge, self._settings.drain_seconds
        edge.log.info("draining", seconds=seconds)
        edge.draining = True
        edge.client.announce()
        await edge.clock.sleep(min(ANNOUNCE_SECONDS, seconds))
        await edge.envoy.drain(seconds, quiet=self._settings.drain_quiet_seconds)
        edge.log.info("drained")

    async def close(self) -> None:
        """See Member."""

    def demanded(self, kind: TypeUrl, names: frozenset[str]) -> None:
        """See Part. Only what could be no name is refused here; the builder answers for all others."""
        self._edge.log.debug("wanted on demand", kind=kind.label, names=sorted(names))
        if kind is not TypeUrl.CLUSTER:
            self._edge.server.refuse(kind, names)
            return
        self.asked.ask(names)
        self.called.ask(names)
        self._edge.publish_now()
        made = self._edge.server.snapshot.table(TypeUrl.CLUSTER)
        self._edge.server.refuse(kind, [name for name in names if name not in made])


async def serve(settings: GatewaySettings, *, clock: Clock | None = None) -> None:
    """Run a gateway until SIGTERM or SIGINT; then announce it, drain Envoy, say goodbye.

    Raises an IsthmusError for what keeps it from starting.
    """
    await edge_serve(
        settings,
        kinds=(Kind.EXPORT, Kind.IMPORT, Kind.PEER),
        names=lambda _: None,
        make=lambda edge: GatewayPart(settings, edge),
        drain_seconds=settings.drain_seconds,
        clock=clock or SystemClock(),
        log=log.get("gateway"),
    )
