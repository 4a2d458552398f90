"""One edge process: its keys, its watch on the agent, its Envoy, and the publishing between them.

Arrive: the agent's changes, renewed identities, names that Envoy asks for. Leave: snapshots to Envoy, acknowledged
revisions and presence to the agent. What the process is for, a gateway or a sidecar, is told by its `Part`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Container, Iterable
from typing import Protocol

import grpc
from prometheus_client import CollectorRegistry

from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.files import read_state
from federation.aio.saver import Saver
from federation.catalog.replica import Changes, Replica, Sink
from federation.envoy.ledger import Changes as ResourceChanges
from federation.envoy.process import EnvoyProcess
from federation.errors import CorruptState, Denied, IsthmusError, StorageFailed, Unavailable
from federation.log import Logger
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.record import Kind
from federation.model.view import View
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry.client import WatchClient
from federation.registry.edge import memory, snapshots
from federation.registry.edge.checking import Checking
from federation.registry.edge.envoy import make_envoy
from federation.registry.edge.givers import giver
from federation.registry.edge.health import readiness
from federation.registry.edge.keys import Addresses, Keys, agent_channel
from federation.registry.edge.measures import gauge
from federation.registry.edge.problems import Problems
from federation.registry.edge.publisher import Built, Publisher
from federation.registry.edge.settings import EdgeSettings
from federation.registry.edge.state import StateDirectory
from federation.registry.edge.views import Views
from federation.trust.renewal import Renewer
from federation.trust.workload import Grant
from federation.xds.metrics import XdsMetrics
from federation.xds.server import AdsServer
from federation.xds.snapshot import Snapshot, TypeUrl

RETRY_REFUSED = 5.0
"""What Envoy refused is sent again after so many seconds: a port may be free by then."""
SAVE_INTERVAL = 5.0
"""Seconds between two writes of a state file: it may be this much older than what is served."""
LOST_SECONDS = 5.0
"""Between two looks at whether the agent is reached."""
LOST_LONGEST = 60.0
"""The same where each look, at an agent on another machine, costs it a signature."""
SETTLE_SECONDS = 5.0
"""After Envoy's first acknowledgement: the start is over."""


class Part(Protocol):
    """What makes an edge process a gateway or a sidecar."""

    def update(self, view: View, grant: Grant, changed: Collection[ServiceName] | None) -> ResourceChanges:
        """What changes in Envoy's configuration, now that the state is this; `changed` services at most (None: any)."""

    def presence(self, problems: tuple[Problem, ...]) -> pb.Presence:
        """What the agent is told of this process."""

    def changed(self, imports: set[ServiceName], absent: Iterable[str]) -> None:
        """The view has changed in these imports; these subscribed names do not exist."""

    def demanded(self, kind: TypeUrl, names: frozenset[str]) -> None:
        """Envoy asks for resources that the snapshot has not."""

    def missing(self) -> str:
        """What of its own it lacks to be ready; empty when nothing. Called on another thread."""


