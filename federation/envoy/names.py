"""The names of Envoy's resources: each has one builder function here, and nobody writes a literal.

Parsers are exact: what a builder could not have made is None.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from federation.errors import InvalidName
from federation.model.ids import ServiceName, parse_label

CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT_TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER_TYPE = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE_TYPE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 (a type URL)

IDENTITY = "identity"
"""Secret: the process's own certificate chain and key."""
PEERS = "peers"
"""Secret: whom a gateway lets call, a SPIFFE validation context with a bundle per linked trust domain and the own."""
INBOUND = "inbound"
"""Listener of a gateway for other clusters, of a sidecar for the callers of its workload."""
INBOUND_TCP = "in-tcp"
"""Internal listener of a gateway that TCP connections pass once their caller is known, and the cluster before it."""
OUTBOUND = "outbound"
"""Listener of a sidecar that is led the redirected connections, and its route configuration."""

ALPN_HTTP = "h2"
ALPN_TCP = "isthmus-tcp"
ALPN_HEALTH = "isthmus-health"

STATE_CALLER = "isthmus.caller"
"""Filter state: whose workload a connection to a gateway belongs to and what it asked for, "<trust domain>|<SNI>"."""
STATE_DESTINATION = "isthmus.destination"
"""Filter state: the address and port that a redirected connection was made to."""
STATE_IDENTITY = "isthmus.identity"
"""Filter state: the SPIFFE ID that the caller of a sidecar's workload has proven."""


class InboundKind(StrEnum):
    """What a gateway's Envoy asks a cluster for: the beginning of its name."""

    HTTP = "in-http"
    TCP = "in-tcp"
    HEALTH = "in-health"


_INBOUND_KINDS = frozenset(InboundKind)
_TLS = "/@tls"  # no cluster can have this name


def peer_secret(trust_domain: str) -> str:
    """Secret: the SPIFFE validation context with the bundle of `trust_domain` alone, for who calls its gateways."""
    return f"{PEERS}/{trust_domain}"


def outbound_cluster(name: ServiceName, port: int, pinned: str | None = None) -> str:
    """An import's port, as callers reach it; `pinned`: in one cluster only."""
    return f"out/{name.namespace}/{name.name}/{port}" + (f"/{pinned}" if pinned else "")


def outbound_endpoints(name: ServiceName, port: int, pinned: str | None = None, *, tls: bool) -> str:
    """Its set of endpoints; `tls`: some want it.

    Such a set is another one. Envoy takes up a new cluster once that is complete, and tells the former one of endpoints
    meanwhile: one that knows of no TLS would send its callers' bytes to them as they are.
    """
    return outbound_cluster(name, port, pinned) + (_TLS if tls else "")


def vip_cluster(ip: str, port: int) -> str:
    """The cluster that a redirected connection to a virtual address is led to, asked for on demand."""
    return f"vip/{host_port(ip, port)}"


def inbound_endpoints(name: ServiceName, port: int, *, tls: bool = False) -> str:
    """The local endpoints of an exported port, at a gateway; `tls`: as for `outbound_endpoints`."""
    return f"in/{name.namespace}/{name.name}/{port}" + (_TLS if tls else "")


def inbound_http_cluster(trust_domain: str, sni: str, authority: str) -> str:
    """Where a gateway sends requests that name `authority`, on connections of `trust_domain` for `sni`."""
    return f"{InboundKind.HTTP}/{trust_domain}|{sni}|{authority}"


def inbound_tcp_cluster(trust_domain: str, sni: str) -> str:
    """Where a gateway sends TCP connections of `trust_domain` for `sni`."""
    return f"{InboundKind.TCP}/{trust_domain}|{sni}"


def inbound_health_cluster(trust_domain: str, sni: str) -> str:
    """What tells a gateway's answer to health checks of `trust_domain` for `sni`; nothing is sent there."""
    return f"{InboundKind.HEALTH}/{trust_domain}|{sni}"


