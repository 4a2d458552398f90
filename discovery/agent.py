"""The agent of one cluster: its source, its report to the registry, its merged view, and who is served with it.

    source ─┬─ Report ── Publish → registry → Watch ── Replica ─┐
            └──────────────── ClusterView ←─────────────────────┘ ─┬─ ViewServer → gateways, sidecars
                                                                   └─ ClusterDns → every workload

Everything that happens between them happens in callbacks of one event loop: a change that the kernel reports leaves for
the registry and for the gateways in the same turn. What is on disk lets it start and serve with the registry away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from functools import partial

from discovery import gateways, metrics
from discovery.admin import AdminServer
from discovery.consul.cache import NEW
from discovery.consul.imports.writers import import_aliases, make_writers
from discovery.consul.lock import Locks, make_locks
from discovery.consumers import Consumers
from discovery.dns import ClusterDns
from discovery.doors import Doors
from discovery.folder import StateFolder
from discovery.identity.allow import AllowTable
from discovery.identity.server import IdentityServer
from discovery.join import EPOCH, KEYS
from discovery.kube.gateway_service import ServiceFront
from discovery.kube.replicas import Replicas, make_replicas
from discovery.mcs.derived import DerivedAllocations
from discovery.mcs.imports import Allocations, Allocator
from discovery.mcs.writer import make_writer
from discovery.membership import LEFT, Membership
from discovery.pins import Pins
from discovery.probe.prober import Prober
from discovery.problems import ProblemBook
from discovery.report import Report, changed_names, next_epoch
from discovery.serve import ViewServer
from discovery.settings import AgentSettings, addresses
from discovery.sources.base import Source, SourceState
from discovery.sources.combined import Part, combine
from discovery.sources.select import kubernetes_of, make_parts
from discovery.upstream import Upstream
from discovery.view import ClusterView
from discovery.vms.registration import Site
from discovery.vms.table import SEEN, VmTable
from discovery.vms.workloads import Workloads
from federation import __version__
from federation.aio.clock import Clock, SystemClock
from federation.aio.tasks import wait_for_signal
from federation.catalog.replica import Changes, Replica, Sink
from federation.log import Logger
from federation.metrics import MetricsServer
from federation.model.address import join_address, split_address
from federation.model.cluster import MOST_RANGES, Cluster
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId
from federation.model.record import Kind
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint
from federation.trust.grpc_credentials import (
    agent_server_name,
)
from federation.trust.pem import armour
from federation.trust.renewal import Renewer
from federation.trust.svid import Svid

VIEW, GATEWAYS, ALLOCATIONS, PINS, WORKLOADS = (
    "registry.view",
    "gateways.state",
    "allocations.state",
    "pins.state",
    "vms.services",
)

BEFORE = 1_000_000_000
"""Epochs are seconds: so far below the present one there is none of an agent that has read its source."""


class Agent:
    """Made with settings that were checked; `run` until it is cancelled."""

    def __init__(
        self, settings: AgentSettings, *, clock: Clock | None = None, log: Logger, source: Source | None = None
    ) -> None:
        """Reads the state directory. Raises NotFound (no cluster has joined there), Conflict (in use), CorruptState
        (keys), StorageFailed."""
        self.settings, self.clock, self.log = settings, clock or SystemClock(), log
        self.path = settings.path
        self.folder = StateFolder(self.path, clock=self.clock, log=log)
        self.started_ns = self.clock.wall_ns()
        self.authority = Authority.open(self.path / KEYS, trust_domain=settings.trust_domain, clock=self.clock)
        self.bundle = self.authority.bundle
        self.registry_bundle = self.folder.registry_bundle()
        self.epoch = next_epoch(self.path / EPOCH, clock=self.clock, log=log)
        self.problems = ProblemBook(self.clock)
        self.renewer: Renewer[Svid] = Renewer(self._issue(), self._renew, clock=self.clock, log=log)
        self.vms = VmTable(self.path, clock=self.clock, log=log)
        self.workloads = self._workloads()
        self.vms.listen(self.workloads.removed)
        given = [Part("files", source)] if source is not None else make_parts(settings, clock=self.clock, log=log)
        if settings.vms.listen or self.vms.vms:
            given.append(Part("vm", self.workloads, self.workloads.whence))
        self.parts = tuple(given)
        self.source: Source = combine(self.parts)
        self.kubernetes = kubernetes_of(self.parts)
        self.report = Report(cluster=settings.cluster, epoch=self.epoch, network=settings.network)
        self.pins = Pins(
            self.path / PINS, cluster=settings.cluster, federation=settings.federation, clock=self.clock, log=log
        )
        self.allocations = self._allocations()
        kinds = (Kind.CLUSTER, Kind.GATEWAY, Kind.SERVICE, Kind.LINK)
        self.sink = Sink(self._replica(), kinds=(*kinds, Kind.ENDPOINTS) if settings.network else kinds)
        self.consumers = Consumers(
            lease=settings.gateway_lease, memory=settings.consumer_memory, clock=self.clock, log=log
        )
        self._load_gateways()
        self.folder.keep(
            {
                VIEW: self.sink.replica.picture,
                GATEWAYS: self.consumers.dump,
                ALLOCATIONS: self.allocations.dump,
                SEEN: self.vms.dump_sights,
                WORKLOADS: self.workloads.dump,
            },
            # Gateways come and go seldom, and an agent that forgot one would withdraw it at its next start.
            interval=lambda name: min(settings.save, {GATEWAYS: 0.1, WORKLOADS: 1.0}.get(name, settings.save)),
            on_problem=lambda: self.problems.set("state", self.folder.problems()),
        )
        self.vms.on_seen = partial(self.folder.touch, SEEN)
        self.workloads.on_change = partial(self.folder.touch, WORKLOADS)
        self.problems.set("vms", [self.vms.problem] if self.vms.problem is not None else [])
        self.view = ClusterView(
            cluster=settings.cluster,
            federation=settings.federation,
            locality=settings.place,
            bundle=self.bundle,
            epoch=self.epoch,
            pins=self.pins,
            allocations=self.allocations,
            single_machine=settings.single_machine,
            network=settings.network,
            aliases=import_aliases(settings),
            clock=self.clock,
            log=log,
        )
        self.view.on_change = self._view_changed
        self.view.load(self.sink.replica)
        self.view.own_gateways(self.consumers.gateways.value)
        self.membership = Membership(self.path / LEFT, root=fingerprint(self.bundle), log=log)
        self.replicas: Replicas | None = make_replicas(
            settings,
            self.kubernetes or self.source,
            fallback=self.epoch,
            consumers=self.consumers,
            pins=self.pins,
            on_pins=self._repinned,
            membership=self.membership,
            vms=self.vms,
            workloads=self.workloads,
            anchor=armour(self.bundle.roots),
            on_problems=lambda found: self.problems.set("replicas", found),
            clock=self.clock,
            log=log,
        )
        self.locks: Locks | None = make_locks(
            settings,
            elects=self.replicas is None,
            fallback=self._fallback(),
            on_problems=lambda found: self.problems.set("locks", found),
            clock=self.clock,
            log=log,
        )
        self.election: Replicas | Locks | None = self.replicas or self.locks
        """By what this agent knows whether it is the one that reports; None: it is the only one."""
        self.writer = make_writer(
            settings,
            self.kubernetes or self.source,
            self.view,
            self.allocations,
            gateways=self.consumers.gateways,
            published=lambda name: self.publish.published(name),
            on_problems=lambda found: self.problems.set("writer", found),
            clock=self.clock,
            log=log,
            leader=self.replicas.leader if self.replicas is not None else None,
        )
        self.consul = make_writers(
            settings,
            self.view,
            self.locks.by_datacenter if self.locks is not None else None,
            gateways=self.consumers.gateways,
            source=self.source.state,
            on_problems=lambda found: self.problems.set("consul", found),
            clock=self.clock,
            log=log,
        )
        self.front = self._front()
        self._told = asyncio.Event()
        self.dns = self._dns() if settings.dns.listen else None
        if self.sink.replica.origins:
            self._registry_told()
        self.report.gateways(self.consumers.gateways.value)
        self.upstream = Upstream(
            settings,
            sink=self.sink,
            report=self.report,
            epoch=self.epoch,
            election=self.election,
            trusted=self.registry_bundle,
            renewer=self.renewer,
            on_changes=self._changes,
            on_acknowledged=self._acknowledged,
            on_no_member=self._refused,
            on_problems=lambda found: self.problems.set("registry", found),
            clock=self.clock,
            log=log,
        )
        self.watch, self.publish = self.upstream.watch, self.upstream.publish
        self.server = ViewServer(
            log_=self.view.records.log,
            consumers=self.consumers,
            vms=self.vms,
            workloads=self.workloads,
            bundle=self.bundle,
            svid=lambda: self.renewer.current,
            clock=self.clock,
            log=log,
            heartbeat=settings.heartbeat,
            write_timeout=settings.write_timeout,
            addressed=self.writer is not None or (self.consul is not None and self.consul.addressed),
            unread=lambda: self.source.state.value.unread,
        )
        self.identity = IdentityServer(
            self.path / "identity.sock",
            self.authority,
            allow=AllowTable(settings.identities),
            federation=settings.federation,
            cluster=settings.cluster,
            agent_addresses=self.addresses,
            log=log,
            ttl=timedelta(seconds=settings.svid_ttl),
        )
        self.doors = Doors(
            settings,
            self.authority,
            vms=self.vms,
            kubernetes=self.kubernetes,
            agent_addresses=self.addresses,
            svid=lambda: self.renewer.current,
            on_problems=lambda found: self.problems.set("pods", found),
            clock=self.clock,
            log=log,
        )
        self.prober = Prober(
            self.view,
            cluster=settings.cluster,
            suffix=settings.suffix,
            bundle=self.bundle,
            gateways=self.consumers.gateways,
            led=self.server.leads,
            svid=lambda: self.renewer.current,
            clock=self.clock,
        )
        self.admin = AdminServer(self)
        self.serving = False
        self.turned = self.clock.monotonic()
        """When the event loop last turned."""
        self._reported = asyncio.Event()
        if settings.network and self.kubernetes is not None:
            self.kubernetes.nodes.listen(lambda _keys: self._describe() if self._reported.is_set() else None)

    def addresses(self) -> tuple[str, ...]:
        """host:port, at least one, at which gateways and sidecars dial this agent."""
        host, port = split_address(self.settings.listen, what="listen")
        return addresses(self.settings.advertise) or (join_address(host, self.server.port or port),)

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled, then end in order: goodbye to the consumers, state to the disk."""
        async with self._servers(), asyncio.TaskGroup() as tasks:
            for name, work in {
                "source": self.source.run(),
                "follow-source": self._follow_source(),
                "begin-to-serve": self._begin_to_serve(),
                "follow-gateways": self._follow_gateways(),
                "follow-problems": self._follow_problems(),
                "follow-membership": self._follow_membership(),
                "follow-renewal": self.upstream.follow_renewal(),
                "renewer": self.renewer.run(),
                "expiry": self._expire(),
                "via-gateway": self.server.follow_via_gateway(),
                "watch": self.watch.run(),
                "publish": self._publish_when_complete(),
                **({"writer": self.writer.run()} if self.writer is not None else {}),
                **({"consul": self.consul.run()} if self.consul is not None else {}),
                **({"front": self._follow_front(self.front)} if self.front is not None else {}),
                **({"replicas": self.replicas.run()} if self.replicas is not None else {}),
                **({"locks": self.locks.run()} if self.locks is not None else {}),
                **self.folder.saving(),
            }.items():
                tasks.create_task(work, name=f"agent-{name}")

    @contextlib.asynccontextmanager
    async def _servers(self) -> AsyncIterator[None]:
        measured: MetricsServer | None = None
        try:
            await self.identity.start()
            await self.admin.start()
            self.folder.write_ports(**await self.doors.start())
            if self.settings.metrics:
                measured = metrics.serve(self)
                self.folder.write_ports(metrics=measured.port)
            yield
        finally:
            if self.dns is not None:
                await self.dns.close()
            await self.server.close()
            await self.doors.close()
            await self.admin.close()
            await self.identity.close()
            await self.folder.flush()
            if measured is not None:
                await asyncio.to_thread(measured.close)
            self.folder.close()

    # --- the source --------------------------------------------------------------------------------------------------

    async def _follow_source(self) -> None:
        version = -1
        last = SourceState()
        while True:
            version, state = await self.source.state.newer(version)
            self.problems.set("source", state.problems)
            if not state.complete:
                continue  # nothing may be concluded from half a reading
            follows = state.number == last.number + 1
            changed = changed_names(last.exports, state.exports, among=state.changed if follows else None)
            last = state
            self.report.services(state.exports, changed)
            self._judge_gateways()
            await asyncio.sleep(0)  # it leaves for the registry while the own view is merged
            self.view.own_services(state.exports, changed)
            self._reported.set()

    async def _begin_to_serve(self) -> None:
        """The first complete state: only now is there a view that consumers may take for the truth.

        A replica that has never heard of other clusters is not asked while another one may know better.
        """
        await self._reported.wait()
        if self.replicas is not None:
            await self._told.wait()
        self.allocations.end_unused(self.view.imports, now_ns=self.clock.wall_ns())
        host, port = split_address(self.settings.listen, what="listen")
        await self.server.start(host, port)
        if self.dns is not None:
            await self.dns.start()
        self.serving = True
        self.folder.write_ports(listen=self.server.port, **({"dns": self.dns.port} if self.dns is not None else {}))
        self.log.info(
            "serving",
            address=self.addresses()[0],
            exports=len(self.source.state.value.exports),
            imports=len(self.view.imports),
            epoch=self.epoch,
        )

    async def _publish_when_complete(self) -> None:
        """A report that lacks what has not been read yet would delete it at the registry."""
        await self._reported.wait()
        self._describe()
        await self.publish.run()

    async def _follow_gateways(self) -> None:
        version = -1
        while True:
            version, known = await self.consumers.gateways.newer(version)
            self.report.gateways(known)
            self.view.own_gateways(known)
            self.folder.touch(GATEWAYS)
            self._judge_gateways()
            if self._reported.is_set():
                self._describe()

    async def _follow_front(self, front: ServiceFront) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(front.run(), name="agent-front-watch")
            version = front.reach.version
            while True:
                version, reach = await front.reach.newer(version)
                self.consumers.before(reach)
                self._judge_gateways()

    def _judge_gateways(self) -> None:
        found = gateways.problems(
            self.consumers.said,
            self.consumers.gateways.value,
            exports=bool(self.source.state.value.exports),
            service=self.front.name if self.front is not None else "",
            reach=self.front.reach.value if self.front is not None else None,
        )
        self.problems.set("gateways", found)

    async def _expire(self) -> None:
        """Leases of gateways, memories of consumers, addresses of ended imports."""
        while True:
            self.turned = self.clock.monotonic()
            self.consumers.expire()
            self.allocations.expire(now_ns=self.clock.wall_ns())
            if self.allocations.changed:
                self.folder.touch(ALLOCATIONS)
            deadline = self.consumers.next_deadline()
            delay = 1.0 if deadline is None else deadline - self.clock.monotonic()
            await self.clock.sleep(min(max(delay, 0.01), 1.0))

    # --- the registry ------------------------------------------------------------------------------------------------

    def _changes(self, changes: Changes) -> None:
        if changes:
            self.view.apply(changes)
        if changes.revision:
            self._registry_told()
        if changes or changes.complete:  # a revision alone is not worth a write: it costs the next start a resume
            self.folder.touch(VIEW)

    def _registry_told(self) -> None:
        """The view says all there is: by the registry itself, or by what it said before the start."""
        self._told.set()
        self.membership.accepted()
        if self.writer is not None:
            self.writer.view_known()
        if self.consul is not None:
            self.consul.view_known()
            self.consul.membership(self.membership.lasts)

    def _acknowledged(self) -> None:
        if self.writer is not None:
            self.writer.acknowledged()

    def _refused(self) -> None:
        self.membership.refused()
        if self.consul is not None:
            self.consul.membership(False)

    def _repinned(self, peers: Collection[str]) -> None:
        for peer in sorted(peers):
            self.view.pinned(peer)

    # --- what the cluster says of itself -----------------------------------------------------------------------------

    def _view_changed(self) -> None:
        self.problems.set("view", self.view.problems())
        if self.allocations.changed:
            self.folder.touch(ALLOCATIONS)

    async def _follow_membership(self) -> None:
        version = -1
        while True:
            version, left = await self.membership.left.newer(version)
            self.problems.set("membership", self.membership.problems())
            if left and self.consul is not None:
                self.consul.membership(False)

    async def _follow_problems(self) -> None:
        version = -1
        while True:
            version, _ = await self.problems.changed.newer(version)
            self._describe()
            await self.clock.sleep(0.2)  # problems come in crowds

    def _describe(self) -> None:
        self.report.describe(
            Cluster(
                name=self.settings.cluster,
                trust_domain=self.settings.trust_domain,
                locality=self.settings.place,
                bundle=self.bundle,
                agent_version=__version__,
                problems=self.problems.all(),
                network=self.settings.network,
                pod_ranges=self._pod_ranges(),
                outbound_only=gateways.outbound_only(self.consumers.gateways.value.values()),
            )
        )

    def _pod_ranges(self) -> tuple[str, ...]:
        """Where they matter to others: on a flat network."""
        if not self.settings.network or self.kubernetes is None:
            return ()
        return self.kubernetes.pod_ranges()[:MOST_RANGES]

    # --- identity ----------------------------------------------------------------------------------------------------

    def _issue(self) -> Svid:
        return self.authority.issue_with_key(
            spiffe_id=SpiffeId.workload(self.settings.trust_domain, SYSTEM_NAMESPACE, "agent"),
            ttl=timedelta(seconds=self.settings.svid_ttl),
            dns_names=[agent_server_name(self.settings.trust_domain)],
        )

    def _front(self) -> ServiceFront | None:
        wanted = self.settings.kubernetes
        if wanted is None or not wanted.gateway_service or self.kubernetes is None:
            return None
        return ServiceFront(
            self.kubernetes.client,
            wanted.gateway_service,
            namespace=wanted.namespace,
            lists=self.kubernetes.lists,
            watch_seconds=wanted.watch,
            confirm_seconds=wanted.confirm,
            clock=self.clock,
            log=self.log,
        )

    async def _renew(self) -> Svid:
        return self._issue()

    # --- state -------------------------------------------------------------------------------------------------------

    def _fallback(self) -> int:
        """The epoch to report with while nobody can say which agent leads.

        One that has never read Consul gives way to any that has: its epoch is below all those by the clock.
        """
        return max(1, self.epoch - BEFORE) if (self.path / NEW).exists() else self.epoch

    def _replica(self) -> Replica:
        return self.folder.load(VIEW, Replica.load) or Replica()

    def _allocations(self) -> Allocator:
        wanted = self.settings.clusterset
        allocations: Allocator
        if self.settings.kubernetes is not None:
            allocations = DerivedAllocations(gateway_ports=wanted.gateway_ports, release_seconds=wanted.release)
        else:
            allocations = Allocations(
                v4=wanted.v4, v6=wanted.v6, gateway_ports=wanted.gateway_ports, release_seconds=wanted.release
            )
        self.folder.load(ALLOCATIONS, allocations.load)
        return allocations

    def _dns(self) -> ClusterDns:
        made = ClusterDns(
            self.settings.dns,
            self.view,
            suffix=self.settings.suffix,
            cluster=self.settings.cluster,
            known=self._told.is_set,
            unread=lambda name: name.namespace in self.source.state.value.unread,
            has_namespace=self.source.has_namespace,
            clock=self.clock,
            log=self.log,
        )
        if self.kubernetes is not None:
            self.kubernetes.namespaces.listen(lambda keys: made.namespaces_changed({name for _, name in keys}))
        return made

    def _workloads(self) -> Workloads:
        wanted = self.settings.vms.services
        made = Workloads(
            may_register=lambda name, service: (vm := self.vms.vms.get(name)) is not None and vm.may_register(service),
            site=Site(
                trust_domain=self.settings.trust_domain,
                single_machine=self.settings.single_machine,
                any_address=wanted.any_address,
            ),
            locality=self.settings.place,
            grace=wanted.grace,
            forget=wanted.forget,
            clock=self.clock,
            log=self.log,
        )
        self.folder.load(WORKLOADS, made.load)
        return made

    def _load_gateways(self) -> None:
        def load(data: bytes) -> None:
            self.consumers.load(data, grace=self.settings.gateway_grace)

        self.folder.load(GATEWAYS, load)


async def serve(settings: AgentSettings, log: Logger) -> None:
    """Run an agent until SIGTERM or SIGINT, and for `drain_seconds` more."""
    agent = Agent(settings, log=log)
    running = asyncio.create_task(agent.run(), name="agent")
    stopping = asyncio.create_task(wait_for_signal(), name="signals")
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if settings.drain_seconds and not running.done():
            log.info("draining", seconds=settings.drain_seconds)
            await asyncio.wait({running}, timeout=settings.drain_seconds)
    finally:
        stopping.cancel()
        running.cancel()
        await asyncio.wait({running})
        with contextlib.suppress(asyncio.CancelledError):
            failure = running.exception()
            if failure is not None:
                raise _first(failure)
    log.info("stopped")


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
