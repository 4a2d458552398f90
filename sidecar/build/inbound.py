"""What the own cluster reaches at a sidecar: one listener, with chains for each port that the workload serves.

A chain is chosen by the exact server name and the ALPN; a connection that asks for anything else is closed. Each
demands TLS 1.3 and a certificate of the own trust domain: other clusters come through a gateway, which knows their
grants. The workload is reached in plain text, and only once the caller is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from federation.envoy import cluster, listener, names, route, tls
from federation.envoy.ledger import Part
from federation.envoy.listener import Reply
from federation.envoy.route import Binding
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol
from federation.policy import routes

_MISDIRECTED = "421: the authority and the server name do not agree"
_NO_WORKLOAD = "503: the workload beside this sidecar takes no connection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A port of a service that the workload beside this sidecar serves, in plain text at `address`:`target`."""

    name: ServiceName
    port: int
    app: AppProtocol = AppProtocol.OPAQUE
    address: str = "127.0.0.1"
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """Where the workload's callers come to, and who they may be: patterns as `accepted` has them. Empty: any identity
    of the own trust domain."""

    address: str
    port: int
    callers: tuple[str, ...] = ()


def parts(
    workloads: Iterable[Workload], inbound: Inbound, *, cluster_name: str, trust_domain: str, suffix: str
) -> Iterator[Part]:
    """The listener and a cluster per workload; nothing where there is none. Of two for one port the first counts."""
    distinct: dict[tuple[ServiceName, int], Workload] = {}
    for workload in workloads:
        distinct.setdefault((workload.name, workload.port), workload)
    ports = tuple(distinct[key] for key in sorted(distinct))
    if not ports:
        return
    for port in ports:
        name = names.workload_cluster(port.name, port.port)
        made = partial(cluster.workload_cluster, name, port.app, port.address, port.target)
        yield Part(names.CLUSTER_TYPE, name, (port.app, port.address, port.target), made)
    key = (inbound, trust_domain, tuple((p.name, p.port, p.app) for p in ports))
    yield Part(
        names.LISTENER_TYPE,
        names.INBOUND,
        key,
        lambda: inbound_listener(ports, inbound, cluster_name=cluster_name, trust_domain=trust_domain, suffix=suffix),
    )


def inbound_listener(
    ports: Sequence[Workload], inbound: Inbound, *, cluster_name: str, trust_domain: str, suffix: str
) -> Listener:
    """The listener `inbound`."""
    accept = tuple(accepted(pattern, trust_domain) for pattern in inbound.callers)
    chains: list[FilterChain] = []
    for port in ports:
        hosts = routes.exported_names(port.name, cluster_name, suffix=suffix)
        sni = names.server_name(port.name, port.port, trust_domain)
        ways = {names.ALPN_HEALTH: [_http("health", hosts, [route.answer(200, "ready")], http1=True)]}
        if port.app.is_http:
            ways[names.ALPN_HTTP] = [listener.identity_state(), _requests(port, hosts, trust_domain)]
        else:
            to = names.workload_cluster(port.name, port.port)
            ways[names.ALPN_TCP] = [listener.tcp("in-tcp", to, after_handshake=True)]
        chains += [
            listener.chain(
                f"{alpn}/{port.name}/{port.port}",
                filters,
                alpn=alpn,
                sni=sni,
                transport=tls.downstream([alpn], trust_domain=trust_domain, accept=accept),
            )
            for alpn, filters in sorted(ways.items())
        ]
    return listener.listener(names.INBOUND, inbound.address, inbound.port, chains, inspect_tls=True)


def accepted(pattern: str, trust_domain: str) -> StringMatcher:
    """What the identities are that "NAMESPACE/ACCOUNT" means; a star at its end stands for the rest of an account."""
    namespace, _, account = pattern.partition("/")
    stem = f"spiffe://{trust_domain}/ns/{namespace}/sa/{account.removesuffix('*')}"
    return StringMatcher(prefix=stem) if account.endswith("*") else StringMatcher(exact=stem)


def _requests(port: Workload, hosts: Sequence[str], trust_domain: str) -> Filter:
    gateway = Binding(names.STATE_IDENTITY, tls.gateway_identity(trust_domain))
    ways = route.workload_routes(names.workload_cluster(port.name, port.port), gateway=gateway)
    replies = [Reply(flag="UF", text=_NO_WORKLOAD, not_forwarded=True)]
    return _http("in", hosts, ways, replies=replies, forwards=True)


def _http(
    stat_prefix: str,
    hosts: Sequence[str],
    ways: Sequence[Route],
    *,
    replies: Sequence[Reply] = (),
    http1: bool = False,
    forwards: bool = False,
) -> Filter:
    virtual = [
        route.virtual_host("service", hosts, ways),
        route.virtual_host("*", ["*"], [route.answer(421, _MISDIRECTED)]),
    ]
    made = route.configuration(stat_prefix, virtual)
    return listener.http(stat_prefix, made, gateway=True, http1=http1, forwards=forwards, replies=replies)
