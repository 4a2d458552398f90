"""What other clusters reach at a gateway: one listener, and a virtual host per exported service.

Three chains, chosen by ALPN: requests, TCP connections and health checks. Each demands TLS 1.3 and a certificate of a
linked trust domain. Nothing matches by wildcard: what is not exported does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from federation.envoy import listener, names, route, tls
from federation.model.ids import ServiceName

_VIRTUAL_HOSTS = RouteConfiguration.DESCRIPTOR.fields_by_name["virtual_hosts"].number
_MISDIRECTED = "421: the authority, the server name and the service do not agree"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedPort:
    """A port as callers find it. `admits` are trust domains."""

    service: ServiceName
    port: int
    http: bool
    sni: str
    admits: tuple[str, ...]


def inbound_listener(ip: str, port: int, *, cluster: str) -> Listener:
    """The listener `inbound`; nothing in it depends on what is exported."""
    words = {
        "UH": f"503: cluster {cluster} has no ready endpoint of this service",
        "UF": f"503: no endpoint of this service in cluster {cluster} could be connected to",
        "NC": f"503: cluster {cluster} does not, or not any more, export this service",
    }
    requests = listener.http("in", names.INBOUND, gateway=True, words=words)
    checks = listener.http("health", names.HEALTH, gateway=True, http1=True)
    return listener.listener(
        names.INBOUND,
        ip,
        port,
        [
            listener.chain("http", [_state(), requests], alpn=names.ALPN_HTTP, transport=_tls(names.ALPN_HTTP)),
            listener.chain(
                "tcp", listener.tcp_of_caller("in-tcp"), alpn=names.ALPN_TCP, transport=_tls(names.ALPN_TCP)
            ),
            listener.chain("health", [_state(), checks], alpn=names.ALPN_HEALTH, transport=_tls(names.ALPN_HEALTH)),
        ],
        inspect_tls=True,
    )


def request_host(service: ServiceName, domains: Sequence[str], ports: Iterable[ExportedPort]) -> VirtualHost:
    """The virtual host of an exported service: its HTTP ports, each bound to its server name."""
    ways = [
        way
        for p in ports
        if p.http
        for way in route.exported_routes(names.inbound_cluster(p.service, p.port), sni=p.sni, trust_domains=p.admits)
    ]
    return _host(service, domains, ways)


def health_host(service: ServiceName, domains: Sequence[str], ports: Iterable[ExportedPort]) -> VirtualHost:
    """The virtual host that answers checks of a service's ports, each bound to its server name."""
    return _host(service, domains, [w for p in ports for w in route.health_routes(sni=p.sni, trust_domains=p.admits)])


def configuration(name: str, hosts: Iterable[bytes]) -> RouteConfiguration:
    """A route configuration of exactly `hosts`, serialised virtual hosts; everything else is misdirected.

    A virtual host of 1 kB is 9 kB as a message, so it is kept as bytes, and all of them are parsed at once.
    """
    made = route.configuration(name, [])
    made.MergeFromString(b"".join(_field(_VIRTUAL_HOSTS, host) for host in hosts))
    made.virtual_hosts.append(route.virtual_host("*", ["*"], [route.refusal(421, _MISDIRECTED)]))
    return made


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    head = bytearray([number << 3 | 2])
    size = len(data)
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + data


def _host(service: ServiceName, domains: Sequence[str], ways: Iterable[Route]) -> VirtualHost:
    return route.virtual_host(str(service), domains, [*ways, route.refusal(421, _MISDIRECTED)])


def _state() -> Filter:
    return listener.connection_state(
        at_once=[(names.STATE_SNI, "%REQUESTED_SERVER_NAME%")],
        after_handshake=[(names.STATE_PEER, "%DOWNSTREAM_PEER_URI_SAN%")],
    )


def _tls(alpn: str) -> TransportSocket:
    return tls.downstream([alpn])