def workload_cluster(name: ServiceName, port: int) -> str:
    """The workload beside a sidecar, as it serves a port of a service."""
    return f"workload/{name.namespace}/{name.name}/{port}"


def outbound_listener(ip: str, port: int) -> str:
    """A sidecar's listener on a virtual address (loopback way)."""
    return f"out/{host_port(ip, port)}"


def egress_listener(name: ServiceName, port: int) -> str:
    """A gateway's listener for workloads without a sidecar."""
    return f"egress/{name.namespace}/{name.name}/{port}"


def egress_cluster(name: ServiceName, port: int, number: int) -> str:
    """The cluster behind that listener, asked for on demand; each name is asked for once, so that they are numbered."""
    return f"egress/{name.namespace}/{name.name}/{port}/{number}"


def host_port(ip: str, port: int) -> str:
    """As Envoy prints an address: brackets around IPv6."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def server_name(name: ServiceName, port: int, trust_domain: str) -> str:
    """The SNI for a port of a service at the gateways of `trust_domain`."""
    return f"p{port}.{name.name}.{name.namespace}.svc.{trust_domain}"


class ServerName(NamedTuple):
    """A parsed SNI."""

    name: ServiceName
    port: int
    trust_domain: str


def parse_server_name(sni: str) -> ServerName | None:
    """The parts of what `server_name` made; None for anything else (upper case, trailing dot, leading zero …)."""
    parts = sni.split(".", 4)
    if len(parts) != 5 or parts[3] != "svc" or not parts[0].startswith("p"):
        return None
    port = _port(parts[0][1:])
    if port is None or not parts[4]:
        return None
    try:
        name = ServiceName(parse_label(parts[2], what="namespace"), parse_label(parts[1], what="service"))
    except InvalidName:
        return None
    return ServerName(name, port, parts[4])


class Inbound(NamedTuple):
    """A parsed name of a cluster that a gateway's Envoy asks for. Only `trust_domain` is verified, the caller chose the
    rest; `authority` is empty but for HTTP."""

    kind: InboundKind
    trust_domain: str
    sni: str
    authority: str


def parse_inbound_cluster(cluster: str) -> Inbound | None:
    """The parts of what the `inbound_…_cluster` functions made, None for anything else.

    Neither a server name nor an authority with a bar in it can pass for the parts of another name.
    """
    prefix, _, rest = cluster.partition("/")
    parts = rest.split("|")
    if prefix not in _INBOUND_KINDS or not all(parts):
        return None
    kind = InboundKind(prefix)
    if len(parts) != (3 if kind is InboundKind.HTTP else 2):
        return None
    return Inbound(kind, parts[0], parts[1], parts[2] if kind is InboundKind.HTTP else "")


def parse_vip_cluster(cluster: str) -> tuple[str, int] | None:
    """(IP, port) of what `vip_cluster` made, None for anything else."""
    if not cluster.startswith("vip/"):
        return None
    ip, colon, digits = cluster[len("vip/") :].rpartition(":")
    port = _port(digits)
    if not colon or port is None or not ip:
        return None
    if ip.startswith("[") and ip.endswith("]") and ":" in ip:
        return ip[1:-1], port
    return None if ":" in ip or "[" in ip else (ip, port)


def parse_egress_cluster(cluster: str) -> tuple[ServiceName, int, int] | None:
    """(service, port, number) of what `egress_cluster` made, None for anything else."""
    parts = cluster.split("/")
    if len(parts) != 5 or parts[0] != "egress":
        return None
    port, number = _port(parts[3]), parts[4]
    if port is None or not (number.isascii() and number.isdigit()) or number[0] == "0" or len(number) > 18:
        return None
    try:
        name = ServiceName(parse_label(parts[1], what="namespace"), parse_label(parts[2], what="service"))
    except InvalidName:
        return None
    return name, port, int(number)


def _port(digits: str) -> int | None:
    if not digits.isascii() or not digits.isdigit() or digits[0] == "0":
        return None
    port = int(digits) if len(digits) <= 5 else 0
    return port if 1 <= port <= 65535 else None
