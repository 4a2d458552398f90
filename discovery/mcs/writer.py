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
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from discovery.gateways import outbound_only
from discovery.kube.client import KubeClient
from discovery.kube.watch import Key
from discovery.mcs.actual import Actuals
from discovery.mcs.apply import Applier, NotRepaired
from discovery.mcs.carry import Carrier, Done
from discovery.mcs.derived import DerivedAllocations
from discovery.mcs.families import service_families
from discovery.mcs.held import Held
from discovery.mcs.imports import Allocator
from discovery.mcs.plan import Write, foreign, plan, unstamped
from discovery.mcs.queue import WorkQueue
from discovery.mcs.troubles import Troubles
from discovery.mcs.wants import PENDING_SECONDS, Wants
from discovery.settings import AgentSettings
from discovery.sources.base import Source
from discovery.sources.kubernetes import KubernetesSource
from discovery.view import ClusterView
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import IsthmusError
from federation.log import Logger
from federation.model.cluster import Gateway, Problem
from federation.model.ids import ServiceName

WORKERS = 16
"""Names that are worked on at once: an API server answers in 2 to 10 ms, and is not ours alone. More do not help: it
gives at most 50 Services a second an address."""
RESYNC_SECONDS = 600.0


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
        network: str = "",
        clock: Clock,
        log: Logger,
        rng: random.Random | None = None,
    ) -> None:
        self._source, self._view, self._allocations = source, view, allocations
        self._client: KubeClient = source.client
        self._gateways, self._leader = gateways, leader
        self._clock, self._log, self._rng = clock, log, rng or random.Random()
        self._queue = WorkQueue(clock)
        self._wants = Wants(
            source,
            view,
            allocations,
            gateways=gateways,
            published=published,
            create_namespaces=create_namespaces,
            network=network,
            clock=clock,
        )
        self._troubles = Troubles(on_problems=on_problems, clock=clock, rng=self._rng, log=log)
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
        self.applier = Applier(source.client)
        self._carrier = Carrier(
            self.applier, self.actuals, source.exports_seen, allocations, refresh=view.refresh, log=log
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
            self._troubles.wanted(name)
        self._queue.add(names)

    def acknowledged(self) -> None:
        """The registry has taken, or refused, some of what was published."""
        self.names_changed(list(self._wants.unpublished()))

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
        tasks.create_task(self._follow_pending(), name="kube-writer-pending")
        for number in range(WORKERS):
            tasks.create_task(self._work(), name=f"kube-writer-{number}")

    async def _find_families(self) -> None:
        backoff = Backoff(base=0.5, cap=30.0, uniform=self._rng.uniform)
        while not self._wants.families:
            try:
                self._wants.families = await service_families(self._client)
            except IsthmusError as error:
                self._troubles.general("families", error)
                await self._clock.sleep(backoff.next())
        self._troubles.general("families", None)
        self._log.info("IP families of Services", families=self._wants.families)

    async def _follow_gateways(self) -> None:
        """EndpointSlices name the gateways, so one that moves is a write for every import; exports say whether there is
        one that others reach."""
        version, known = self._gateways.version, self._wants.local_gateways()
        apart = outbound_only(self._gateways.value.values())
        while True:
            version, gateways = await self._gateways.newer(version)
            if apart != outbound_only(gateways.values()):
                apart = not apart
                self.names_changed([ServiceName(*key) for key in self._source.exports_seen.objects])
            now = self._wants.local_gateways()
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

    async def _follow_pending(self) -> None:
        """Exports that the registry did not take at once say so."""
        while True:
            await self._clock.sleep(PENDING_SECONDS)
            self._queue.add(self._wants.overdue(), hurry=False)

    async def _work(self) -> None:
        while True:
            name = await self._queue.take()
            try:
                # One name to its end before the next: of many that came at once the first ones are soon of use.
                while await self._look(name):
                    pass
            finally:
                self._queue.done(name)
            if name in self._unstamped:
                self._queue.add((name,), slow=True, hurry=False)

    # --- one name ----------------------------------------------------------------------------------------------------

    async def _look(self, name: ServiceName) -> bool:
        """Plan, and write what is planned; whether to look again at once. Who does not lead only learns."""
        self._queue.looking(name)
        service = self.actuals.of(name).service
        if service is not None:
            self._service_seen(name, service)  # it may have been seen before the import was known
        epoch = self._leader.value
        if epoch is None:
            return False
        site = self._wants.site(version=self.actuals.version, epoch=epoch)
        actual = self.actuals.of(name)
        desired = self._wants.desired(name, actual.import_, patient=not self._troubles.failing(name))
        now = datetime.fromtimestamp(self._clock.wall_ns() // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        writes = list(plan(desired, actual, site, now=now, stamp=name in self._unstamped))
        if (status := self._wants.export_status(name, site, now)) is not None:
            writes.append(status)
        if not writes:
            if name not in self._unstamped and unstamped(actual, epoch):
                self._unstamped.add(name)  # what is missing comes first, at all names
            else:
                self._unstamped.discard(name)
            if rest := self._troubles.over(name, foreign(desired, actual)):
                self._queue.later(name, rest)
            return False
        try:
            self._troubles.round(name, writes[0])
        except NotRepaired as error:
            self._queue.later(name, self._troubles.failed(name, error))
            return False
        outcomes = await asyncio.gather(*(self._write(name, write, epoch) for write in writes))
        failures = [outcome for outcome in outcomes if isinstance(outcome, IsthmusError)]
        if failures:
            self._queue.later(name, self._troubles.failed(name, failures[0]))
            return False
        return Done.TOLD not in outcomes

    async def _write(self, name: ServiceName, write: Write, epoch: int) -> Done | IsthmusError:
        if self._leader.value != epoch:
            return Done.TOLD  # the process stood still meanwhile: another replica may be writing now
        return await self._carrier.carry(name, write)


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
        network=settings.network,
        clock=clock,
        log=log.bind(part="writer"),
    )
