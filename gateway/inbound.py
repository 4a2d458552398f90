"""What other clusters reach at a gateway: one listener, in which nothing depends on what is exported.

Three chains, chosen by ALPN: requests, TCP connections and health checks. Each demands TLS 1.3 and a certificate of a
linked trust domain, names a cluster after who calls and what for (federation.envoy.names), and asks for that one where
Envoy has it not. What is not exported to the caller does not exist (gateway.build).
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route

from federation.envoy import listener, names, route, tls
from federation.envoy.cluster import Answer
from federation.envoy.listener import Reply

_MISDIRECTED = "421: the authority, the server name and the service do not agree"
_REFUSALS = (
    Reply(answer=Answer.FORBIDDEN, status=403, text="403: your cluster has no grant for this service"),
    Reply(answer=Answer.MISDIRECTED, status=421, text=_MISDIRECTED),
    # Envoy was not told in time, or has forgotten. The caller's Envoy may look elsewhere.
    Reply(flag="NC", status=421, text=_MISDIRECTED, not_forwarded=True),
)


def inbound_listener(ip: str, port: int, *, cluster: str, zones: Sequence[str]) -> Listener:
    """The listener `inbound`; no service has a name outside `zones`."""
    requests = (
        *_REFUSALS,
        Reply(flag="UH", text=f"503: cluster {cluster} has no ready endpoint of this service", not_forwarded=True),
        Reply(
            flag="UF",
            text=f"503: no endpoint of this service in cluster {cluster} could be connected to",
            not_forwarded=True,
        ),
    )
    checks = (Reply(answer=Answer.READY, status=200, text="ready"), *_REFUSALS)
    http = _http("in", listener.ASK_FOR_EXPORTED, zones, route.exported_routes(), requests)
    health = _http("health", listener.ASK_FOR_HEALTH, zones, route.health_routes(), checks, http1=True)
    return listener.listener(
        names.INBOUND,
        ip,
        port,
        [
            listener.chain(
                "http", [listener.caller_state(), http], alpn=names.ALPN_HTTP, transport=_tls(names.ALPN_HTTP)
            ),
            listener.chain(
                "tcp", listener.tcp_of_caller("in-tcp"), alpn=names.ALPN_TCP, transport=_tls(names.ALPN_TCP)
            ),
            listener.chain(
                "health", [listener.caller_state(), health], alpn=names.ALPN_HEALTH, transport=_tls(names.ALPN_HEALTH)
            ),
        ],
        inspect_tls=True,
    )


def _http(
    stat_prefix: str,
    ask: str,
    zones: Sequence[str],
    routes: Sequence[Route],
    replies: Sequence[Reply],
    *,
    http1: bool = False,
) -> Filter:
    hosts = [
        route.virtual_host("services", [f"*.{zone}" for zone in zones], routes),
        # Who invents other names is answered here and now: each name that is asked for stays with Envoy.
        route.virtual_host("*", ["*"], [route.answer(421, _MISDIRECTED)]),
    ]
    return listener.http(
        stat_prefix, route.configuration(stat_prefix, hosts), gateway=True, http1=http1, on_demand=ask, replies=replies
    )


def _tls(alpn: str) -> TransportSocket:
    return tls.downstream([alpn])
