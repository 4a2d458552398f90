"""Merges what several clusters claim of one service into what a consumer sees: the conflict rules of MCS (KEP-1645).

Arrives: the claims for one name, in any order. Leaves: an Import without addresses (discovery.mcs.imports allocates
those). Pure: the same set of claims gives the same Import. The oldest export wins; between equally old ones, the
cluster whose name sorts first. Every disagreement is listed with its MCS condition reason.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass
from operator import lt
from typing import Any

from federation.model.ids import ServiceName
from federation.model.service import Backend, Endpoint, FieldConflict, Import, Port, Protocol, Service

PORT_CONFLICT = "PortConflict"
"""Reason of a FieldConflict, as in the condition of the MCS API. Its detail begins with the cluster that gives way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one cluster says of the service. `endpoints`: those that the consumer reaches directly.

    `granted`: the port numbers that the consumer may use (None: all). Ports that are kept from it are no conflict.
    """

    cluster: str
    service: Service
    local: bool = False
    stale: bool = False
    endpoints: tuple[Endpoint, ...] = ()
    granted: frozenset[int] | None = None

    @property
    def age(self) -> tuple[int, str]:
        """Claims sorted by this are in the order in which they win."""
        return (self.service.exported_at_ns, self.cluster)


def merge(name: ServiceName, claims: Sequence[Claim]) -> Import:
    """The import of `name`. Raises ValueError without claims, for two of one cluster, or for one of another name."""
    if not claims:
        raise ValueError(f"no claims for {name}")
    ordered = sorted(claims, key=lambda claim: claim.age)
    if len({claim.cluster for claim in ordered}) != len(ordered):
        raise ValueError(f"two claims of one cluster for {name}")
    if any(claim.service.name != name for claim in ordered):
        raise ValueError(f"a claim for another service than {name}")
    winner = ordered[0].service
    ports, accepted, port_conflicts = _merge_ports(ordered)
    conflicts = [*port_conflicts, *_field_conflicts(ordered)]
    backends = (_backend(claim, accepted[claim.cluster], winner) for claim in ordered)
    return Import(
        name=name,
        ip_families=_families(ordered),
        headless=winner.headless,
        ports=ports,
        session_affinity=winner.session_affinity,
        session_affinity_seconds=winner.session_affinity_seconds,
        internal_traffic_policy=winner.internal_traffic_policy,
        traffic_distribution=winner.traffic_distribution,
        labels=dict(sorted(winner.labels.items())),
        annotations=dict(sorted(winner.annotations.items())),
        backends=tuple(sorted(backends, key=lambda backend: backend.cluster)),
        conflicts=tuple(sorted(set(conflicts), key=lambda conflict: (conflict.reason, conflict.detail))),
    )


# --- ports ---


def _merge_ports(ordered: Sequence[Claim]) -> tuple[tuple[Port, ...], dict[str, tuple[int, ...]], list[FieldConflict]]:
    """The union of the ports, the numbers that each cluster serves of it, and the disagreements.

    Ports are the same when their (protocol, port) is; an older claim's name and app protocol stand. A claim whose name
    for a port is taken by another port loses that port: names stay unique, the empty name included. Ports that not all
    have are a conflict, too, although the union serves them (ServiceExportReasonPortConflict of the MCS API).
    """
    union: dict[tuple[str, int], Port] = {}
    names: dict[str, Port] = {}
    accepted: dict[str, set[tuple[str, int]]] = {}
    conflicts: list[FieldConflict] = []
    for claim in ordered:
        serves = accepted[claim.cluster] = set()
        before = len(conflicts)
        for port in claim.service.ports:
            if claim.granted is not None and port.port not in claim.granted:
                continue
            same = union.get((port.protocol, port.port))
            if same is None and port.name in names:
                there = names[port.name]
                what = f"port name {port.name!r}" if port.name else "the unnamed port"
                conflicts.append(_port_conflict(claim.cluster, f"{what} is {_show(there)}, not {_show(port)}"))
                continue
            if same is None:
                union[(port.protocol, port.port)] = names[port.name] = port
            elif same.name != port.name:
                conflicts.append(
                    _port_conflict(claim.cluster, f"port {_show(port)} is named {same.name!r}, not {port.name!r}")
                )
            elif same.app is not port.app:
                conflicts.append(
                    _port_conflict(claim.cluster, f"port {_show(port)} is {same.app.value}, not {port.app.value}")
                )
            serves.add((port.protocol, port.port))
        if len(conflicts) == before and (detail := _missing(ordered[0], claim)):
            conflicts.append(_port_conflict(claim.cluster, detail))
    ports = tuple(sorted(union.values(), key=lambda port: (port.port, port.protocol)))
    return ports, {cluster: _numbers(serves, union) for cluster, serves in accepted.items()}, conflicts


def _numbers(serves: Set[tuple[str, int]], union: Container[tuple[str, int]]) -> tuple[int, ...]:
    """The port numbers that a cluster serves. Where TCP has a number in the union, only who has it for TCP: calls go
    by the number, and TCP is what is carried."""
    return tuple(sorted({n for protocol, n in serves if protocol == Protocol.TCP or (Protocol.TCP, n) not in union}))


def _missing(first: Claim, claim: Claim) -> str:
    """How the ports of `claim` differ from those of the oldest one, whoever may use them; "" where they do not."""
    there = {(p.port, p.protocol): p for p in first.service.ports}
    here = {(p.port, p.protocol): p for p in claim.service.ports}
    more = ", ".join(_show(here[key]) for key in sorted(here.keys() - there.keys()))
    less = ", ".join(_show(there[key]) for key in sorted(there.keys() - here.keys()))
    said = [f"has {more}, which {first.cluster} has not"] if more else []
    said += [f"lacks {less} of {first.cluster}"] if less else []
    return " and ".join(said)


def _show(port: Port) -> str:
    return f"{port.port}/{port.protocol.value}"


def _port_conflict(cluster: str, detail: str) -> FieldConflict:
    return FieldConflict(PORT_CONFLICT, f"{cluster}: {detail}")


# --- everything else ---


def _pairs(values: Mapping[str, str]) -> Hashable:
    return tuple(sorted(values.items()))


_FIELDS: tuple[tuple[str, str, Callable[[Service], Any]], ...] = (
    ("TypeConflict", "type", lambda s: "Headless" if s.headless else "ClusterSetIP"),
    ("SessionAffinityConflict", "session affinity", lambda s: s.session_affinity),
    ("InternalTrafficPolicyConflict", "internal traffic policy", lambda s: s.internal_traffic_policy or "Cluster"),
    ("TrafficDistributionConflict", "traffic distribution", lambda s: s.traffic_distribution),
    ("LabelsConflict", "exported labels", lambda s: _pairs(s.labels)),
    ("AnnotationsConflict", "exported annotations", lambda s: _pairs(s.annotations)),
)


def _field_conflicts(ordered: Sequence[Claim]) -> list[FieldConflict]:
    """One conflict for every later claim and field that differs from the oldest claim's."""
    first, winner = ordered[0].cluster, ordered[0].service
    conflicts = []
    for claim in ordered[1:]:
        service = claim.service
        for reason, what, value in _FIELDS:
            if value(service) != value(winner):
                detail = _difference(what, value(winner), value(service), first)
                conflicts.append(FieldConflict(reason, f"{claim.cluster}: {detail}"))
        if (
            service.session_affinity == winner.session_affinity == "ClientIP"
            and service.session_affinity_seconds != winner.session_affinity_seconds
        ):
            there, here = winner.session_affinity_seconds, service.session_affinity_seconds
            detail = f"session affinity time-out is {there} s as in {first}, not {here} s"
            conflicts.append(FieldConflict("SessionAffinityConfigConflict", f"{claim.cluster}: {detail}"))
        if detail := _families_differ(winner, service, first):
            conflicts.append(FieldConflict("IPFamilyConflict", f"{claim.cluster}: {detail}"))
    return conflicts


