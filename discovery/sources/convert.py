"""Pure: one Service, its ServiceExport and its EndpointSlices become what the cluster claims of the service.

Follows the Multi-Cluster Services API (KEP-1645), the EndpointSlice API (discovery.k8s.io/v1) and KEP-3726 for
application protocols. Arrives checked (discovery.sources.manifests); leaves as federation.model.service.Service with
its local endpoints, or as a Refused with the reason that `fedctl status` shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from discovery.sources import manifests as k8s
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Endpoint, Locality, Port, Protocol, Readiness, Service

_APP = {
    "http": AppProtocol.HTTP,
    "kubernetes.io/ws": AppProtocol.HTTP,  # a WebSocket begins as HTTP/1.1
    "kubernetes.io/h2c": AppProtocol.H2C,
    "h2c": AppProtocol.H2C,
    "http2": AppProtocol.H2C,
    "grpc": AppProtocol.GRPC,
    "grpc-web": AppProtocol.HTTP,
}
_SHOWN = frozenset(Protocol)
"""Ports of other protocols, which no API server takes, are left out, with a Problem."""
_ENOUGH = frozenset({"TCP", "UDP"})
"""A service has a port of one of these."""
MAX_METADATA_BYTES = 256 * 1024
"""Kubernetes refuses more annotations than this on one object, so no cluster could import them."""
_DEFAULT_AFFINITY_SECONDS = 10_800  # core/v1 SessionAffinityConfig


class Refused(Exception):
    """Why an exported service cannot be offered: a stable code and one line."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def convert(
    service: k8s.Service,
    export: k8s.ServiceExport,
    slices: Sequence[k8s.EndpointSlice],
    *,
    exported_at_ns: int,
    locality: Locality,
    nodes: Mapping[str, Locality] | None = None,
) -> Service:
    """The claim; `locality` is the cluster's own, for endpoints that say nothing and whose node, in `nodes`, does
    neither. Raises Refused."""
    spec = service.spec
    if spec.type == "ExternalName":
        raise Refused("invalid_service_type", "a Service of type ExternalName cannot be exported (InvalidServiceType)")
    ports = tuple(port(p) for p in spec.ports or () if (p.protocol or "TCP") in _SHOWN)
    if spec.ports and not any(p.protocol in _ENOUGH for p in ports):
        raise Refused("unsupported_protocol", "none of its ports speaks TCP or UDP")
    headless = spec.cluster_ip == "None"
    endpoints = _endpoints(spec, ports, slices, headless=headless, locality=locality, nodes=nodes or {})
    affinity = spec.session_affinity or "None"
    exported = export.spec or k8s.ExportSpec()
    _check_size(exported)
    return Service(
        name=ServiceName(service.metadata.namespace or "default", service.metadata.name),
        exported_at_ns=exported_at_ns,
        ports=ports,
        headless=headless,
        session_affinity=affinity,
        session_affinity_seconds=_affinity_seconds(spec) if affinity == "ClientIP" else 0,
        internal_traffic_policy=spec.internal_traffic_policy or "",
        traffic_distribution=spec.traffic_distribution or "",
        ip_families=tuple(spec.ip_families or _families(slices)),
        labels=dict(sorted((exported.exported_labels or {}).items())),
        annotations=dict(sorted((exported.exported_annotations or {}).items())),
        readiness=readiness(endpoints),
        grants=k8s.grants((export.metadata.annotations or {}).get(k8s.CONSUMERS)),
        endpoints=endpoints,
    )


def uncarried(service: k8s.Service) -> tuple[tuple[int, str], ...]:
    """(port, protocol) of the ports that neither gateways nor sidecars carry: all but those of TCP."""
    return tuple(
        (p.port, p.protocol[:20]) for p in service.spec.ports or () if p.protocol and p.protocol != Protocol.TCP
    )


def unsupported(service: k8s.Service) -> tuple[str, ...]:
    """What to say of those that are a problem. UDP is none: it mostly stands beside TCP, as for DNS, and the status of
    such a cluster would never be clean; previews and the ServiceExport name it."""
    return tuple(_not_carried(*one) for one in uncarried(service) if one[1] != Protocol.UDP)


def _not_carried(port: int, protocol: str) -> str:
    shown = "imports show it, gateways and sidecars carry TCP only" if protocol in _SHOWN else "it is left out"
    return f"port {port} speaks {protocol}: {shown}"


def with_slices(
    held: Service,
    service: k8s.Service,
    slices: Sequence[k8s.EndpointSlice],
    *,
    locality: Locality,
    nodes: Mapping[str, Locality],
) -> Service:
    """What `convert` makes of these slices, where `held` is what it made of the same service, export and locality and
    of other slices or nodes. Endpoints that are alike are the same objects; so is the whole where nothing differs."""
    endpoints = _endpoints(
        service.spec,
        held.ports,
        slices,
        headless=held.headless,
        locality=locality,
        nodes=nodes,
        held={(e.address, e.hostname): e for e in held.endpoints},
    )
    families = tuple(service.spec.ip_families or _families(slices))
    if endpoints == held.endpoints and families == held.ip_families:
        return held
    return replace(held, ip_families=families, readiness=readiness(endpoints), endpoints=endpoints)


def port(value: k8s.ServicePort) -> Port:
    """A port of a Service that speaks one of Protocol."""
    protocol = Protocol(value.protocol or "TCP")
    app = app_protocol(value.app_protocol, value.name or "") if protocol is Protocol.TCP else AppProtocol.OPAQUE
    return Port(name=value.name or "", port=value.port, protocol=protocol, app=app, declared=value.app_protocol or "")


