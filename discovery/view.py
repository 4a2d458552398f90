"""Merges what the registry shows with what this cluster exports, into the records that its gateways and sidecars get.

Arrives: own services, own gateways, the replica's changes, pins. Leaves: IMPORT, EXPORT and PEER records of the own
cluster's origin in a Log (discovery.serve offers it). Incremental: only names whose claims changed are merged again,
and only payloads that differ become records.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from discovery.mcs.imports import Allocator
from discovery.pins import Pins
from discovery.report import Records, changed_names
from federation.aio.clock import Clock
from federation.catalog.merge import PORT_CONFLICT, Claim, merge
from federation.catalog.replica import Changes, Replica
from federation.errors import Denied, IsthmusError
from federation.log import Logger
from federation.model.cluster import Bundle, Cluster, Gateway, Link, Peer, Problem
from federation.model.ids import REGISTRY_ORIGIN, ServiceName, trust_domain_of
from federation.model.record import Key, Kind, OriginState, Record
from federation.model.service import Endpoint, Endpoints, Export, Grant, Import, Locality, Protocol, Service
from federation.model.wire import (
    decode_cluster,
    decode_endpoints,
    decode_gateway,
    decode_link,
    decode_service,
    encode_export,
    encode_import,
    encode_peer,
)
from federation.policy.visibility import allowed_ports
from federation.registry.addresses import check_gateway_address

_DISPUTES = 20
"""Services whose ports are in dispute that are told one by one."""


@dataclass(slots=True)
class Neighbour:
    """What is known of another cluster. `bundle` is set when it is linked, pinned, and its bundle proven."""

    name: str
    cluster: Cluster | None = None
    link: Link | None = None
    state: OriginState = OriginState.UNKNOWN
    gateways: dict[str, Gateway] = field(default_factory=dict)
    services: dict[ServiceName, Service] = field(default_factory=dict)
    endpoints: dict[ServiceName, Endpoints] = field(default_factory=dict)
    bundle: Bundle | None = None
    problem: Problem | None = None

    @property
    def trusted(self) -> bool:
        return self.bundle is not None

    @property
    def stale(self) -> bool:
        return self.state is OriginState.STALE

    @property
    def admits(self) -> Link | None:
        """The link by which both see each other's services; None while there is none that is trusted."""
        return self.link if self.bundle is not None else None


