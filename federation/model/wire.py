"""Model ↔ protobuf. Bytes that come in are parsed here, once, and every name and port in them is checked.

`encode_*` is deterministic: equal values give equal bytes, so that payloads can be compared and hashed. `decode_*`
raises InvalidInput for bytes that are no such message, and InvalidName for names that are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from federation.errors import InvalidInput
from federation.model.cluster import MOST_RANGES, Bundle, Cluster, Gateway, Link, LinkGrant, Peer, Problem
from federation.model.endpointwire import encoded, sized
from federation.model.ids import ServiceName, SpiffeId, parse_label, parse_port
from federation.model.service import (
    MAX_WEIGHT,
    AppProtocol,
    Backend,
    Endpoint,
    Endpoints,
    Export,
    FieldConflict,
    Grant,
    Import,
    Locality,
    Port,
    Protocol,
    Readiness,
    Service,
)
from federation.proto.v1 import records_pb2 as pb

M = TypeVar("M", bound=Message)

_APP_TO_PB = {
    AppProtocol.OPAQUE: pb.OPAQUE,
    AppProtocol.HTTP: pb.HTTP,
    AppProtocol.H2C: pb.H2C,
    AppProtocol.GRPC: pb.GRPC,
}
_APP_FROM_PB = {value: key for key, value in _APP_TO_PB.items()}
_PROTOCOL_TO_PB = {Protocol.TCP: pb.TCP, Protocol.UDP: pb.UDP, Protocol.SCTP: pb.SCTP}
_PROTOCOL_FROM_PB = {value: key for key, value in _PROTOCOL_TO_PB.items()}


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _parse(kind: Callable[[], M], data: bytes) -> M:
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidInput(f"no {type(message).__name__} message: {error}", code="malformed_record") from error
    return message


# --- parts -----------------------------------------------------------------------------------------------------------


def locality_to_pb(value: Locality) -> pb.Locality:
    return pb.Locality(region=value.region, zone=value.zone)


def locality_from_pb(message: pb.Locality) -> Locality:
    return Locality(message.region, message.zone)


def _port_to_pb(value: Port) -> pb.Port:
    return pb.Port(
        name=value.name,
        port=value.port,
        protocol=_PROTOCOL_TO_PB[value.protocol],
        app=_APP_TO_PB[value.app],
        declared=value.declared,
    )


def _port_from_pb(message: pb.Port) -> Port:
    return Port(
        name=parse_label(message.name, what="port name") if message.name else "",
        port=parse_port(message.port, what="port"),
        protocol=_PROTOCOL_FROM_PB.get(message.protocol, Protocol.TCP),
        app=_APP_FROM_PB.get(message.app, AppProtocol.OPAQUE),  # an app protocol of the future is carried as bytes
        declared=message.declared,
    )


def _readiness_to_pb(value: Readiness) -> pb.Readiness:
    return pb.Readiness(locality=locality_to_pb(value.locality), ready=value.ready, weight=value.weight)


def _readiness_from_pb(message: pb.Readiness) -> Readiness:
    return Readiness(locality_from_pb(message.locality), message.ready, message.weight)


def _endpoint_to_pb(value: Endpoint) -> pb.Endpoint:
    return pb.Endpoint(
        address=value.address,
        ready=value.ready,
        terminating=value.terminating,
        locality=locality_to_pb(value.locality),
        hostname=value.hostname,
        ports=dict(value.ports),
        identity=value.identity,
        weight=value.weight if value.weight != 1 else 0,
    )


def _endpoint_from_pb(message: pb.Endpoint) -> Endpoint:
    return Endpoint(
        address=message.address,
        ready=message.ready,
        terminating=message.terminating,
        locality=locality_from_pb(message.locality),
        hostname=message.hostname,
        ports={
            parse_port(k, what="service port"): parse_port(v, what="target port")
            for k, v in sorted(message.ports.items())
        },
        identity=str(SpiffeId.parse(message.identity)) if message.identity else "",
        weight=max(1, min(message.weight, MAX_WEIGHT)),
    )


def grants_to_pb(values: Iterable[Grant]) -> list[pb.Grant]:
    return [pb.Grant(consumer=g.consumer, ports=g.ports) for g in values]


def grants_from_pb(messages: Iterable[pb.Grant]) -> tuple[Grant, ...]:
    return tuple(
        Grant(
            m.consumer if m.consumer == "*" else parse_label(m.consumer, what="consumer"),
            tuple(parse_port(p, what="port") for p in m.ports),
        )
        for m in messages
    )


def gateway_to_pb(value: Gateway) -> pb.Gateway:
    return pb.Gateway(
        name=value.name,
        address=value.address,
        port=value.port,
        locality=locality_to_pb(value.locality),
        weight=value.weight,
        draining=value.draining,
        egress=value.egress,
    )


def gateway_from_pb(message: pb.Gateway) -> Gateway:
    return Gateway(
        name=parse_label(message.name, what="gateway"),
        address=message.address,
        port=parse_port(message.port, what="gateway port"),
        locality=locality_from_pb(message.locality),
        weight=max(1, message.weight),
        draining=message.draining,
        egress=message.egress,
    )


def bundle_to_pb(value: Bundle) -> pb.Bundle:
    return pb.Bundle(
        trust_domain=value.trust_domain,
        sequence=value.sequence,
        roots=value.roots,
        refresh_hint_seconds=value.refresh_hint_seconds,
        signature=value.signature,
    )


def bundle_from_pb(message: pb.Bundle) -> Bundle:
    return Bundle(
        trust_domain=message.trust_domain,
        sequence=message.sequence,
        roots=tuple(message.roots),
        refresh_hint_seconds=message.refresh_hint_seconds,
        signature=message.signature,
    )


def problem_to_pb(value: Problem) -> pb.Problem:
    return pb.Problem(code=value.code, subject=value.subject, detail=value.detail, since_ns=value.since_ns)


def problem_from_pb(message: pb.Problem) -> Problem:
    return Problem(message.code, message.subject, message.detail, message.since_ns)


def link_grant_to_pb(value: LinkGrant) -> pb.LinkGrant:
    return pb.LinkGrant(
        origin=value.origin,
        consumer=value.consumer,
        namespace=value.namespace,
        service=value.service,
        ports=value.ports,
    )


def link_grant_from_pb(message: pb.LinkGrant) -> LinkGrant:
    return LinkGrant(
        origin=parse_label(message.origin, what="origin"),
        consumer=parse_label(message.consumer, what="consumer"),
        namespace=_label_or_star(message.namespace, "namespace"),
        service=_label_or_star(message.service, "service"),
        ports=tuple(parse_port(p, what="port") for p in message.ports),
    )


def _label_or_star(text: str, what: str) -> str:
    return "*" if text in ("", "*") else parse_label(text, what=what)


def _name(namespace: str, name: str) -> ServiceName:
    return ServiceName(parse_label(namespace, what="namespace"), parse_label(name, what="service"))


# --- payloads --------------------------------------------------------------------------------------------------------


def service_to_pb(value: Service, *, endpoints: bool = True) -> pb.Service:
    """`endpoints`: with them; what leaves the cluster has none."""
    return pb.Service(
        namespace=value.name.namespace,
        name=value.name.name,
        exported_at_ns=value.exported_at_ns,
        ports=map(_port_to_pb, value.ports),
        headless=value.headless,
        session_affinity=value.session_affinity,
        session_affinity_seconds=value.session_affinity_seconds,
        internal_traffic_policy=value.internal_traffic_policy,
        traffic_distribution=value.traffic_distribution,
        ip_families=value.ip_families,
        labels=dict(value.labels),
        annotations=dict(value.annotations),
        readiness=map(_readiness_to_pb, value.readiness),
        grants=grants_to_pb(value.grants),
        endpoints=map(_endpoint_to_pb, value.endpoints) if endpoints else (),
    )


def service_from_pb(message: pb.Service) -> Service:
    return Service(
        name=_name(message.namespace, message.name),
        exported_at_ns=message.exported_at_ns,
        ports=tuple(map(_port_from_pb, message.ports)),
        headless=message.headless,
        session_affinity=message.session_affinity or "None",
        session_affinity_seconds=message.session_affinity_seconds,
        internal_traffic_policy=message.internal_traffic_policy,
        traffic_distribution=message.traffic_distribution,
        ip_families=tuple(message.ip_families),
        labels=dict(sorted(message.labels.items())),
        annotations=dict(sorted(message.annotations.items())),
        readiness=tuple(map(_readiness_from_pb, message.readiness)),
        grants=grants_from_pb(message.grants),
        endpoints=tuple(map(_endpoint_from_pb, message.endpoints)),
    )


def encode_service(value: Service, *, endpoints: bool = True) -> bytes:
    return _bytes(service_to_pb(value, endpoints=endpoints))


def decode_service(data: bytes) -> Service:
    return service_from_pb(_parse(pb.Service, data))


def encode_endpoints(value: Endpoints) -> bytes:
    return _bytes(
        pb.Endpoints(
            namespace=value.name.namespace,
            name=value.name.name,
            network=value.network,
            endpoints=map(_endpoint_to_pb, value.endpoints),
            grants=grants_to_pb(value.grants),
        )
    )


def decode_endpoints(data: bytes) -> Endpoints:
    message = _parse(pb.Endpoints, data)
    return Endpoints(
        name=_name(message.namespace, message.name),
        network=parse_label(message.network, what="network"),
        endpoints=tuple(map(_endpoint_from_pb, message.endpoints)),
        grants=grants_from_pb(message.grants),
    )


def encode_gateway(value: Gateway) -> bytes:
    return _bytes(gateway_to_pb(value))


def decode_gateway(data: bytes) -> Gateway:
    return gateway_from_pb(_parse(pb.Gateway, data))


def cluster_to_pb(value: Cluster) -> pb.Cluster:
    return pb.Cluster(
        name=value.name,
        trust_domain=value.trust_domain,
        locality=locality_to_pb(value.locality),
        bundle=bundle_to_pb(value.bundle),
        agent_version=value.agent_version,
        problems=map(problem_to_pb, value.problems),
        network=value.network,
        pod_ranges=value.pod_ranges,
        outbound_only=value.outbound_only,
    )


def encode_cluster(value: Cluster) -> bytes:
    return _bytes(cluster_to_pb(value))


def decode_cluster(data: bytes) -> Cluster:
    message = _parse(pb.Cluster, data)
    return Cluster(
        name=parse_label(message.name, what="cluster"),
        trust_domain=message.trust_domain,
        locality=locality_from_pb(message.locality),
        bundle=bundle_from_pb(message.bundle),
        agent_version=message.agent_version,
        problems=tuple(map(problem_from_pb, message.problems)),
        network=parse_label(message.network, what="network") if message.network else "",
        pod_ranges=tuple(message.pod_ranges[:MOST_RANGES]),
        outbound_only=message.outbound_only,
    )


def link_to_pb(value: Link) -> pb.Link:
    return pb.Link(a=value.a, b=value.b, created_ns=value.created_ns, grants=map(link_grant_to_pb, value.grants))


def link_from_pb(message: pb.Link) -> Link:
    return Link(
        a=parse_label(message.a, what="cluster"),
        b=parse_label(message.b, what="cluster"),
        created_ns=message.created_ns,
        grants=tuple(map(link_grant_from_pb, message.grants)),
    )


def encode_link(value: Link) -> bytes:
    return _bytes(link_to_pb(value))


def decode_link(data: bytes) -> Link:
    return link_from_pb(_parse(pb.Link, data))


def import_to_pb(value: Import) -> pb.Import:
    message = _early_import(value)
    message.backends.extend(map(_backend_to_pb, value.backends))
    message.MergeFrom(_late_import(value))
    return message


def _early_import(value: Import) -> pb.Import:
    """The fields before `backends`."""
    return pb.Import(
        namespace=value.name.namespace,
        name=value.name.name,
        ips=value.ips,
        ip_families=value.ip_families,
        headless=value.headless,
        ports=map(_port_to_pb, value.ports),
        session_affinity=value.session_affinity,
        session_affinity_seconds=value.session_affinity_seconds,
        traffic_distribution=value.traffic_distribution,
        labels=dict(value.labels),
        annotations=dict(value.annotations),
    )


def _late_import(value: Import) -> pb.Import:
    """Those after it."""
    return pb.Import(
        conflicts=(pb.Conflict(field=c.reason, detail=c.detail) for c in value.conflicts),
        internal_traffic_policy=value.internal_traffic_policy,
        gateway_ports=dict(value.gateway_ports),
        aliases=value.aliases,
    )


def import_from_pb(message: pb.Import) -> Import:
    return Import(
        name=_name(message.namespace, message.name),
        ips=tuple(message.ips),
        ip_families=tuple(message.ip_families),
        headless=message.headless,
        ports=tuple(map(_port_from_pb, message.ports)),
        session_affinity=message.session_affinity or "None",
        session_affinity_seconds=message.session_affinity_seconds,
        internal_traffic_policy=message.internal_traffic_policy,
        traffic_distribution=message.traffic_distribution,
        labels=dict(sorted(message.labels.items())),
        annotations=dict(sorted(message.annotations.items())),
        backends=tuple(map(_backend_from_pb, message.backends)),
        conflicts=tuple(FieldConflict(c.field, c.detail) for c in message.conflicts),
        gateway_ports=dict(sorted(message.gateway_ports.items())),
        aliases=tuple(message.aliases),
    )


def encode_import(value: Import) -> bytes:
    """In parts, in the order of the fields: what protobuf would write for the whole."""
    parts = [_bytes(_early_import(value))]
    parts += [b"\x62" + sized(_backend_bytes(backend)) for backend in value.backends]
    return b"".join([*parts, _bytes(_late_import(value))])


def decode_import(data: bytes) -> Import:
    return import_from_pb(_parse(pb.Import, data))


def _backend_bytes(value: Backend) -> bytes:
    head = pb.Backend(
        cluster=value.cluster,
        local=value.local,
        stale=value.stale,
        ports=value.ports,
        readiness=map(_readiness_to_pb, value.readiness),
    )
    return _bytes(head) + encoded(value.endpoints, field=6)


def _backend_to_pb(value: Backend) -> pb.Backend:
    return pb.Backend(
        cluster=value.cluster,
        local=value.local,
        stale=value.stale,
        ports=value.ports,
        readiness=map(_readiness_to_pb, value.readiness),
        endpoints=map(_endpoint_to_pb, value.endpoints),
    )


def _backend_from_pb(message: pb.Backend) -> Backend:
    return Backend(
        cluster=message.cluster,
        local=message.local,
        stale=message.stale,
        ports=tuple(message.ports),
        readiness=tuple(map(_readiness_from_pb, message.readiness)),
        endpoints=tuple(map(_endpoint_from_pb, message.endpoints)),
    )


def encode_export(value: Export) -> bytes:
    """In parts, as `encode_import`."""
    head = pb.Export(namespace=value.name.namespace, name=value.name.name, ports=map(_port_to_pb, value.ports))
    late = _bytes(pb.Export(grants=grants_to_pb(value.grants))) if value.grants else b""
    return _bytes(head) + encoded(value.endpoints, field=4) + late


def decode_export(data: bytes) -> Export:
    message = _parse(pb.Export, data)
    return Export(
        name=_name(message.namespace, message.name),
        ports=tuple(map(_port_from_pb, message.ports)),
        endpoints=tuple(map(_endpoint_from_pb, message.endpoints)),
        grants=grants_from_pb(message.grants),
    )


def encode_peer(value: Peer) -> bytes:
    return _bytes(
        pb.Peer(
            cluster=value.cluster,
            trust_domain=value.trust_domain,
            locality=locality_to_pb(value.locality),
            own=value.own,
            bundle=bundle_to_pb(value.bundle),
            gateways=map(gateway_to_pb, value.gateways),
        )
    )


def decode_peer(data: bytes) -> Peer:
    message = _parse(pb.Peer, data)
    return Peer(
        cluster=parse_label(message.cluster, what="cluster"),
        trust_domain=message.trust_domain,
        locality=locality_from_pb(message.locality),
        own=message.own,
        bundle=bundle_from_pb(message.bundle),
        gateways=tuple(map(gateway_from_pb, message.gateways)),
    )
