"""What there should be of a service name in this cluster, put together from the view, the source and the gateways.

No I/O: discovery.mcs.plan compares it with what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from discovery.gateways import outbound_only
from discovery.kube.types import Namespace as NamespaceObject
from discovery.kube.types import ServiceExport
from discovery.mcs.apply import resource_of
from discovery.mcs.conditions import ExportFacts
from discovery.mcs.derived import DerivedAllocations
from discovery.mcs.desired import Desired, LocalGateway, Namespace, Site, usable
from discovery.mcs.held import Held, Kind
from discovery.mcs.plan import HeldExport, Write, plan_export
from discovery.sources.kubernetes import KubernetesSource
from discovery.view import ClusterView
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.model.cluster import Gateway, Problem
from federation.model.ids import ServiceName
from federation.model.service import Protocol

UNCALLABLE = "no gateway of this cluster can be reached from outside: other clusters see the export and cannot call it"
PENDING_SECONDS = 0.5
"""So long a new export stays without conditions, for the registry mostly answers before: one write instead of two."""


class Wants:
    """`published` says of a service whether the registry has it, or why it does not take it."""

    def __init__(
        self,
        source: KubernetesSource,
        view: ClusterView,
        allocations: DerivedAllocations,
        *,
        gateways: Latest[Mapping[str, Gateway]],
        published: Callable[[ServiceName], bool | Problem],
        create_namespaces: bool,
        network: str = "",
        clock: Clock,
    ) -> None:
        """`network`: as in the settings."""
        self._source, self._view, self._allocations = source, view, allocations
        self._gateways, self._published, self._create_namespaces = gateways, published, create_namespaces
        self._network, self._clock = network, clock
        self._unpublished: dict[ServiceName, float] = {}
        self._overdue = float("-inf")
        self.families: tuple[str, ...] = ()
        """Of Services here, the default first; empty as long as they are not known."""

    def site(self, *, version: str, epoch: int) -> Site:
        """What is the same for all imports, with `version` of the MCS API."""
        return Site(
            version=version,
            epoch=epoch,
            families=self.families,
            gateways=self.local_gateways(),
            create_namespaces=self._create_namespaces,
        )

    def local_gateways(self) -> tuple[LocalGateway, ...]:
        """Those that workloads of this cluster can reach; draining ones only when there are no others."""
        gateways = self._gateways.value.values()
        able = [g for g in gateways if usable(g.egress or g.address)]
        staying = [g for g in able if not g.draining] or able
        return tuple(sorted(LocalGateway(g.egress or g.address, g.locality.zone) for g in staying))

    def desired(self, name: ServiceName, held: Held | None, *, patient: bool) -> Desired:
        """`held`: the ServiceImport that there is."""
        imported = self._view.imports.get(name)
        ips: tuple[str, ...] = ()
        ports: dict[int, int] = {}
        if imported is not None and not imported.headless:
            ips, ports = self._allocations.proposal(name, now_ns=self._clock.wall_ns())
        settled = frozenset(c for c in held.clusters if self._view.settled(c)) if held is not None else None
        return Desired(
            name=name,
            namespace=self._namespace(name),
            import_=imported,
            ports=ports,
            ips=ips,
            settled=settled,
            patient=patient,
        )

    def export_status(self, name: ServiceName, site: Site, now: str) -> Write | None:
        """The status that the ServiceExport lacks; None where there is no export, too."""
        export: ServiceExport | None = self._source.exports_seen.objects.get((name.namespace, name.name))
        if export is None or export.deleting:
            self._unpublished.pop(name, None)
            return None
        refused = self._source.refused(name)
        registry = self._published(name) if refused is None else False
        conditions = {c.type: c for c in (export.status.conditions if export.status else None) or ()}
        if registry is True or refused is not None:
            self._unpublished.pop(name, None)
        else:
            since = self._unpublished.setdefault(name, self._clock.monotonic())
            if registry is False and not conditions and self._clock.monotonic() < since + PENDING_SECONDS:
                return None
        imported = self._view.imports.get(name)
        claim = self._source.state.value.exports.get(name)
        facts = ExportFacts(
            refused=refused,
            rejected=registry if isinstance(registry, Problem) else None,
            published=registry is True,
            uncallable=self._uncallable(name),
            uncarried=tuple(p for p in claim.ports if p.protocol is not Protocol.TCP) if claim is not None else (),
            conflicts=imported.conflicts if imported is not None else (),
        )
        meta = export.metadata
        held = HeldExport(
            name=name,
            uid=meta.uid,
            resource_version=meta.resource_version,
            generation=meta.generation,
            conditions=conditions,
        )
        return plan_export(held, facts, resource_of(Kind.EXPORT, site.version).api_version, now=now)

    def _uncallable(self, name: ServiceName) -> str:
        """Not for what is reached directly: headless services on a flat network."""
        if not outbound_only(self._gateways.value.values()):
            return ""
        offered = self._source.state.value.exports.get(name)
        return "" if self._network and offered is not None and offered.headless else UNCALLABLE

    def unpublished(self) -> Collection[ServiceName]:
        """Exports that the registry had not taken when they were looked at last."""
        return self._unpublished.keys()

    def overdue(self) -> list[ServiceName]:
        """Those of them that have been so for PENDING_SECONDS, each once."""
        before, self._overdue = self._overdue, self._clock.monotonic() - PENDING_SECONDS
        return [name for name, since in self._unpublished.items() if before < since <= self._overdue]

    def _namespace(self, name: ServiceName) -> Namespace:
        found: NamespaceObject | None = self._source.namespaces.objects.get(("", name.namespace))
        if found is None:
            return Namespace.ABSENT
        return Namespace.TERMINATING if found.deleting else Namespace.ACTIVE