def _families_differ(winner: Service, service: Service, first: str) -> str:
    """Behind a ClusterSetIP the gateways serve callers of any family from endpoints of any family, so only exports
    that have nothing in common are named; of a headless service a caller reaches the endpoints of its own family."""
    there, here = set(winner.ip_families), set(service.ip_families)
    if not there or not here or there == here:
        return ""
    if winner.headless:
        return f"the IP families are {', '.join(winner.ip_families)} in {first}, not {', '.join(service.ip_families)}"
    return "" if there & here else f"no IP family in common with {first}"


def _difference(what: str, there: Any, here: Any, first: str) -> str:
    if isinstance(there, tuple):
        keys = sorted({key for key, _ in set(there) ^ set(here)})
        return f"{what} differ from those of {first}: {', '.join(keys)}"
    return f"{what} is {there or 'unset'} as in {first}, not {here or 'unset'}"


def _families(ordered: Sequence[Claim]) -> tuple[str, ...]:
    """The families of the oldest claim that names any, in its order (an import's `ipFamilies`)."""
    return next((claim.service.ip_families for claim in ordered if claim.service.ip_families), ())


def _backend(claim: Claim, ports: tuple[int, ...], winner: Service) -> Backend:
    """A cluster's part. One that disagrees on headlessness still serves: the import's type is the oldest one's."""
    return Backend(
        cluster=claim.cluster,
        local=claim.local,
        stale=claim.stale,
        ports=ports,
        readiness=tuple(sorted(claim.service.readiness, key=lambda r: (r.locality, r.ready))),
        endpoints=_sorted(claim.endpoints),
    )


def _sorted(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Sources give them in this order mostly: that is quickly seen."""
    keys = [(e.address, e.hostname) for e in endpoints]
    if all(map(lt, keys, keys[1:])):
        return endpoints
    return tuple(sorted(endpoints, key=_by_address))


def _by_address(endpoint: Endpoint) -> tuple[str, str, list[tuple[int, int]], str, int]:
    return endpoint.address, endpoint.hostname, sorted(endpoint.ports.items()), endpoint.identity, endpoint.weight
