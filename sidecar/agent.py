"""A sidecar process: global names by DNS, virtual addresses, and the Envoy that calls to them go through.

Arrive: look-ups, clusters that Envoy asks for, the agent's imports and peers. Leave: answers, snapshots (by way of
sidecar.build), subscriptions and Presence. What is in use is kept by sidecar.keeper.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from federation import __version__, log
from federation.aio.clock import Clock, SystemClock
from federation.aio.saver import Saver
from federation.dns import names
from federation.envoy.ledger import Changes
from federation.envoy.names import INBOUND, outbound_listener
from federation.envoy.traffic import PATTERN, Traffic
from federation.errors import CorruptState, IsthmusError, StorageFailed, TimedOut, Unavailable
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.record import Kind
from federation.model.service import Import, Locality
from federation.model.view import View
from federation.model.wire import problem_to_pb
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry.edge.measures import gauge
from federation.registry.edge.runtime import SAVE_INTERVAL, Edge
from federation.registry.edge.serve import serve as edge_serve
from federation.registry.edge.state import StateDirectory
from federation.trust.workload import Grant
from federation.xds.snapshot import Resource, TypeUrl
from sidecar.answers import Answers
from sidecar.build.inbound import Inbound
from sidecar.build.outbound import Builder, SidecarConfig
from sidecar.connections import services
from sidecar.demand import RECENT, Demand, State
from sidecar.intercept import redirect
from sidecar.intercept.clash import Listener, explain, find_clash, is_held, read_listeners
from sidecar.intercept.workload import LOOK, WorkloadPorts
from sidecar.keeper import Keeper, KeeperConfig
from sidecar.settings import SidecarSettings
from sidecar.vip import Range, VirtualAddresses
from sidecar.vm.checks.machine import State as Check
from sidecar.vm.registrar import Registrar


def networks(settings: SidecarSettings) -> Mapping[Range, str]:
    """The ranges of virtual addresses by their kind; the redirect way splits its range in two halves."""
    network = settings.network
    if settings.way == "loopback":
        return {Range.LOOPBACK: str(network)}
    opaque, http = network.subnets(prefixlen_diff=1)
    return {Range.REDIRECT_OPAQUE: str(opaque), Range.REDIRECT_HTTP: str(http)}


def inbound(settings: SidecarSettings) -> Inbound | None:
    """Where callers of the workload come to; None where it serves nobody."""
    at = settings.inbound
    return Inbound(address=at.address, port=at.port, callers=at.callers) if at is not None else None


def open_addresses(settings: SidecarSettings, state: StateDirectory, clock: Clock) -> VirtualAddresses:
    """The virtual addresses of the last run; a damaged file is left behind, and hashing brings most of them back."""
    path = state.path / "addresses"
    try:
        return VirtualAddresses.open(path, networks=networks(settings), clock=clock)
    except (CorruptState, StorageFailed) as error:
        log.get("sidecar").warning("kept virtual addresses cannot be used", error=str(error))
        return VirtualAddresses(path, networks=networks(settings), clock=clock)


class SidecarPart:
    """The sidecar's side of an Edge, and what the keeper needs of it (sidecar.keeper.Outside)."""

    def __init__(self, settings: SidecarSettings, edge: Edge, vips: VirtualAddresses, answers: Answers) -> None:
        self._settings, self._edge, self._vips, self._answers = settings, edge, vips, answers
        self._builder: Builder | None = None
        self._serving = False
        suffix = settings.suffix
        self.registrar = self._registrar() if settings.services else None
        self._ports = WorkloadPorts(settings.listens, keep=settings.left_seconds, clock=edge.clock)
        self.keeper = Keeper(
            demand=Demand(
                limit=settings.names_limit,
                absent_limit=settings.absent_limit,
                idle=settings.idle_seconds,
                absent_for=settings.absent_seconds,
            ),
            vips=vips,
            table=answers.table,
            outside=self,
            config=KeeperConfig(suffix=suffix, redirect=settings.way == "redirect"),
            clock=edge.clock,
            log=edge.log,
        )
        answers.miss = self.keeper.look_up
        answers.branch = lambda name: names.is_branch(name, suffix=suffix, clusters=self.clusters())
        self._saver = Saver(
            edge.state.path / "addresses",
            vips.dump,
            interval=SAVE_INTERVAL,
            clock=edge.clock,
            on_result=self._saved(edge.state.path / "addresses"),
        )
        self._ports_saver = Saver(
            edge.state.path / "ports",
            self._ports.dump,
            interval=SAVE_INTERVAL,
            clock=edge.clock,
            on_result=self._saved(edge.state.path / "ports"),
        )
        for state in State:
            gauge(
                edge.registry,
                f"isthmus_sidecar_names_{state.value}",
                f"Names that are {state.value}",
                lambda s=state: float(self.keeper.count(s)),  # type: ignore[misc]
            )

    # --- Part

    def update(self, view: View, grant: Grant, changed: Collection[ServiceName] | None) -> Changes:
        """See Part."""
        if self._builder is None:
            ranges = networks(self._settings)
            self._builder = Builder(
                SidecarConfig(
                    way=self._settings.way,
                    cluster=grant.cluster,
                    suffix=self._settings.suffix,
                    identity=grant.svid,
                    locality=Locality(self._settings.locality.region, self._settings.locality.zone),
                    outbound_port=self._settings.outbound_port,
                    http_range=ranges.get(Range.REDIRECT_HTTP, "240.72.0.0/13"),
                    tcp_range=ranges.get(Range.REDIRECT_OPAQUE, "240.64.0.0/13"),
                    inbound=inbound(self._settings),
                ),
                finish=Resource.of,
            )
        if self._vips.dirty:
            self._saver.touch()
        moved = self.keeper.take_changed()
        return self._builder.update(
            view,
            self.keeper.in_use,
            changed=None if changed is None else moved.union(changed),
            identity=grant.svid,
            workloads=self.registrar.served() if self.registrar is not None else (),
        )

    def presence(self, problems: tuple[Problem, ...]) -> pb.Presence:
        """See Part."""
        return pb.Presence(
            role=pb.Presence.SIDECAR,
            name=self._settings.name,
            version=__version__,
            problems=map(problem_to_pb, problems),
            via_gateway=map(str, self.keeper.via_gateway()),
            workloads=self.registrar.workloads() if self.registrar is not None else pb.Workloads(),
        )

    def changed(self, imports: set[ServiceName], absent: Iterable[str]) -> None:
        """See Part."""
        self.keeper.changed(imports, absent)

    def demanded(self, kind: TypeUrl, wanted: frozenset[str]) -> None:
        """See Part."""
        unknown = self.keeper.demanded(wanted) if kind is TypeUrl.CLUSTER else list(wanted)
        self._edge.publish_now()
        if unknown:
            self._edge.server.refuse(kind, unknown)

    def missing(self) -> str:
        """See Part."""
        if not self._serving:
            return "names are not answered yet"
        nack = self._edge.server.nacks.get((TypeUrl.LISTENER, INBOUND))
        return f"envoy cannot listen for the workload's callers: {nack.detail}" if nack is not None else ""

    # --- Member

    async def start(self) -> dict[str, int]:
        """See Member. Raises Unavailable when the DNS port is taken."""
        if self._settings.intercept and self._settings.way == "redirect":
            await asyncio.to_thread(redirect.apply, self._redirect)
        if self._settings.way == "loopback":
            self._ports.open(self._edge.state.path / "ports", self._edge.log)
            self._look_at_ports()
        self.keeper.restore()
        if self.registrar is not None:
            self.registrar.start()
        port = await self._answers.start()
        self._serving = True
        return {"dns": port}

    async def run(self) -> None:
        """See Member."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.keeper.run(), name="keeper")
            group.create_task(self._saver.run(), name="addresses-saver")
            group.create_task(self._sweep(), name="sweep")
            if self._settings.way == "loopback":
                group.create_task(self._ports_saver.run(), name="ports-saver")
                group.create_task(self._follow_ports(), name="ports")
            if self.registrar is not None:
                group.create_task(self.registrar.run(), name="registrar")
            group.create_task(self._answers.run(), name="upstream-file")

    async def drain(self) -> None:
        """See Member: who calls what is registered here gets time to go elsewhere; else nothing is waited for."""
        if self.registrar is not None and self.registrar.drain():
            await self._edge.clock.sleep(self._settings.drain_seconds)

    async def close(self) -> None:
        """See Member."""
        self._serving = False
        await self._answers.close()
        if self.registrar is not None:
            await self.registrar.close()
        await self._saver.flush()
        await self._ports_saver.flush()
        if self._settings.intercept and self._settings.way == "redirect":
            await asyncio.to_thread(redirect.remove, self._redirect)

    @property
    def _redirect(self) -> redirect.Redirect:
        return redirect.Redirect(network=str(self._settings.network), port=self._settings.outbound_port)

    def _registrar(self) -> Registrar:
        settings, edge = self._settings, self._edge
        made = Registrar(
            Path(settings.services),
            kept=edge.state.path / "services",
            agent=lambda: edge.renewer.current.agent_address,
            inbound_port=settings.inbound.port if settings.inbound is not None else None,
            listening=self._listening,
            locality=Locality(settings.locality.region, settings.locality.zone),
            problems=edge.problems,
            on_change=self._registered_anew,
            clock=edge.clock,
            log=edge.log,
        )
        down, text = "isthmus_sidecar_checks_down", "Checks of what is registered that do not pass"
        gauge(edge.registry, "isthmus_sidecar_checks", "Checks of what is registered", made.checker.count)
        gauge(edge.registry, down, text, lambda: made.checker.count(Check.DOWN))
        return made

    def _listening(self) -> bool:
        """Whether Envoy takes calls for what is registered."""
        server = self._edge.server
        return server.connected and bool(server.acked.value) and (TypeUrl.LISTENER, INBOUND) not in server.nacks

    def _registered_anew(self) -> None:
        self._edge.client.announce()
        if self._settings.inbound is not None:
            self._edge.publisher.poke()

    async def _sweep(self) -> None:
        pause = min(RECENT / 3, self._settings.idle_seconds / 4, self._settings.absent_seconds / 4)
        traffic = Traffic()
        while True:
            await self._edge.clock.sleep(pause)
            try:
                clusters = traffic.used(await self._edge.envoy.admin.stats(PATTERN))
            except (Unavailable, TimedOut):
                continue  # nobody can tell what is used: nothing is released
            self.keeper.sweep(services(clusters, self.keeper.uses()))

    async def _follow_ports(self) -> None:
        while True:
            await self._edge.clock.sleep(LOOK)
            self._look_at_ports()

    def _look_at_ports(self) -> tuple[Listener, ...]:
        """Who listens now; what is the workload's is remembered."""
        try:
            listeners = read_listeners()
        except StorageFailed as error:
            self._edge.log.warning("holders of ports cannot be looked for", error=str(error))
            return ()
        if self._ports.look(listeners):
            self._ports_saver.touch()
        return listeners

    def _saved(self, path: Path) -> Callable[[IsthmusError | None], None]:
        def told(error: IsthmusError | None) -> None:
            if error is None:
                self._edge.problems.clear("storage_failed", str(path))
            else:
                self._edge.problems.set("storage_failed", str(path), str(error))

        return told

    # --- Outside, for the keeper

    def find(self, service: ServiceName) -> Import | None:
        return self._edge.views.find(service)

    def clusters(self) -> Collection[str]:
        return self._edge.views.view.peers

    def subscribe(self, services: Iterable[ServiceName]) -> None:
        self._edge.client.subscribe(map(str, services))

    def unsubscribe(self, services: Iterable[ServiceName]) -> None:
        self._edge.client.unsubscribe(map(str, services))

    def publish(self, *, urgent: bool = False) -> int:
        return self._edge.publisher.poke(urgent=urgent)

    async def acknowledged(self, ticket: int, limit: float) -> bool:
        return await self._edge.publisher.wait(ticket, limit=limit)

    def clash(self, address: str, ports: Sequence[int]) -> str:
        """Why one of the ports cannot be had at the virtual address; empty when nothing is in the way."""
        held = [port for port in ports if is_held(address, port)]
        if not held:
            return next(filter(None, map(self._ports.why, ports)), "")
        listeners = self._look_at_ports()
        for port in held:
            found = find_clash(listeners, port, address)
            if found is not None:
                return explain(found)
        return f"port {held[0]} of {address} is held by another process"

    def rejected(self, address: str, ports: Sequence[int]) -> str:
        """Why Envoy could not listen there."""
        for port in ports:
            nack = self._edge.server.nacks.get((TypeUrl.LISTENER, outbound_listener(address, port)))
            if nack is not None and "in use" in nack.detail.lower():
                return f"port {port} of {address} is held by another process"
        return ""

    def told(self, clashes: dict[str, str]) -> None:
        self._edge.problems.replace("port_clash", clashes)
        self._edge.client.announce()


async def serve(settings: SidecarSettings, *, clock: Clock | None = None) -> None:
    """Run a sidecar until SIGTERM or SIGINT. Raises an IsthmusError for what keeps it from starting."""
    clock = clock or SystemClock()
    opened: list[VirtualAddresses] = []
    answers = Answers(settings, clock=clock, log=log.get("sidecar"))

    def in_use(state: StateDirectory) -> set[ServiceName]:
        opened.append(open_addresses(settings, state, clock))
        return {lease.service for lease in opened[0].in_use()}

    try:
        await edge_serve(
            settings,
            kinds=(Kind.IMPORT, Kind.PEER),
            names=in_use,
            make=lambda edge: SidecarPart(settings, edge, opened[0], answers),
            drain_seconds=1.0,
            clock=clock,
            log=log.get("sidecar"),
            meanwhile=answers.early(),
        )
    finally:
        await answers.close()  # where it never came to have an identity