class Edge:
    """Made by `open_edge`, which waits for an identity; `part` is set, then `run` until it is cancelled."""

    def __init__(
        self,
        *,
        settings: EdgeSettings,
        state: StateDirectory,
        clock: Clock,
        log: Logger,
        keys: Keys,
        renewer: Renewer[Grant],
        problems: Problems,
        registry: CollectorRegistry,
        sink: Sink,
        envoy: EnvoyProcess,
    ) -> None:
        self.settings, self.state, self.clock, self.log = settings, state, clock, log
        self._addresses = Addresses(settings.agent.addresses if settings.agent is not None else ())
        self._keys, self.renewer, self.problems, self.registry = keys, renewer, problems, registry
        self.sink = sink
        grant = renewer.current
        self.views = Views(cluster=grant.cluster, problems=problems)
        self.part: Part | None = None
        self._snapshot = Snapshot()
        self.server = AdsServer(
            state.ads,
            demand=self._demanded,
            metrics=XdsMetrics(registry),
            log=log,
            clock=clock,
            retry_refused=RETRY_REFUSED,
        )
        self.envoy = envoy
        self.publisher = Publisher(
            build=self._build,
            server=self.server,
            on_acknowledged=self._acknowledged,
            on_failure=self._build_failed,
            log=log,
            clock=clock,
        )
        self._checking = Checking(
            begin=lambda most: self._begin_checks(self.server.subscribed(TypeUrl.ENDPOINT), most),
            publish=self.publisher.poke,
            acknowledged=lambda ticket, limit: self.publisher.wait(ticket, limit=limit),
            hurried=lambda: self.publisher.hurried,
            news=self.server.acked,
            clock=clock,
        )
        self.client = WatchClient(
            connect=self._connect,
            sink=sink,
            on_changes=self._changes,
            presence=self._presence,
            backoff=Backoff(base=0.1, cap=5.0),
            clock=clock,
            log=log,
            auto_ack=False,
            ack_delay=(0.0, 0.01),
            what="the agent",
        )
        self.saver = Saver(
            state.view,
            sink.replica.picture,
            interval=SAVE_INTERVAL,
            clock=clock,
            on_result=lambda error: self._note("storage_failed", str(state.view), str(error) if error else None),
        )
        self.has_view = False
        self.draining = False
        self._begin_checks: Callable[[Container[str], int | None], bool] = lambda *_: False
        self._rebuild = False  # a build failed: what it had taken as changed may be anything
        self._measure()

    def _measure(self) -> None:
        for name, text, value in (
            ("isthmus_watch_connected", "1 while the agent is watched", lambda: float(self.client.connected)),
            ("isthmus_view_revision", "Revision of the view that is held", lambda: float(self.sink.replica.revision)),
            ("isthmus_view_records", "Records that are held", lambda: float(len(self.sink.replica))),
            ("isthmus_publish_pushes", "Snapshots published to Envoy", lambda: float(self.publisher.pushes)),
            ("isthmus_identity_expires_seconds", "Until the identity expires", self.renewer.expires_in),
            ("isthmus_identity_failures", "Failed renewals in a row", lambda: float(self.renewer.failures)),
            ("isthmus_envoy_starts", "Starts of Envoy", lambda: float(self.envoy.starts.value)),
            ("isthmus_problems", "Problems that are reported", lambda: float(len(self.problems))),
        ):
            gauge(self.registry, name, text, value)

    # --- life

    def restore(self) -> None:
        """Take the last view from disk into use; call it once, after `part` is set."""
        records = tuple(self.sink.replica.records())
        if records:
            imports = self.views.put(records)
            self.has_view = True
            assert self.part is not None  # noqa: S101 - the order of the wiring
            self.part.changed(imports, ())
            self.log.info("last view restored", records=len(records))

    async def run(self) -> None:
        """Serve until cancelled. Envoy is started as soon as there is a view, from disk or from the agent."""
        await self.server.start()
        try:
            async with asyncio.TaskGroup() as group:
                for name, task in {
                    "publisher": self.publisher.run(),
                    "watch": self.client.run(),
                    "renewer": self.renewer.run(),
                    "renewals": self._follow_renewals(),
                    "address": self._follow_agent(),
                    "saver": self.saver.run(),
                    "nacks": self._follow_nacks(),
                    "checks": self._checking.run(),
                    "envoy": self._run_envoy(),
                    "settle": self._settle(),
                }.items():
                    group.create_task(task, name=f"edge-{name}")
        finally:
            await self.saver.flush()
            await self.server.close()

    async def _run_envoy(self) -> None:
        """An Envoy that starts before the first view would serve an emptiness that is not true."""
        while not self.has_view:
            await self.clock.sleep(0.05)
        self.publisher.poke()
        await self.envoy.run()

    async def _settle(self) -> None:
        while not self.server.acked.value:
            await self.server.acked.newer(self.server.acked.version)
        await self.clock.sleep(SETTLE_SECONDS)
        await asyncio.to_thread(memory.settle)

    # --- the agent

    async def _connect(self) -> grpc.aio.Channel:
        grant = self.renewer.current
        return agent_channel(grant, self._addresses.next(grant, self.client.last_seen))

    def _presence(self) -> pb.Presence | None:
        return self.part.presence(self.problems.all()) if self.part is not None else None

    def _changes(self, changes: Changes) -> None:
        assert self.part is not None  # noqa: S101 - the client runs after the wiring
        imports = self.views.delete(changes.deleted) | self.views.put(changes.put)
        if changes.synced:
            self.has_view = True
        self.part.changed(imports, changes.absent)
        self.publisher.poke()
        if changes.put or changes.deleted or changes.absent or changes.origins:
            self.saver.touch()

    def _acknowledged(self, history: str, revision: int) -> None:
        if history == self.sink.replica.history:
            self.client.applied(revision)

    async def _follow_renewals(self) -> None:
        version = self.renewer.latest.version
        while True:
            version, _ = await self.renewer.latest.newer(version)
            self.publisher.poke()  # Envoy gets the new secret; connections keep what they have
            self.client.reconnect()

    async def _follow_agent(self) -> None:
        """An agent that is not reached for long may have moved, or have lost its keys: who gives identities tells."""
        afar, backoff = self.settings.agent is not None, Backoff(base=LOST_SECONDS, cap=LOST_LONGEST)
        pause = LOST_SECONDS
        while True:
            await self.clock.sleep(pause)
            pause = LOST_SECONDS
            if self.client.connected:
                backoff.reset()
                continue
            held = self.renewer.current
            try:
                grant = await self._keys.fetch()
            except (Unavailable, OSError):
                continue  # the agent is down, which costs it nothing; what is known goes on
            except IsthmusError:
                pause = backoff.next() if afar else pause
                continue
            pause = backoff.next() if afar else pause
            moved = (grant.addresses, grant.bundle) != (held.addresses, held.bundle)
            useless = self.renewer.expires_in() <= 0 or isinstance(self.client.last_error, Denied)
            if moved or (afar and useless):
                self.log.info("the agent has moved or wants another certificate", address=grant.agent_address)
                self.renewer.latest.set(grant)

    # --- Envoy

    def publish_now(self) -> None:
        """Publish without waiting for what is in flight: a caller waits behind it."""
        self.publisher.push_now()

    def _build(self) -> Built:
        assert self.part is not None  # noqa: S101 - nothing is poked before the wiring is done
        changed = None if self._rebuild else self.views.take_changed()
        self._rebuild = True
        update = self.part.update(self.views.view, self.renewer.current, changed)
        self._snapshot = snapshots.apply(self._snapshot, update)
        self._begin_checks = update.begin_checks
        self._rebuild = False
        memory.trim(sum(map(len, update.put.values())))
        replica = self.sink.replica
        return Built(self._snapshot, replica.revision, replica.history)

    def _build_failed(self, text: str | None) -> None:
        self._note("snapshot_refused", "envoy", text)

    def _demanded(self, kind: TypeUrl, names: frozenset[str]) -> None:
        if self.part is not None:
            self.part.demanded(kind, names)

    async def _follow_nacks(self) -> None:
        version = -1
        while True:
            version, _ = await self.server.refused.newer(version)
            nacks = self.server.nacks
            self.problems.replace("xds_nack", {f"{kind.label} {name}": n.detail for (kind, name), n in nacks.items()})

    def _note(self, code: str, subject: str, text: str | None) -> None:
        if text is None:
            self.problems.clear(code, subject)
        else:
            self.problems.set(code, subject, text)

    # --- readiness

    def ready(self) -> tuple[bool, str]:
        """For /readyz; called on another thread, so it only reads."""
        return readiness(
            [
                lambda: "" if self.has_view else "no view of the agent yet",
                lambda: "" if self.server.connected else "envoy is not connected",
                lambda: "" if self.server.acked.value else "envoy has not acknowledged its configuration",
                # Of a Pod that ends EndpointSlices say so by themselves; and as long as it is ready, too, that it still
                # serves: nodes lead to it where they have no other one yet.
                lambda: "draining" if self.draining and not self.settings.in_pod else "",
                lambda: self.part.missing() if self.part is not None else "not wired",
                lambda: "" if self.renewer.expires_in() > 0 else "the identity has expired",
            ]
        )


