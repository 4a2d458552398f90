"""Keeps the ServiceImports, derived Services, EndpointSlices and conditions of a Kubernetes cluster as the view has it.

    view ─ names ┐                                   ┌ derived Services → addresses → view
    watches ─────┼→ queue → plan → apply → API server┴ watches
    registry ────┘

A change costs the names that it concerns; a slow round over all of them makes up for what nobody told. Nothing is
written before everything is known: the source is read, the own objects are listed, and there is a view, from the
registry or from the disk.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime

from discovery.kube.client import KubeClient
from discovery.kube.errors import Conflict, Forbidden, Invalid, NotFound
from discovery.kube.types import Namespace as NamespaceObject
from discovery.kube.types import ServiceExport
from discovery.kube.watch import Key
from discovery.mcs.actual import Actuals
from discovery.mcs.apply import Applier, NotRepaired, resource_of
from discovery.mcs.conditions import ExportFacts
from discovery.mcs.derived import DerivedAllocations
from discovery.mcs.desired import Desired, LocalGateway, Namespace, Site, usable
from discovery.mcs.families import service_families
from discovery.mcs.held import Held, Kind
from discovery.mcs.imports import Allocator
from discovery.mcs.plan import HeldExport, Verb, Write, foreign, plan, plan_export, unstamped
from discovery.mcs.queue import WorkQueue
from discovery.settings import AgentSettings
from discovery.sources.base import Source
from discovery.sources.kubernetes import KubernetesSource
from discovery.view import ClusterView
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import IsthmusError, Unavailable
from federation.log import Logger
from federation.model.cluster import Gateway, Problem
from federation.model.ids import ServiceName

WORKERS = 16
"""Names that are worked on at once: an API server answers in 2 to 10 ms, and is not ours alone."""
RESYNC_SECONDS = 600.0
ROUNDS = 12
"""Writes to the objects of one name in a row, without a change of what is wanted, after which somebody else is writing
the same objects."""


class Writer:
    """`run` until cancelled. `published` says of a service whether the registry has it, or why it does not take it."""

    def __init__(
        self,
        source: KubernetesSource,
        view: ClusterView,
        allocations: DerivedAllocations,
        *,
        gateways: Latest[Mapping[str, Gateway]],
        published: Callable[[ServiceName], bool | Problem],
        leader: Latest[int | None],
        on_problems: Callable[[list[Problem]], None],
        create_namespaces: bool = False,
        clock: Clock,
        log: Logger,
        rng: random.Random | None = None,
    ) -> None:
        self._source, self._view, self._allocations = source, view, allocations
        self._client: KubeClient = source.client
        self._gateways, self._published, self._leader = gateways, published, leader
        self._on_problems, self._create_namespaces = on_problems, create_namespaces
        self._clock, self._log, self._rng = clock, log, rng or random.Random()
        self._applier = Applier(source.client)
        self._queue = WorkQueue(clock)
        self._families: tuple[str, ...] = ()
        self._problems: dict[ServiceName, Problem] = {}
        self._backoffs: dict[ServiceName, Backoff] = {}
        self._rounds: dict[ServiceName, int] = {}
        self._unpublished: set[ServiceName] = set()
        self._unstamped: set[ServiceName] = set()  # all is there, written under the lease of an earlier leader
        self._known = asyncio.Event()
        self._begun = False
        self.actuals = Actuals(
            source.client,
            on_change=lambda names: self._queue.add(names, hurry=False),
            on_service=self._service_seen,
            clock=clock,
            rng=self._rng,
            log=log,
            lists=source.lists,
        )
        view.listen(self.names_changed)
        source.exports_seen.listen(self._exports_changed)
        source.namespaces.listen(self._namespaces_changed)

    @property
    def begun(self) -> bool:
        """Everything is known, and what differs is being written."""
        return self._begun

    @property
    def idle(self) -> bool:
        """There is nothing left to write."""
        return self._begun and not len(self._queue)

    # --- what happens ------------------------------------------------------------------------------------------------

    def view_known(self) -> None:
        """The view says what there is: the registry has told all of it, or it was on disk."""
        self._known.set()

    def names_changed(self, names: Collection[ServiceName]) -> None:
        """What is wanted of these may be something else now."""
        for name in names:
            self._rounds.pop(name, None)
        self._queue.add(names)

    def acknowledged(self) -> None:
        """The registry has taken, or refused, some of what was published."""
        self.names_changed(self._unpublished)

    def _exports_changed(self, keys: Collection[Key]) -> None:
        self._queue.add([ServiceName(*key) for key in keys], hurry=False)

    def _namespaces_changed(self, keys: Collection[Key]) -> None:
        changed = {name for _, name in keys}
        self._queue.add([name for name in self._all() if name.namespace in changed])

    def _service_seen(self, name: ServiceName, held: Held) -> None:
        """What the API server has given a derived Service is what its import has from now on."""
        imported = self._view.imports.get(name)
        if imported is None or imported.headless or held.deleting:
            return
        if self._allocations.confirm(name, held.ips, held.ports):
            self._view.refresh([name])

    def _all(self) -> set[ServiceName]:
        exports = {ServiceName(*key) for key in self._source.exports_seen.objects}
        return self.actuals.names() | self._view.imports.keys() | exports

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow and write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.actuals.run(), name="kube-own")
            tasks.create_task(self._begin(tasks), name="kube-writer-begin")

    async def _begin(self, tasks: asyncio.TaskGroup) -> None:
        await self._known.wait()
        await self.actuals.synced()
        while not self._source.live.value:
            await self._source.live.newer(self._source.live.version)
        await self._find_families()
        self._queue.add(self._all())
        self._begun = True
        tasks.create_task(self._queue.run(), name="kube-writer-queue")
        tasks.create_task(self._follow_gateways(), name="kube-writer-gateways")
        tasks.create_task(self._follow_leader(), name="kube-writer-leader")
        tasks.create_task(self._resync(), name="kube-writer-resync")
        for number in range(WORKERS):
            tasks.create_task(self._work(), name=f"kube-writer-{number}")

    async def _find_families(self) -> None:
        backoff = Backoff(base=0.5, cap=30.0, uniform=self._rng.uniform)
        while not self._families:
            try:
                self._families = await service_families(self._client)
            except IsthmusError as error:
                self._tell("families", error)
                await self._clock.sleep(backoff.next())
        self._log.info("IP families of Services", families=self._families)

    async def _follow_gateways(self) -> None:
        """EndpointSlices name the gateways, so one that moves is a write for every import."""
        version, known = self._gateways.version, self._local_gateways()
        while True:
            version, _ = await self._gateways.newer(version)
            now = self._local_gateways()
            if now != known:
                known = now
                self.names_changed(set(self._view.imports))

    async def _follow_leader(self) -> None:
        version = self._leader.version
        while True:
            version, epoch = await self._leader.newer(version)
            if epoch is not None:
                self._queue.add(self._all())

    async def _resync(self) -> None:
        while True:
            await self._clock.sleep(RESYNC_SECONDS * self._rng.uniform(0.9, 1.1))
            self._queue.add(self._all(), slow=True, hurry=False)

    async def _work(self) -> None:
        while True:
            name = await self._queue.take()
            try:
                await self._look(name)
            finally:
                self._queue.done(name)
            if name in self._unstamped:
                self._queue.add((name,), slow=True, hurry=False)

    # --- one name ----------------------------------------------------------------------------------------------------

    async def _look(self, name: ServiceName) -> None:
        """Plan, and write what is planned; who does not lead only learns."""
        service = self.actuals.of(name).service
        if service is not None:
            self._service_seen(name, service)  # it may have been seen before the import was known
        epoch = self._leader.value
        if epoch is None:
            return
        site = self._site(epoch)
        desired, actual = self._desired(name), self.actuals.of(name)
        now = datetime.fromtimestamp(self._clock.wall_ns() // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        writes = list(plan(desired, actual, site, now=now, stamp=name in self._unstamped))
        if (status := self._export_status(name, site, now)) is not None:
            writes.append(status)
        problem = foreign(desired, actual)
        if not writes:
            if name not in self._unstamped and unstamped(actual, epoch):
                self._unstamped.add(name)  # what is missing comes first, at all names
            else:
                self._unstamped.discard(name)
            self._rounds.pop(name, None)
            self._backoffs.pop(name, None)
            self._settle(name, problem)
            return
        rounds = self._rounds[name] = self._rounds.get(name, 0) + 1
        if rounds > ROUNDS:
            self._rounds.pop(name, None)
            self._fail(name, NotRepaired(f"the objects of {name} are changed again and again: {writes[0]}"))
            return
        failures = [e for e in await asyncio.gather(*(self._write(name, w, epoch) for w in writes)) if e is not None]
        if failures:
            self._fail(name, failures[0])
        else:
            self._settle(name, problem)

    async def _write(self, name: ServiceName, write: Write, epoch: int) -> IsthmusError | None:
        """Make one write and keep its answer; an error is returned, for the other writes go on."""
        if self._leader.value != epoch:
            return None  # the process stood still meanwhile: another replica may be writing now
        version = self.actuals.version
        try:
            held = await self._applier.do(write, version)
        except Conflict as error:
            return await self._outdated(write, error)
        except Invalid as error:
            if write.kind is Kind.SERVICE and self._allocations.forget_addresses(name):
                # Another Service has taken its address, or it is of a range that is no more.
                self._log.warning("derived Service gets another address", service=str(name), error=error.message)
                self._view.refresh([name])
                return None
            return error
        except NotFound as error:
            if error.kind_missing or write.verb is Verb.CREATE:
                return error
            return await self._outdated(write, error)
        except IsthmusError as error:
            if _terminating(error):
                return None  # the namespace is going, with all that is in it
            return error
        self._log.debug("wrote", write=str(write))
        if write.kind is Kind.EXPORT:
            return None  # the watch will tell
        if held is not None:
            self.actuals.wrote(held)
        return None

    async def _outdated(self, write: Write, error: IsthmusError) -> IsthmusError | None:
        """It was changed, or is gone, since it was looked at: what it is now decides."""
        if write.kind in (Kind.EXPORT, Kind.NAMESPACE):
            return None  # the watch is about to tell
        try:
            held = await self._applier.look(write.kind, write.namespace, write.name, self.actuals.version)
        except IsthmusError as failed:
            return failed
        if held is None:
            self.actuals.gone(write.kind, write.namespace, write.name)
        else:
            self.actuals.wrote(held)
        return error

    # --- what is wanted ----------------------------------------------------------------------------------------------

    def _site(self, epoch: int) -> Site:
        return Site(
            version=self.actuals.version,
            epoch=epoch,
            families=self._families,
            gateways=self._local_gateways(),
            create_namespaces=self._create_namespaces,
        )

    def _local_gateways(self) -> tuple[LocalGateway, ...]:
        """Those that workloads of this cluster can reach; draining ones only when there are no others."""
        gateways = self._gateways.value.values()
        able = [g for g in gateways if usable(g.egress or g.address)]
        staying = [g for g in able if not g.draining] or able
        return tuple(sorted(LocalGateway(g.egress or g.address, g.locality.zone) for g in staying))

    def _desired(self, name: ServiceName) -> Desired:
        imported = self._view.imports.get(name)
        ips: tuple[str, ...] = ()
        ports: dict[int, int] = {}
        if imported is not None and not imported.headless:
            ips, ports = self._allocations.proposal(name, now_ns=self._clock.wall_ns())
        held = self.actuals.of(name).import_
        settled = frozenset(c for c in held.clusters if self._view.settled(c)) if held is not None else None
        return Desired(
            name=name, namespace=self._namespace(name), import_=imported, ports=ports, ips=ips, settled=settled
        )

    def _namespace(self, name: ServiceName) -> Namespace:
        found: NamespaceObject | None = self._source.namespaces.objects.get(("", name.namespace))
        if found is None:
            return Namespace.ABSENT
        return Namespace.TERMINATING if found.deleting else Namespace.ACTIVE

    def _export_status(self, name: ServiceName, site: Site, now: str) -> Write | None:
        export: ServiceExport | None = self._source.exports_seen.objects.get((name.namespace, name.name))
        if export is None or export.deleting:
            self._unpublished.discard(name)
            return None
        refused = self._source.refused(name)
        registry = self._published(name) if refused is None else False
        if registry is True or refused is not None:
            self._unpublished.discard(name)
        else:
            self._unpublished.add(name)
        imported = self._view.imports.get(name)
        facts = ExportFacts(
            refused=refused,
            rejected=registry if isinstance(registry, Problem) else None,
            published=registry is True,
            conflicts=imported.conflicts if imported is not None else (),
        )
        meta, status = export.metadata, export.status
        held = HeldExport(
            name=name,
            uid=meta.uid,
            resource_version=meta.resource_version,
            generation=meta.generation,
            conditions={c.type: c for c in (status.conditions if status else None) or ()},
        )
        return plan_export(held, facts, resource_of(Kind.EXPORT, site.version).api_version, now=now)

    # --- what goes wrong ---------------------------------------------------------------------------------------------

    def _fail(self, name: ServiceName, error: IsthmusError) -> None:
        if isinstance(error, Conflict) and not isinstance(error, NotRepaired):
            self._queue.later(name, self._rng.uniform(0.005, 0.05))
            return
        slow = isinstance(error, Forbidden | Invalid | NotFound | NotRepaired)
        fresh = Backoff(base=1.0 if slow else 0.2, cap=60.0 if slow else 10.0, uniform=self._rng.uniform)
        delay = self._backoffs.setdefault(name, fresh).next()
        self._log.warning("not written", service=str(name), code=error.error_code, error=error.message, again_in=delay)
        if not isinstance(error, Unavailable):  # that it is away is said by those who read
            detail = f"{error.message} ({error.hint})" if error.hint else error.message
            subject = "Kubernetes" if isinstance(error, Forbidden) else f"ServiceImport {name}"
            self._settle(name, Problem(error.error_code, subject, detail))
        self._queue.later(name, delay)

    def _settle(self, name: ServiceName, problem: Problem | None) -> None:
        if self._problems.get(name) == problem:
            return
        if problem is None:
            del self._problems[name]
        else:
            self._problems[name] = problem
        self._show()

    def _tell(self, what: str, error: IsthmusError) -> None:
        self._log.warning("not written", what=what, code=error.error_code, error=error.message)
        if not isinstance(error, Unavailable):
            self._on_problems([Problem(error.error_code, "Kubernetes", str(error))])

    def _show(self) -> None:
        """Each problem once: a rule that is missing is missing for every name."""
        self._on_problems(list(_each(self._problems.values())))


def _each(problems: Iterable[Problem]) -> Iterable[Problem]:
    return dict.fromkeys(sorted(problems, key=lambda p: (p.code, p.subject)))


def _terminating(error: IsthmusError) -> bool:
    return "because it is being terminated" in error.message


def make_writer(
    settings: AgentSettings,
    source: Source,
    view: ClusterView,
    allocations: Allocator,
    *,
    gateways: Latest[Mapping[str, Gateway]],
    published: Callable[[ServiceName], bool | Problem],
    on_problems: Callable[[list[Problem]], None],
    clock: Clock,
    log: Logger,
    leader: Latest[int | None] | None = None,
) -> Writer | None:
    """The writer of an agent whose source is Kubernetes; other sources have nothing to write to."""
    if not isinstance(source, KubernetesSource) or not isinstance(allocations, DerivedAllocations):
        return None
    return Writer(
        source,
        view,
        allocations,
        gateways=gateways,
        published=published,
        leader=leader or Latest(1),
        on_problems=on_problems,
        create_namespaces=settings.kubernetes is not None and settings.kubernetes.create_namespaces,
        clock=clock,
        log=log.bind(part="writer"),
    )