class ClusterView:
    """The merged catalog of one cluster. Every public method leaves `records` consistent."""

    def __init__(
        self,
        *,
        cluster: str,
        federation: str,
        locality: Locality,
        bundle: Bundle,
        epoch: int,
        pins: Pins,
        allocations: Allocator,
        single_machine: bool,
        network: str = "",
        aliases: Callable[[Import], tuple[str, ...]] = lambda _: (),
        clock: Clock,
        log: Logger,
    ) -> None:
        """`network`: as in the settings; endpoints of other clusters on it are reached directly. `aliases`: as in
        Import."""
        self.records = Records(origin=cluster, epoch=epoch)
        self.imports: dict[ServiceName, Import] = {}
        self.neighbours: dict[str, Neighbour] = {}
        self._cluster, self._federation, self._locality = cluster, federation, locality
        self._bundle, self._pins, self._allocations = bundle, pins, allocations
        self._single_machine, self._network, self._clock, self._log = single_machine, network, clock, log
        self._aliases = aliases
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change."""
        self._listeners: list[Callable[[Collection[ServiceName]], None]] = []
        self._own: Mapping[ServiceName, Service] = {}
        self._gateways: Mapping[str, Gateway] = {}
        self._claims: dict[ServiceName, set[str]] = {}
        self._bad: dict[Key, Problem] = {}
        self._disputed: dict[ServiceName, str] = {}
        self._flush(set(), {cluster})

    # --- what arrives ------------------------------------------------------------------------------------------------

    def own_services(self, services: Mapping[ServiceName, Service], changed: Set[ServiceName] | None = None) -> None:
        """What this cluster exports, with endpoints; `changed` as in Report.services."""
        changed = changed_names(self._own, services) if changed is None else changed
        self._own = services
        if changed:
            self._flush(changed, set(), exports=changed)

    def own_gateways(self, gateways: Mapping[str, Gateway]) -> None:
        self._gateways = gateways
        self._flush(set(), {self._cluster})

    def load(self, replica: Replica) -> None:
        """Begin with a view from the disk."""
        self.apply(Changes(put=tuple(replica.records()), origins=tuple(replica.origins.values())))

    def apply(self, changes: Changes) -> None:
        """What the registry shows has changed."""
        names: set[ServiceName] = set()
        peers: set[str] = set()
        judge: dict[str, Link | None] = {}  # by neighbour: what it `admits` before these changes
        exports: set[ServiceName] = set()
        for origin in changes.origins:
            if origin.name in (REGISTRY_ORIGIN, self._cluster):
                continue
            neighbour = self._neighbour(origin.name)
            # A registry that has not spoken of an origin yet says nothing about its lease.
            silent = origin.state is OriginState.UNKNOWN and neighbour.state is not OriginState.GONE
            state = neighbour.state if silent else origin.state
            if state is not neighbour.state:
                was_stale = neighbour.stale
                neighbour.state = state
                if state is OriginState.GONE or was_stale != neighbour.stale:
                    names |= neighbour.services.keys()
        for key in changes.deleted:
            self._deleted(key, names, peers, judge)
        for record in changes.put:
            self._put(record, names, peers, judge)
        for name, before in judge.items():
            self._judge(name)
            neighbour = self.neighbours[name]
            if (
                neighbour.admits != before
            ):  # another root, other gateways: its services and the own ones stay as they are
                names |= neighbour.services.keys()
                exports |= self._own.keys()
            peers.add(name)
        if names or peers:
            self._flush(names, peers, exports=exports)

    def pinned(self, cluster: str) -> None:
        """The pin of a cluster was set or taken away."""
        neighbour = self._neighbour(cluster)
        before = neighbour.admits
        self._judge(cluster)
        concerned = neighbour.admits != before
        self._flush(
            set(neighbour.services) if concerned else set(), {cluster}, exports=set(self._own) if concerned else ()
        )

    def refresh(self, names: Collection[ServiceName]) -> None:
        """What the allocator gives these has changed."""
        self._flush(names, set())

    def listen(self, tell: Callable[[Collection[ServiceName]], None]) -> None:
        """Call `tell` with the names whose import may be another one now, each time, at once."""
        self._listeners.append(tell)

    # --- what is asked -----------------------------------------------------------------------------------------------

    def problems(self) -> list[Problem]:
        """Peers that are not trusted, records that cannot be used, imports that did not get all they need, own exports
        whose ports are not those of an older one."""
        found = [n.problem for _, n in sorted(self.neighbours.items()) if n.problem is not None]
        found += list(self._bad.values())
        if exhausted := sorted(self._allocations.exhausted):
            shown = ", ".join(exhausted[:3]) + (f" and {len(exhausted) - 3} more" if len(exhausted) > 3 else "")
            detail = f"{shown}: no ClusterSetIP or gateway port is free; enlarge clusterset.* in the settings"
            found.append(Problem("allocation_exhausted", "clusterset", detail))
        disputed = sorted(self._disputed)
        found += [Problem("port_conflict", str(name), self._disputed[name]) for name in disputed[:_DISPUTES]]
        if (more := len(disputed) - _DISPUTES) > 0:
            detail = f"the ports of {more} more services differ from those of an older export: see fedctl resolve"
            found.append(Problem("port_conflict", "exports", detail))
        return found

    def settled(self, cluster: str) -> bool:
        """Whether it is known what `cluster` exports: not of one that is linked and of which nothing was heard yet."""
        neighbour = self.neighbours.get(cluster)
        return neighbour is None or neighbour.link is None or neighbour.state is not OriginState.UNKNOWN

    @property
    def linked(self) -> list[Neighbour]:
        """Neighbours with a link, by name."""
        return [n for _, n in sorted(self.neighbours.items()) if n.link is not None]

    # --- neighbours --------------------------------------------------------------------------------------------------

    def _neighbour(self, name: str) -> Neighbour:
        return self.neighbours.setdefault(name, Neighbour(name))

    def _put(self, record: Record, names: set[ServiceName], peers: set[str], judge: dict[str, Link | None]) -> None:
        key = record.key
        if key.origin == self._cluster or record.payload is None:
            return
        try:
            if key.origin == REGISTRY_ORIGIN:
                if key.kind is Kind.LINK:
                    self._linked(key.name, decode_link(record.payload), judge)
            elif key.kind is Kind.SERVICE:
                service = decode_service(record.payload)
                self._require(str(service.name) == key.name, key)
                self._neighbour(key.origin).services[service.name] = service
                self._claims.setdefault(service.name, set()).add(key.origin)
                names.add(service.name)
            elif key.kind is Kind.ENDPOINTS:
                endpoints = decode_endpoints(record.payload)
                self._require(str(endpoints.name) == key.name, key)
                for endpoint in endpoints.endpoints:
                    check_gateway_address(endpoint.address, single_machine=self._single_machine)
                self._neighbour(key.origin).endpoints[endpoints.name] = endpoints
                names.add(endpoints.name)
            elif key.kind is Kind.GATEWAY:
                gateway = decode_gateway(record.payload)
                self._require(gateway.name == key.name, key)
                check_gateway_address(gateway.address, single_machine=self._single_machine)
                self._neighbour(key.origin).gateways[gateway.name] = gateway
                peers.add(key.origin)
            elif key.kind is Kind.CLUSTER:
                cluster = decode_cluster(record.payload)
                self._require(
                    cluster.name == key.name == key.origin
                    and cluster.trust_domain == trust_domain_of(key.origin, self._federation),
                    key,
                )
                neighbour = self._neighbour(key.origin)
                judge.setdefault(key.origin, neighbour.admits)
                neighbour.cluster = cluster
        except IsthmusError as error:
            # What was held before stays: one bad record takes nothing with it.
            self._log.warning("record refused", origin=key.origin, kind=key.kind.name, name=key.name, error=str(error))
            self._bad[key] = Problem(error.error_code, f"{key.origin}: {key.kind.name} {key.name}", error.message)
        else:
            self._bad.pop(key, None)

    def _require(self, condition: bool, key: Key) -> None:
        if not condition:
            raise Denied(f"the record {key.name} does not carry what its key says", code="key_mismatch")

    def _deleted(self, key: Key, names: set[ServiceName], peers: set[str], judge: dict[str, Link | None]) -> None:
        self._bad.pop(key, None)
        if key.origin == self._cluster:
            return
        if key.origin == REGISTRY_ORIGIN:
            if key.kind is Kind.LINK:
                self._unlinked(key.name, judge)
            return
        neighbour = self._neighbour(key.origin)
        if key.kind is Kind.SERVICE:
            name = ServiceName(*key.name.split("/", 1))
            if neighbour.services.pop(name, None) is not None:
                claims = self._claims[name]
                claims.discard(key.origin)
                if not claims:
                    del self._claims[name]
                names.add(name)
        elif key.kind is Kind.ENDPOINTS:
            name = ServiceName(*key.name.split("/", 1))
            if neighbour.endpoints.pop(name, None) is not None:
                names.add(name)
        elif key.kind is Kind.GATEWAY:
            neighbour.gateways.pop(key.name, None)
            peers.add(key.origin)
        elif key.kind is Kind.CLUSTER:
            judge.setdefault(key.origin, neighbour.admits)
            neighbour.cluster = None

    def _linked(self, name: str, link: Link, judge: dict[str, Link | None]) -> None:
        if link.name != name or self._cluster not in (link.a, link.b) or link.a == link.b:
            return
        neighbour = self._neighbour(link.other(self._cluster))
        judge.setdefault(neighbour.name, neighbour.admits)
        neighbour.link = link

    def _unlinked(self, name: str, judge: dict[str, Link | None]) -> None:
        a, _, b = name.partition("/")
        if self._cluster not in (a, b):
            return
        other = b if a == self._cluster else a
        neighbour = self._neighbour(other)
        judge.setdefault(other, neighbour.admits)
        neighbour.link = None
        try:
            self._pins.link_cut(other)
        except IsthmusError as error:
            self._log.error("pin not dropped", peer=other, error=str(error))

    def _judge(self, name: str) -> None:
        """Decide whether `name` is believed."""
        neighbour = self.neighbours[name]
        neighbour.problem = None
        if neighbour.link is None:
            neighbour.bundle = None
        elif neighbour.cluster is None:
            neighbour.bundle = self._pins.believed(name)
        else:
            try:
                neighbour.bundle = self._pins.accept(name, neighbour.cluster.bundle)
            except IsthmusError as error:
                # A successor that is not proven does not undo the trust in what was proven.
                unpinned = error.error_code == "unpinned"
                neighbour.bundle = None if unpinned else self._pins.believed(name)
                neighbour.problem = Problem(error.error_code, name, str(error), self._clock.wall_ns())
                self._log.warning("peer not trusted", peer=name, code=error.error_code, error=error.message)

    # --- records -----------------------------------------------------------------------------------------------------

    def _flush(
        self, names: Collection[ServiceName], peers: Iterable[str], *, exports: Iterable[ServiceName] = ()
    ) -> None:
        now = self._clock.wall_ns()
        records: list[Record | None] = [self._peer(name) for name in sorted(peers)]
        records += [self._export(name) for name in sorted(exports)]
        records += [self._import(name, now) for name in sorted(names)]
        self.records.put(records)
        if names:
            for tell in self._listeners:
                tell(names)
        self.on_change()

    def _peer(self, name: str) -> Record | None:
        if name == self._cluster:
            own = Peer(
                cluster=name,
                trust_domain=self._bundle.trust_domain,
                locality=self._locality,
                own=True,
                bundle=self._bundle,
                gateways=tuple(g for _, g in sorted(self._gateways.items())),
            )
            return self.records.claim(Kind.PEER, name, encode_peer(own))
        neighbour = self.neighbours[name]
        if neighbour.bundle is None:
            return self.records.withdraw(Kind.PEER, name)
        peer = Peer(
            cluster=name,
            trust_domain=neighbour.bundle.trust_domain,
            locality=neighbour.cluster.locality if neighbour.cluster else Locality(),
            bundle=neighbour.bundle,
            gateways=tuple(g for _, g in sorted(neighbour.gateways.items())),
        )
        return self.records.claim(Kind.PEER, name, encode_peer(peer))

    def _export(self, name: ServiceName) -> Record | None:
        service = self._own.get(name)
        if service is None:
            return self.records.withdraw(Kind.EXPORT, str(name))
        grants = []
        for neighbour in self.linked:
            if neighbour.bundle is None or neighbour.link is None:
                continue
            allowed = allowed_ports(name, service.grants, neighbour.link, consumer=neighbour.name)
            if allowed is None:
                grants.append(Grant(neighbour.name))
            elif ports := tuple(p.port for p in service.ports if p.port in allowed):
                grants.append(Grant(neighbour.name, tuple(sorted(set(ports)))))
        export = Export(name=name, ports=service.ports, endpoints=service.endpoints, grants=tuple(grants))
        return self.records.claim(Kind.EXPORT, str(name), encode_export(export))

    def _import(self, name: ServiceName, now_ns: int) -> Record | None:
        claims = self._visible_claims(name)
        if not claims:
            if self.imports.pop(name, None) is not None:
                self._allocations.release(name, now_ns=now_ns)
            self._disputed.pop(name, None)
            return self.records.withdraw(Kind.IMPORT, str(name))
        merged = merge(name, claims)
        self._note_dispute(merged)
        ips, families, gateway_ports = self._allocations.take(
            name,
            families=merged.ip_families,
            ports=[p.port for p in merged.ports if p.protocol is Protocol.TCP],
            headless=merged.headless,
            now_ns=now_ns,
        )
        merged = replace(merged, ips=ips, ip_families=families, gateway_ports=gateway_ports)
        if aliases := self._aliases(merged):
            merged = replace(merged, aliases=aliases)
        self.imports[name] = merged
        return self.records.claim(Kind.IMPORT, str(name), encode_import(merged))

    def _note_dispute(self, merged: Import) -> None:
        """The ports of the own export are not those of an older one. Who has the older one says nothing of it."""
        own = f"{self._cluster}: "
        mine = [
            c.detail.removeprefix(own)
            for c in merged.conflicts
            if c.reason == PORT_CONFLICT and c.detail.startswith(own)
        ]
        if mine:
            self._disputed[merged.name] = f"of the export of this cluster, {'; '.join(mine)}; the oldest export counts"
        else:
            self._disputed.pop(merged.name, None)

    def _visible_claims(self, name: ServiceName) -> list[Claim]:
        claims = []
        if (own := self._own.get(name)) is not None:
            claims.append(Claim(cluster=self._cluster, service=own, local=True, stale=False, endpoints=own.endpoints))
        for origin in sorted(self._claims.get(name, ())):
            neighbour = self.neighbours[origin]
            if neighbour.bundle is None or neighbour.link is None or neighbour.state is OriginState.GONE:
                continue
            service = neighbour.services[name]
            allowed = allowed_ports(name, service.grants, neighbour.link, consumer=self._cluster)
            if allowed is not None and not any(p.port in allowed for p in service.ports):
                continue
            granted = None if allowed is None else frozenset(allowed)
            reached = self._reached(neighbour, service)
            claims.append(
                Claim(cluster=origin, service=service, stale=neighbour.stale, granted=granted, endpoints=reached)
            )
        return claims

    def _reached(self, neighbour: Neighbour, service: Service) -> tuple[Endpoint, ...]:
        """The endpoints of a headless service of another cluster that are reached directly."""
        found = neighbour.endpoints.get(service.name)
        if found is None or not service.headless or not self._network or found.network != self._network:
            return ()
        return found.endpoints