async def open_edge(
    settings: EdgeSettings,
    state: StateDirectory,
    *,
    kinds: Collection[Kind],
    names: Collection[ServiceName] | None,
    drain_seconds: float,
    registry: CollectorRegistry,
    clock: Clock,
    log: Logger,
) -> Edge:
    """An Edge with an identity; without the agent and without a kept identity it waits for one.

    `names` are the imports to be followed by name from the start; None: all that the agent shows.
    """
    edge: list[Edge] = []
    problems = Problems(clock=clock, log=log, on_change=lambda: edge[0].client.announce() if edge else None)
    keys = Keys(
        giver(settings, state, clock),
        path=state.identity,
        namespace=settings.namespace,
        account=settings.account,
        clock=clock,
        log=log,
        problems=problems,
    )
    # Found before the wait for an identity: a missing Envoy is told at once.
    envoy = make_envoy(settings, state, drain_seconds=drain_seconds)
    renewer = await keys.open()
    replica = last_view(state, log)
    followed = None if names is None else {str(name) for name in names}
    if followed is not None:
        for key in [r.key for r in replica.records(kind=Kind.IMPORT) if r.key.name not in followed]:
            replica.remove(key)
    sink = Sink(replica, kinds=kinds, wildcard=followed is None, names=followed or (), speaker=renewer.current.cluster)
    edge.append(
        Edge(
            settings=settings,
            state=state,
            clock=clock,
            log=log,
            keys=keys,
            renewer=renewer,
            problems=problems,
            registry=registry,
            sink=sink,
            envoy=envoy,
        )
    )
    return edge[0]


def last_view(state: StateDirectory, log: Logger) -> Replica:
    """The replica on disk, or an empty one: whatever is wrong with the file, the agent has it all."""
    try:
        data = read_state(state.view)
        return Replica.load(data) if data is not None else Replica()
    except (CorruptState, StorageFailed) as error:
        log.warning("last view cannot be used", error=str(error))
        return Replica()
