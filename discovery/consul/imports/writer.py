"""Keeps the imports of this cluster registered in one Consul datacenter, as the view and the gateways have them.

    view ─ names ─┐                                     ┌ answers ─┐
    gateways ─────┼→ queue → plan → transaction → Consul┤          ├→ actual
    foreign names ┘                                     └ readings ┘

A change costs the names that it concerns; readings of the whole node repair what was edited by hand. Nothing is written
before all is known: the view, what the source exports, who else has which name, and what is registered; and nothing but
by the agent that holds the datacenter's lock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from discovery.consul.belief import Doubt
from discovery.consul.client import Answer
from discovery.consul.errors import Refused
from discovery.consul.imports.actual import Actual
from discovery.consul.imports.catalog import (
    NODE_CHECK,
    TXN_OPERATIONS,
    Catalog,
    Fault,
    Fence,
    Lost,
    Outcome,
    forbidden,
    names,
)
from discovery.consul.imports.desired import CLUSTER, MANAGED_BY, MANAGER
from discovery.consul.imports.gateways import Gateways
from discovery.consul.imports.plan import Change
from discovery.consul.imports.presence import Presence
from discovery.consul.imports.settings import WriteSettings
from discovery.consul.imports.wants import NotOurs, Wants
from discovery.consul.watch import Read, Watch
from discovery.mcs.apply import NotRepaired
from discovery.mcs.queue import WorkQueue
from discovery.mcs.troubles import Troubles
from discovery.view import ClusterView
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.errors import Conflict, Denied, IsthmusError
from federation.log import Logger
from federation.model.cluster import Gateway, Problem
from federation.model.ids import ServiceName

RESYNC_SECONDS = 600.0
BATCH = 200
"""Names that are planned together."""
LOOK_SECONDS = 1.0
"""At least between two readings of the whole node; with many instances twenty times what one takes."""
NODE_ADDRESS = "127.0.0.1"
"""Every instance has an address of its own; Consul wants one of the node, too."""


class Writer:
    """`run` until cancelled. `leader`: the lock, while this agent holds it."""

    def __init__(
        self,
        settings: WriteSettings,
        catalog: Catalog,
        view: ClusterView,
        *,
        datacenter: str,
        namespace: str,
        cluster: str,
        single_machine: bool,
        gateways: Latest[Mapping[str, Gateway]],
        leader: Latest[Fence | None],
        wait: float,
        on_problems: Callable[[list[Problem]], None],
        clock: Clock,
        log: Logger,
        rng: random.Random | None = None,
    ) -> None:
        self._settings, self._catalog, self._view = settings, catalog, view
        self._datacenter, self._cluster = datacenter, cluster
        self._all_gateways, self._leader, self._wait = gateways, leader, wait
        self._clock, self._log, self._rng = clock, log, rng or random.Random()
        self._gateways = Gateways(single_machine=single_machine, clock=clock)
        self._queue = WorkQueue(clock)
        self._troubles = Troubles(
            on_problems=on_problems,
            clock=clock,
            rng=self._rng,
            log=log,
            place=f"Consul {datacenter}",
            what="import",
        )
        name = f"isthmus-{cluster}-{self._rng.getrandbits(64):016x}"
        self._presence = Presence(catalog, name=name, ttl=settings.ttl, clock=clock)
        self.actual = Actual()
        self._wants = Wants(
            settings,
            view,
            self.actual,
            self._gateways,
            namespace=namespace,
            cluster=cluster,
            on_concerned=self._queue.add,
            clock=clock,
        )
        self._known = asyncio.Event()
        self._others_known = asyncio.Event()
        self._fence: Fence | None = None  # all is known and the node is ours: writing may go on under it
        self._stopped = asyncio.Event()
        self._turn = asyncio.Lock()  # one request that writes, or a reading of all, at a time
        self._indexes: dict[str, int] = {}
        self._look_wanted = asyncio.Event()
        self._looked = float("-inf")
        self._pause = LOOK_SECONDS
        self._credit, self._credited = float(TXN_OPERATIONS), clock.monotonic()
        view.listen(self.names_changed)

    @property
    def begun(self) -> bool:
        """This agent leads, everything is known, and what differs is being written."""
        return self._fence is not None

    @property
    def idle(self) -> bool:
        """There is nothing left to write."""
        return self.begun and not len(self._queue)

    # --- what happens ------------------------------------------------------------------------------------------------

    def known(self) -> None:
        """The view says what there is: the source was read, and the registry has told all of it, or the disk has."""
        self._known.set()

    def names_changed(self, names: Collection[ServiceName]) -> None:
        """What is wanted of these may be something else now."""
        for name in names:
            self._troubles.wanted(name)
        self._queue.add(names)

    def _site_changed(self) -> None:
        self._troubles.problem("gateways", self._gateways.problem())
        self.names_changed(self._wants.all())

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow and write until cancelled."""
        self._gateways.update(self._all_gateways.value.values())
        async with asyncio.TaskGroup() as tasks:
            for name, work in {
                "queue": self._queue.run(),
                "leader": self._follow_leader(),
                "gateways": self._follow_gateways(),
                "look": self._look_again(),
                "presence": self._renew(),
                "resync": self._resync(),
                "work": self._work(),
            }.items():
                tasks.create_task(work, name=f"consul-writer-{self._datacenter}-{name}")

    async def _follow_leader(self) -> None:
        await self._known.wait()
        version, term = -1, None
        async with asyncio.TaskGroup() as tasks:
            while True:
                version, fence = await self._leader.newer(version)
                await cancel(term)
                self._fence = term = None
                self._troubles.forget()  # what is wrong is for who leads to say
                if fence is not None:
                    term = tasks.create_task(self._lead(fence), name=f"consul-writer-{self._datacenter}-term")

    async def _lead(self, fence: Fence) -> None:
        """While this agent holds the lock: watch what others do, and begin to write when all is known."""
        self._wants.forget_others()
        self._others_known.clear()
        self._indexes.clear()
        watches = {
            "others": self._watch(self._catalog.others, self._others_read, tell=self._others_told),
            "services": self._watch(self._catalog.services_changed, partial(self._node_changed, "services")),
            "checks": self._watch(self._catalog.checks_changed, partial(self._node_changed, "checks")),
        }
        async with asyncio.TaskGroup() as tasks:
            for name, watch in watches.items():
                tasks.create_task(watch.run(), name=f"consul-writer-{self._datacenter}-{name}")
            await self._others_known.wait()
            backoff = Backoff(base=0.5, cap=30.0, uniform=self._rng.uniform)
            while True:
                self._stopped.clear()
                if await self._begin(fence):
                    backoff.reset()
                    await self._stopped.wait()
                await self._clock.sleep(backoff.next())

    async def _begin(self, fence: Fence) -> bool:
        """Read what there is, and prove that this agent lives; whether writing can begin."""
        try:
            async with self._turn:
                await self._look(fence)
        except IsthmusError as error:
            self._failed("node", error)
            return False
        self._troubles.general("node", None)
        for name in sorted(self._view.imports):  # who has which name is settled before the first is written
            self._wants.claim(name)
        self._fence = fence
        self._log.info("writing imports", datacenter=self._datacenter, registered=len(self.actual))
        self._site_changed()
        return True

    async def _follow_gateways(self) -> None:
        version = self._all_gateways.version
        while True:
            version, gateways = await self._all_gateways.newer(version)
            if self._gateways.update(gateways.values()):
                self._site_changed()

    def _watch(
        self,
        read: Read,
        take: Callable[[Answer], bool],
        *,
        tell: Callable[[IsthmusError | Doubt | None], None] = lambda _: None,
    ) -> Watch:
        return Watch(
            read,
            take,
            what=f"{self._catalog.node} in {self._datacenter}",
            wait=self._wait,
            stale=False,
            max_stale=0.0,
            tell=tell,
            clock=self._clock,
            log=self._log,
            rng=self._rng,
        )

    def _others_read(self, answer: Answer) -> bool:
        """The names that somebody else registers services under."""
        concerned = self._wants.others(names(answer))
        self._others_known.set()
        self.names_changed(concerned)
        return bool(concerned)

    def _others_told(self, trouble: IsthmusError | Doubt | None) -> None:
        if isinstance(trouble, Denied):
            self._wants.forget_others()  # nothing is written, nor taken away, while nobody knows whose the names are
        if not isinstance(trouble, Doubt):
            self._troubles.general("others", trouble)

    def _node_changed(self, what: str, answer: Answer) -> bool:
        """Something under the node may have changed. Most of it is what was just written."""
        if self._indexes.get(what) != answer.meta.index:
            self._indexes[what] = answer.meta.index
            self._look_wanted.set()
        return False

    async def _look_again(self) -> None:
        while True:
            await self._look_wanted.wait()
            await self._clock.sleep(max(0.0, self._looked + self._pause - self._clock.monotonic()))
            self._look_wanted.clear()
            fence = self._fence
            if fence is None:
                continue
            try:
                async with self._turn:
                    await self._look(fence)
            except IsthmusError as error:
                self._failed("node", error)
                self._look_wanted.set()
                self._looked = self._clock.monotonic() + 4 * LOOK_SECONDS
            else:
                self._troubles.general("node", None)

    async def _renew(self) -> None:
        while True:
            await self._clock.sleep(max(0.1, min(1.0, self._presence.due - self._clock.monotonic())))
            if self._gateways.forget():
                self._site_changed()
            fence = self._fence
            if fence is None or self._presence.due > self._clock.monotonic():
                continue
            try:
                async with self._turn:
                    await self._presence.ensure(self.actual.node_checks.get(NODE_CHECK), fence)
            except IsthmusError as error:
                self._failed("session", error)
                await self._clock.sleep(1.0)
            else:
                self._troubles.general("session", None)

    async def _resync(self) -> None:
        while True:
            await self._clock.sleep(RESYNC_SECONDS * self._rng.uniform(0.9, 1.1))
            self._look_wanted.set()
            self._queue.add(self._wants.all(), slow=True, hurry=False)

    # --- the node ----------------------------------------------------------------------------------------------------

    async def _look(self, fence: Fence) -> None:
        """Read all that is registered; make the node, and say that this agent lives, where that is not so."""
        began = self._clock.monotonic()
        registered = await self._catalog.registered()
        if registered.node is None:
            meta = {MANAGED_BY: MANAGER, CLUSTER: self._cluster}
            outcome = await self._catalog.put_node(address=NODE_ADDRESS, meta=meta, index=0, fence=fence)
            _raise(outcome.faults, f'node "{self._catalog.node}" {{ policy = "write" }}')
            registered = await self._catalog.registered()
        if registered.node is None or not registered.node.ours:
            raise NotOurs(
                f"the node {self._catalog.node} is registered in Consul by somebody else",
                hint="name another one in consul.write.node, or remove that one",
                code="node_not_ours",
            )
        if not self._presence.said_by(check := registered.node_checks.get(NODE_CHECK)):
            await self._presence.ensure(check, fence)
            registered = await self._catalog.registered()
        self._looked = self._clock.monotonic()
        self._pause = max(LOOK_SECONDS, 20 * (self._looked - began))
        names = self.actual.replace(registered)
        gateways = {held.gateway for held in registered.instances.values() if held.ours}
        if self._gateways.registered(gateways):
            names = self._wants.all()
        self._queue.add(names, hurry=False)

    # --- the imports -------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            names = [await self._queue.take()]
            names += self._queue.take_more(BATCH - 1)
            try:
                await self._write(names)
            finally:
                for name in names:
                    self._queue.done(name)

    async def _write(self, names: Sequence[ServiceName]) -> None:
        fence = self._leader.value if self._wants.known and self.begun else None
        changes: list[Change] = []
        for name in names:
            self._queue.looking(name)
            if fence is not None:
                changes += self._plan(name)
        for batch in batches(changes):
            await self._afford(sum(len(change.operations) for change in batch))
            async with self._turn:
                if fence is None or not self._leads(fence):
                    return
                await self._carry_out(batch, fence)

    def _leads(self, fence: Fence) -> bool:
        return self._fence == fence == self._leader.value

    def _plan(self, name: ServiceName) -> tuple[Change, ...]:
        """What is to be written for the name. Problems that are no failure are settled here."""
        verdict = self._wants.judge(name)
        if not verdict.changes:
            if rest := self._troubles.over(name, verdict.problem) or verdict.rest:
                self._queue.later(name, rest)
            return ()
        try:
            self._troubles.round(name, verdict.changes[0])
        except NotRepaired as error:
            self._queue.later(name, self._troubles.failed(name, error))
            return ()
        return verdict.changes

    async def _carry_out(self, batch: Sequence[Change], fence: Fence) -> None:
        operations = [operation for change in batch for operation in change.operations]
        try:
            outcome = await self._catalog.transact(operations, fence)
        except Lost as error:
            self._failed("lock", error)
            return
        except IsthmusError as error:
            for name in {change.name for change in batch}:
                self._queue.later(name, self._troubles.failed(name, error))
            return
        if outcome.faults:
            self._refused(batch, outcome)
            return
        for change in batch:
            if not self.actual.wrote(change, outcome.indexes):
                self._look_wanted.set()
        self._queue.add({change.name for change in batch})  # there may be more to do, or a problem is over

    def _refused(self, batch: Sequence[Change], outcome: Outcome) -> None:
        """One operation that cannot be keeps the others of its transaction from being carried out: these come again."""
        owners = [change for change in batch for _ in change.operations]
        faults = {owners[f.at].name: f for f in outcome.faults if 0 <= f.at < len(owners)}
        for name in {change.name for change in batch}:
            fault = faults.get(name)
            if fault is None:
                self._queue.add((name,))
            elif fault.denied:
                error = forbidden("the token may not write services", 'service_prefix "" { policy = "write" }')
                self._queue.later(name, self._troubles.failed(name, error))
            elif fault.raced:
                self._log.info("changed meanwhile", datacenter=self._datacenter, service=str(name), error=fault.what)
                self._look_wanted.set()
                self._queue.later(name, LOOK_SECONDS * self._rng.uniform(1.0, 2.0))
            else:
                refused = Refused(f"Consul does not take it: {fault.what}")
                self._queue.later(name, self._troubles.failed(name, refused))

    async def _afford(self, operations: int) -> None:
        """Wait until so many operations are within the rate."""
        while True:
            now = self._clock.monotonic()
            self._credit = min(TXN_OPERATIONS, self._credit + (now - self._credited) * self._settings.rate)
            self._credited = now
            if self._credit >= min(operations, TXN_OPERATIONS):
                self._credit -= operations
                return
            await self._clock.sleep((operations - self._credit) / self._settings.rate)

    def _failed(self, what: str, error: IsthmusError) -> None:
        if isinstance(error, Lost):
            self._log.warning("not written", datacenter=self._datacenter, error=error.message)
            self._fence = None  # until Consul, too, says that the lock is held
            self._stopped.set()
        else:
            self._troubles.general(what, error)


def batches(changes: Sequence[Change]) -> list[list[Change]]:
    """As many changes as one transaction carries, whole and in their order."""
    made: list[list[Change]] = []
    size = TXN_OPERATIONS
    for change in changes:
        if size + len(change.operations) > TXN_OPERATIONS - 1:
            made.append([])
            size = 0
        made[-1].append(change)
        size += len(change.operations)
    return made


def _raise(faults: Sequence[Fault], needs: str) -> None:
    for fault in faults:
        if fault.denied:
            raise forbidden("the token may not write our node", needs)
        raise Conflict(f"Consul refuses to register our node: {fault.what}")
