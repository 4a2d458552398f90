"""Clusters: where a service's port is sent to, how failures show, and what is spoken there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster, UpstreamConnectionOptions
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.core.v3.address_pb2 import Address, EnvoyInternalAddress, TcpKeepalive
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.core.v3.health_check_pb2 import HealthCheck
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.transport_sockets.internal_upstream.v3.internal_upstream_pb2 import InternalUpstreamTransport
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions as UpstreamHttp
from envoy.type.v3.percent_pb2 import Percent

from federation.envoy import names, tls
from federation.envoy.endpoint import PLAIN, TLS_KEY, address
from federation.envoy.message import number, pack, seconds
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol

BUFFER_BYTES = 32 * 1024
CONNECT_SECONDS = 1.0
IDLE_SECONDS = 3600.0
MAX_CONCURRENT = 65_536
METADATA = "isthmus"
"""Namespace of our own metadata of clusters."""
ANSWER = "answer"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Answer(StrEnum):
    """What a gateway says about an exported port without asking any endpoint."""

    READY = "ready"
    FORBIDDEN = "forbidden"
    MISDIRECTED = "misdirected"


@dataclass(frozen=True, slots=True)
class Remote:
    """Who may be among the endpoints and speaks mutual TLS: the gateways of `cluster`, or those endpoints of the own
    cluster that prove `identity`."""

    cluster: str
    trust_domain: str
    identity: str = ""

    @property
    def key(self) -> str:
        """What such hosts say of themselves (federation.envoy.endpoint)."""
        return self.identity or self.cluster


def service_cluster(
    cluster_name: str,
    service: ServiceName,
    port: int,
    app: AppProtocol,
    *,
    endpoints: str,
    remotes: Sequence[Remote],
    host: str,
    affinity: bool,
) -> Cluster:
    """An import's port as callers reach it: `remotes` by mutual TLS, other local endpoints in plain text.

    `endpoints` is the name of its EDS resource, `host` what health checks call the service, `affinity` whether the
    caller's address chooses the endpoint.
    """
    cluster = _cluster(cluster_name, endpoints=endpoints)
    _balance(cluster, affinity=affinity)
    _secure(cluster, service, port, remotes, alpn=names.ALPN_HTTP if app.is_http else names.ALPN_TCP)
    if app.is_http:
        cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pack(_spoken(app, remotes)))
    if any(not r.identity for r in remotes):
        # Pings find a black hole on HTTP connections; a gRPC workload would take them for an attack.
        cluster.health_checks.append(_gateway_check(host, fast=app is not AppProtocol.HTTP))
        # A gateway that stopped without a word holds requests for as long as TCP hopes.
        cluster.close_connections_on_host_health_failure = True
    cluster.outlier_detection.CopyFrom(_outliers(app))
    return cluster


def local_cluster(
    cluster_name: str,
    service: ServiceName,
    port: int,
    app: AppProtocol,
    *,
    endpoints: str,
    remotes: Sequence[Remote] = (),
    affinity: bool = False,
) -> Cluster:
    """An exported port's own endpoints, at a gateway: readiness from the report, plain text but for `remotes`."""
    cluster = _cluster(cluster_name, endpoints=endpoints)
    cluster.alt_stat_name = endpoints  # statistics are the port's, whoever calls
    _balance(cluster, affinity=affinity)
    _secure(cluster, service, port, remotes, alpn=names.ALPN_HTTP if app.is_http else names.ALPN_TCP)
    if app.is_http:
        cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pack(_spoken(app, remotes)))
    cluster.outlier_detection.CopyFrom(_outliers(app))
    return cluster


def workload_cluster(name: str, app: AppProtocol, ip: str, port: int) -> Cluster:
    """The workload beside this Envoy, in plain text at `ip`:`port`."""
    endpoint = LbEndpoint(endpoint=Endpoint(address=address(ip, port)))
    cluster = Cluster(
        name=name,
        type=Cluster.STATIC,
        connect_timeout=seconds(CONNECT_SECONDS),
        per_connection_buffer_limit_bytes=number(BUFFER_BYTES),
        circuit_breakers=_limits(),
        load_assignment=ClusterLoadAssignment(
            cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
    )
    if app.is_http:
        cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pack(_explicit(app)))
    return cluster


