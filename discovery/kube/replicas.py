"""What the replicas of one cluster's agent have in common, kept in the API server: who leads, gateways, pins, VMs;
and what others in the cluster need of it: the roots to believe.

Every replica reads the cluster and the registry, merges, and serves; the one that holds the Lease writes and reports.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from discovery.consumers import Consumers
from discovery.kube.about import About, wanted
from discovery.kube.client import KubeClient
from discovery.kube.elector import Elector, replica_identity
from discovery.kube.lease import Rules
from discovery.kube.offers import Offers
from discovery.kube.pinboard import Pinboard
from discovery.kube.resources import CONFIG_MAPS, LEASES, Resource
from discovery.kube.roster import Roster
from discovery.kube.trustboard import TrustBoard
from discovery.kube.types import MANAGER, ConfigMap, LeaseObject
from discovery.kube.vmboard import VmBoard
from discovery.kube.watch import Decoder, Handler, Reflector, Store
from discovery.leading import Standing
from discovery.membership import Membership
from discovery.pins import Pins
from discovery.settings import AgentSettings
from discovery.sources.base import Source
from discovery.sources.kubernetes import KubernetesSource
from discovery.sources.manifests import MANAGED_BY
from discovery.vms.table import VmTable
from discovery.vms.workloads import Workloads
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.log import Logger
from federation.model.cluster import Problem

REPLICA = "replica.state"
"""File in the state directory: the name of this replica."""


class Replicas:
    """`run` until cancelled."""

    def __init__(
        self,
        settings: AgentSettings,
        source: KubernetesSource,
        *,
        fallback: int,
        consumers: Consumers,
        pins: Pins,
        on_pins: Callable[[Collection[str]], None],
        membership: Membership,
        vms: VmTable,
        workloads: Workloads,
        anchor: bytes,
        on_problems: Callable[[Iterable[Problem]], None],
        clock: Clock,
        log: Logger,
        rng: random.Random | None = None,
    ) -> None:
        """`fallback`: see Elector. `on_pins` gets the peers whose pin another replica changed. `anchor`: the roots of
        the cluster (PEM). Raises StorageFailed."""
        kubernetes = settings.kubernetes
        assert kubernetes is not None  # noqa: S101 - the source is Kubernetes
        rng = rng or random.Random()
        log = log.bind(part="replicas")
        self._on_problems, self._membership = on_problems, membership
        self._problems: dict[str, tuple[Problem, ...]] = {}
        # Of its own, so that the Lease can be given back when everything else has ended.
        self._client = KubeClient(kubernetes, log=log, clock=clock)
        leases: Store[LeaseObject] = Store()
        maps: Store[ConfigMap] = Store()

        def reflect(resource: Resource, decoder: Decoder[Any], store: Handler[Any]) -> Reflector[Any]:
            return Reflector(
                self._client,
                resource,
                decoder,
                store,
                clock=clock,
                rng=rng,
                log=log,
                lists=source.lists,
                namespace=kubernetes.namespace,
                label_selector=f"{MANAGED_BY}={MANAGER}",
                watch_seconds=kubernetes.watch,
                confirm_seconds=kubernetes.confirm,
            )

        self._leases = reflect(LEASES, msgspec.json.Decoder(LeaseObject), leases)
        self._maps = reflect(CONFIG_MAPS, msgspec.json.Decoder(ConfigMap), maps)
        identity = replica_identity(settings.path / REPLICA)
        self._elector = Elector(
            self._client,
            leases,
            namespace=kubernetes.namespace,
            identity=identity,
            rules=Rules(duration=kubernetes.lease, renew=kubernetes.renew),
            fallback=fallback,
            membership=membership,
            on_problem=lambda problem: self._tell("lease", problem),
            clock=clock,
            log=log,
            rng=rng,
        )
        self._roster = Roster(
            self._client,
            leases,
            namespace=kubernetes.namespace,
            identity=identity,
            announced=consumers.announced,
            on_elsewhere=consumers.elsewhere,
            clock=clock,
            log=log,
            rng=rng,
        )
        self._pinboard = Pinboard(
            self._client,
            maps,
            self._maps.synced,
            pins,
            namespace=kubernetes.namespace,
            on_changed=on_pins,
            on_problem=lambda problem: self._tell("pins", problem),
            clock=clock,
            log=log,
            rng=rng,
        )
        self._vms = VmBoard(
            self._client,
            maps,
            self._maps.synced,
            vms,
            namespace=kubernetes.namespace,
            on_problem=lambda problem: self._tell("vms", problem),
            clock=clock,
            log=log,
            rng=rng,
        )
        self._trust = TrustBoard(
            self._client,
            maps,
            self._maps.synced,
            anchor,
            leader=self._elector.leader,
            namespace=kubernetes.namespace,
            on_problem=lambda problem: self._tell("trust", problem),
            clock=clock,
            log=log,
            rng=rng,
        )
        self._offers = Offers(
            self._client,
            leases,
            workloads,
            namespace=kubernetes.namespace,
            identity=identity,
            forget=settings.vms.services.grace + settings.vms.services.forget,
            on_problem=lambda problem: self._tell("vm services", problem),
            clock=clock,
            log=log,
            rng=rng,
        )
        self._about = About(
            self._client,
            wanted(cluster=settings.cluster, federation=settings.federation),
            leader=self._elector.leader,
            member=lambda: membership.lasts,
            on_problems=lambda found: self._show("about", found),
            clock=clock,
            log=log,
            lists=source.lists,
            rng=rng,
        )

    @property
    def leader(self) -> Latest[int | None]:
        """The epoch to write with while this replica leads."""
        return self._elector.leader

    @property
    def reporting(self) -> Latest[int | None]:
        """The epoch to report with."""
        return self._elector.reporting

    def standing(self) -> Standing:
        """Who leads, as this replica sees it now."""
        return self._elector.standing()

    def outbid(self) -> None:
        """The registry wants a newer epoch than that of the report."""
        self._elector.outbid()

    async def share_pins(self) -> None:
        """Wait until the other replicas have been told of the pins here; raises TimedOut."""
        if not self._membership.left.value:
            await self._pinboard.share()

    async def run(self) -> None:
        """Follow Leases, pins and virtual machines, and take part in the election, until the cluster leaves."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for reflector in (self._leases, self._maps):
                    plural = reflector.resource.plural
                    tasks.create_task(reflector.run(), name=f"kube-{plural}")
                    tasks.create_task(self._follow(reflector), name=f"kube-{plural}-problem")
                await self._write_while_member(tasks)
        finally:
            await self._client.close()

    async def _write_while_member(self, tasks: asyncio.TaskGroup) -> None:
        left = self._membership.left
        if not left.value:
            writing = [
                tasks.create_task(self._roster.run(), name="kube-roster"),
                tasks.create_task(self._pinboard.run(), name="kube-pins"),
                tasks.create_task(self._vms.run(), name="kube-vms"),
                tasks.create_task(self._offers.run(), name="kube-offers"),
                tasks.create_task(self._trust.run(), name="kube-trust"),
                tasks.create_task(self._about.run(), name="kube-about"),
                tasks.create_task(self._elector.run(), name="kube-elector"),
            ]
            await left.newer(left.version)
            for task in writing:
                task.cancel()

    async def _follow(self, reflector: Reflector[Any]) -> None:
        version = -1
        while True:
            version, problem = await reflector.problem.newer(version)
            self._tell(str(reflector.resource), problem)

    def _tell(self, what: str, problem: Problem | None) -> None:
        self._show(what, () if problem is None else (problem,))

    def _show(self, what: str, problems: Collection[Problem]) -> None:
        """Each problem once: an API server that is away is one, not four."""
        self._problems[what] = tuple(problems)
        self._on_problems(dict.fromkeys(p for group in self._problems.values() for p in group))


def make_replicas(
    settings: AgentSettings,
    source: Source,
    *,
    fallback: int,
    consumers: Consumers,
    pins: Pins,
    on_pins: Callable[[Collection[str]], None],
    membership: Membership,
    vms: VmTable,
    workloads: Workloads,
    anchor: bytes,
    on_problems: Callable[[Iterable[Problem]], None],
    clock: Clock,
    log: Logger,
) -> Replicas | None:
    """For an agent whose source is Kubernetes; one that reads files is alone."""
    if not isinstance(source, KubernetesSource):
        return None
    return Replicas(
        settings,
        source,
        fallback=fallback,
        consumers=consumers,
        pins=pins,
        on_pins=on_pins,
        membership=membership,
        vms=vms,
        workloads=workloads,
        anchor=anchor,
        on_problems=on_problems,
        clock=clock,
        log=log,
    )