def app_protocol(declared: str | None, name: str) -> AppProtocol:
    """From appProtocol, else from the port's name or its part before the first '-'.

    `https` and `kubernetes.io/wss` are carried as bytes: the encryption is the workload's own.
    """
    if declared:
        return _APP.get(declared.lower(), AppProtocol.OPAQUE)
    prefix = name.partition("-")[0]
    return _APP.get(prefix, AppProtocol.OPAQUE)


def readiness(endpoints: Iterable[Endpoint]) -> tuple[Readiness, ...]:
    """Ready endpoints per zone with their weights, sorted. One that has an address in both families counts once."""
    counts: dict[tuple[str, str], list[int]] = {}  # not by Locality: its hash is a function of Python
    for endpoint in endpoints:
        if endpoint.ready:
            place = endpoint.locality
            count = counts.setdefault((place.region, place.zone), [0, 0, 0, 0])
            family = 2 if ":" in endpoint.address else 0
            count[family] += 1
            count[family + 1] += endpoint.weight
    return tuple(_ready(place, counts[place]) for place in sorted(counts))


def _ready(place: tuple[str, str], count: list[int]) -> Readiness:
    ready, weight = max((count[0], count[1]), (count[2], count[3]))
    return Readiness(_locality(*place), ready, 0 if weight == ready else weight)


@lru_cache(maxsize=4096)
def _locality(region: str, zone: str) -> Locality:
    """One object for each: there are many endpoints and few zones."""
    return Locality(region, zone)


def _endpoints(
    spec: k8s.ServiceSpec,
    ports: tuple[Port, ...],
    slices: Sequence[k8s.EndpointSlice],
    *,
    headless: bool,
    locality: Locality,
    nodes: Mapping[str, Locality],
    held: Mapping[tuple[str, str], Endpoint] = MappingProxyType({}),
) -> tuple[Endpoint, ...]:
    """All endpoints, sorted. One that stands in several slices is one: ready if any says so, with the ports of all.
    Those of `held`, by (address, hostname), that are alike are taken from there."""
    found: dict[tuple[str, str], Endpoint] = {}
    nowhere = Locality()
    for slice_ in slices:
        targets = _targets(ports, slice_)
        labels = slice_.metadata.labels or {}
        for given in slice_.endpoints or ():
            conditions = given.conditions or k8s.Conditions()
            is_ready = conditions.ready is not False or bool(spec.publish_not_ready_addresses)
            serving = is_ready if conditions.serving is None else conditions.serving
            node = nodes.get(given.node, nowhere) if given.node else nowhere
            place = _locality(
                node.region or labels.get(k8s.REGION) or locality.region,
                given.zone or node.zone or labels.get(k8s.ZONE) or locality.zone,
            )
            terminating = bool(conditions.terminating) and serving
            # Further addresses are the same endpoint (EndpointSlice API: fungible).
            key = (given.addresses[0], (given.hostname or "") if headless else "")
            last = held.get(key)
            if (
                last is not None
                and last.ready is is_ready
                and last.terminating is terminating
                and last.locality is place
                and last.ports == targets
            ):
                endpoint = last
            else:
                endpoint = Endpoint(
                    address=key[0],
                    ready=is_ready,
                    terminating=terminating,
                    locality=place,
                    hostname=key[1],
                    ports=targets,
                )
            known = found.get(key)
            if known is not None:
                endpoint = replace(
                    endpoint if endpoint.ready or not known.ready else known,
                    ready=endpoint.ready or known.ready,
                    ports=dict(sorted({**known.ports, **endpoint.ports}.items())),
                )
            found[key] = endpoint
    return tuple(found[key] for key in sorted(found))


def _targets(ports: tuple[Port, ...], slice_: k8s.EndpointSlice) -> dict[int, int]:
    """Service port → port of this slice's endpoints. A slice port belongs to the service port of its name, so named
    target ports need no look-up; where a number is of several protocols, TCP decides, then UDP."""
    offered = {(p.name or "", p.protocol or "TCP"): p.port for p in slice_.ports or () if p.port is not None}
    targets: dict[int, int] = {}
    for given in sorted(ports, key=lambda p: (p.port, _ORDER.index(p.protocol))):
        target = offered.get((given.name, given.protocol.value))
        if target is None and len(ports) == len(offered) == 1:  # one port each: nothing to confuse
            target = next(iter(offered.values()))
        if target is not None:
            targets.setdefault(given.port, target)
    return targets


_ORDER = tuple(Protocol)


def _families(slices: Iterable[k8s.EndpointSlice]) -> list[str]:
    return sorted({s.address_type for s in slices if s.endpoints}) or ["IPv4"]


def _check_size(exported: k8s.ExportSpec) -> None:
    for what, pairs in (("labels", exported.exported_labels), ("annotations", exported.exported_annotations)):
        size = sum(len(key.encode()) + len(value.encode()) for key, value in (pairs or {}).items())
        if size > MAX_METADATA_BYTES:
            raise Refused("metadata_too_large", f"exported {what} of {size} bytes; at most {MAX_METADATA_BYTES}")


def _affinity_seconds(spec: k8s.ServiceSpec) -> int:
    config = spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    return _DEFAULT_AFFINITY_SECONDS if seconds is None else min(max(seconds, 1), 86_400)