def answering_cluster(name: str, answer: Answer) -> Cluster:
    """A cluster without endpoints: Envoy answers requests to it by itself, as its metadata say (listener.Reply)."""
    cluster = Cluster(
        name=name,
        alt_stat_name=name.partition("/")[0],
        type=Cluster.STATIC,
        connect_timeout=seconds(CONNECT_SECONDS),
        load_assignment=ClusterLoadAssignment(cluster_name=name),
    )
    cluster.metadata.filter_metadata[METADATA].fields[ANSWER].string_value = answer
    return cluster


def internal_cluster(name: str) -> Cluster:
    """The way to the internal listener `name` of this Envoy; what is known of the connection goes along."""
    endpoint = LbEndpoint(
        endpoint=Endpoint(
            address=Address(envoy_internal_address=EnvoyInternalAddress(server_listener_name=name, endpoint_id=name))
        )
    )
    return Cluster(
        name=name,
        type=Cluster.STATIC,
        connect_timeout=seconds(CONNECT_SECONDS),
        per_connection_buffer_limit_bytes=number(BUFFER_BYTES),
        circuit_breakers=_limits(),
        load_assignment=ClusterLoadAssignment(
            cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
        transport_socket=TransportSocket(
            name="envoy.transport_sockets.internal_upstream",
            typed_config=pack(InternalUpstreamTransport(transport_socket=tls.plain())),
        ),
    )


def http2_options() -> Http2ProtocolOptions:
    """HTTP/2 towards and from other proxies (reliability: 100 streams, windows of 64 KiB and 1 MiB)."""
    return Http2ProtocolOptions(
        max_concurrent_streams=number(100),
        initial_stream_window_size=number(64 * 1024),
        initial_connection_window_size=number(1024 * 1024),
        allow_connect=True,  # WebSockets; plain CONNECT has no route anywhere
    )


def _cluster(name: str, *, endpoints: str) -> Cluster:
    cluster = Cluster(
        name=name,
        type=Cluster.EDS,
        eds_cluster_config=Cluster.EdsClusterConfig(eds_config=tls.ads(), service_name=endpoints),
        connect_timeout=seconds(CONNECT_SECONDS),
        per_connection_buffer_limit_bytes=number(BUFFER_BYTES),
        circuit_breakers=_limits(),
        ignore_health_on_host_removal=True,
        upstream_connection_options=UpstreamConnectionOptions(
            tcp_keepalive=TcpKeepalive(
                keepalive_probes=number(3), keepalive_time=number(30), keepalive_interval=number(5)
            )
        ),
    )
    # 1 %: when every host is believed to be dead, try them all rather than none.
    cluster.common_lb_config.healthy_panic_threshold.value = 1
    # What a check found is believed at once. Envoy would gather such changes for a second after any other.
    cluster.common_lb_config.update_merge_window.CopyFrom(seconds(0))
    return cluster


def _limits() -> CircuitBreakers:
    limits = CircuitBreakers.Thresholds(
        max_connections=number(MAX_CONCURRENT),
        max_pending_requests=number(MAX_CONCURRENT),
        max_requests=number(MAX_CONCURRENT),
        retry_budget=CircuitBreakers.Thresholds.RetryBudget(
            budget_percent=Percent(value=20),
            # A dead gateway fails everything in flight at once: these may all go elsewhere.
            min_retry_concurrency=number(1024),
        ),
    )
    return CircuitBreakers(thresholds=[limits])


def _secure(cluster: Cluster, service: ServiceName, port: int, remotes: Sequence[Remote], *, alpn: str) -> None:
    """TLS to each remote, plain text to those that say that they want it.

    TLS is the default, not the exception: a host that says nothing fails its handshake. (Envoy also wants the default
    to know ALPN where a protocol is negotiated.)
    """
    sockets = [
        tls.upstream(
            sni=names.server_name(service, port, remote.trust_domain),
            alpn=[alpn],
            trust_domain=remote.trust_domain,
            identity=remote.identity,
        )
        for remote in remotes
    ]
    if not sockets:
        return
    cluster.transport_socket.CopyFrom(sockets[0])
    choices = [(PLAIN, tls.plain()), *((r.key, s) for r, s in zip(remotes[1:], sockets[1:], strict=True))]
    for key, transport in choices:
        match = cluster.transport_socket_matches.add(name=key, transport_socket=transport)
        match.match.fields[TLS_KEY].string_value = key


def _balance(cluster: Cluster, *, affinity: bool) -> None:
    if affinity:
        cluster.lb_policy = Cluster.RING_HASH
        cluster.ring_hash_lb_config.minimum_ring_size.value = 1024
        cluster.ring_hash_lb_config.maximum_ring_size.value = 8192
    else:
        cluster.lb_policy = Cluster.LEAST_REQUEST


def _spoken(app: AppProtocol, remotes: Sequence[Remote]) -> UpstreamHttp:
    return _negotiated() if app is AppProtocol.HTTP and remotes else _explicit(app)


def _explicit(app: AppProtocol) -> UpstreamHttp:
    options = UpstreamHttp(common_http_protocol_options=HttpProtocolOptions(idle_timeout=seconds(IDLE_SECONDS)))
    if app is AppProtocol.HTTP:
        options.explicit_http_config.http_protocol_options.CopyFrom(Http1ProtocolOptions())
    else:
        options.explicit_http_config.http2_protocol_options.CopyFrom(http2_options())
    return options


def _negotiated() -> UpstreamHttp:
    """HTTP/2 where TLS agreed on it, HTTP/1.1 in plain text."""
    options = UpstreamHttp(common_http_protocol_options=HttpProtocolOptions(idle_timeout=seconds(IDLE_SECONDS)))
    options.auto_config.http_protocol_options.CopyFrom(Http1ProtocolOptions())
    http2 = options.auto_config.http2_protocol_options
    http2.CopyFrom(http2_options())
    http2.connection_keepalive.interval.CopyFrom(seconds(0.5))
    http2.connection_keepalive.timeout.CopyFrom(seconds(1.0))
    return options


def _gateway_check(host: str, *, fast: bool) -> HealthCheck:
    """Asks each gateway whether it serves this service to us.

    Without traffic rarely; after a failure each second. `fast`: where nothing else notices a black hole within 1.5 s.
    """
    return HealthCheck(
        timeout=seconds(1.0),
        interval=seconds(0.5 if fast else 5.0),
        interval_jitter_percent=10,
        unhealthy_interval=seconds(1.0),
        unhealthy_edge_interval=seconds(0.5),
        no_traffic_interval=seconds(1.0),
        no_traffic_healthy_interval=seconds(30.0),
        unhealthy_threshold=number(1 if fast else 2),
        healthy_threshold=number(1),
        http_health_check=HealthCheck.HttpHealthCheck(host=host, path="/"),
        tls_options=HealthCheck.TlsOptions(alpn_protocols=[names.ALPN_HEALTH]),
    )


def _outliers(app: AppProtocol) -> OutlierDetection:
    return OutlierDetection(
        interval=seconds(1),
        base_ejection_time=seconds(2),
        max_ejection_time=seconds(30),
        max_ejection_percent=number(100),
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=number(2),
        enforcing_consecutive_local_origin_failure=number(100),
        enforcing_local_origin_success_rate=number(0),
        enforcing_success_rate=number(0),
        enforcing_failure_percentage=number(0),
        enforcing_consecutive_5xx=number(0),
        consecutive_gateway_failure=number(2),
        enforcing_consecutive_gateway_failure=number(100 if app.is_http else 0),
    )
