from __future__ import annotations

from typing import Any

import pytest
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from federation.envoy import cluster
from federation.envoy.cluster import Remote
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol

ECHO = ServiceName("shop", "echo")
WEST, NORTH = Remote("west", "west.test"), Remote("north", "north.test")
DB_1, DB_2 = (Remote("here", "here.test", f"spiffe://here.test/ns/shop/sa/db-{n}") for n in (1, 2))
HTTP, H2C, GRPC, OPAQUE = AppProtocol.HTTP, AppProtocol.H2C, AppProtocol.GRPC, AppProtocol.OPAQUE


def made(app: AppProtocol, *remotes: Remote, affinity: bool = False) -> Any:
    return cluster.service_cluster(
        "out/shop/echo/80", ECHO, 80, app, endpoints="e", remotes=remotes, host="echo.shop.global", affinity=affinity
    )


def at_gateway(app: AppProtocol, *remotes: Remote) -> Any:
    return cluster.local_cluster("in/shop/echo/80", ECHO, 80, app, endpoints="in/shop/echo/80", remotes=remotes)


def spoken(message: Any) -> str:
    """What is spoken upstream: http1, http2, negotiated, or tcp."""
    options = HttpProtocolOptions()
    for packed in message.typed_extension_protocol_options.values():
        packed.Unpack(options)
    if options.HasField("auto_config"):
        return "negotiated"
    if not options.HasField("explicit_http_config"):
        return "tcp"
    return "http2" if options.explicit_http_config.HasField("http2_protocol_options") else "http1"


def context(socket: Any) -> Any:
    found = UpstreamTlsContext()
    return found if socket.typed_config.Unpack(found) else None


@pytest.mark.parametrize(
    ("app", "remotes", "speaks", "alpn", "interval"),
    [
        (HTTP, (WEST,), "negotiated", "h2", 5.0),
        (HTTP, (), "http1", None, None),
        (H2C, (WEST,), "http2", "h2", 0.5),
        (H2C, (), "http2", None, None),
        (GRPC, (WEST,), "http2", "h2", 0.5),
        (OPAQUE, (WEST,), "tcp", "isthmus-tcp", 0.5),
        (OPAQUE, (), "tcp", None, None),
    ],
)
def test_what_is_spoken_and_what_is_checked(
    app: AppProtocol, remotes: tuple[Remote, ...], speaks: str, alpn: str | None, interval: float | None
) -> None:
    message = made(app, *remotes)
    assert spoken(message) == speaks
    tls = context(message.transport_socket)
    assert (list(tls.common_tls_context.alpn_protocols) if tls else None) == ([alpn] if alpn else None)
    checks = [c.interval.seconds + c.interval.nanos / 1e9 for c in message.health_checks]
    assert checks == ([interval] if interval else [])
    assert message.close_connections_on_host_health_failure is bool(remotes)
    for check in message.health_checks:
        assert list(check.tls_options.alpn_protocols) == ["isthmus-health"]
        assert check.http_health_check.host == "echo.shop.global"


def test_every_remote_has_its_own_trust_and_plain_text_has_to_be_asked_for() -> None:
    message = made(HTTP, WEST, NORTH)
    sockets = {m.match.fields["cluster"].string_value: m.transport_socket for m in message.transport_socket_matches}
    assert set(sockets) == {"@local", "north"}  # west's is what a host gets that says nothing
    assert context(sockets["@local"]) is None
    for remote, socket in ((WEST, message.transport_socket), (NORTH, sockets["north"])):
        tls = context(socket)
        assert tls.sni == f"p80.echo.shop.svc.{remote.trust_domain}"
        validation = tls.common_tls_context.combined_validation_context
        assert validation.validation_context_sds_secret_config.name == f"peers/{remote.trust_domain}"
        (san,) = validation.default_validation_context.match_typed_subject_alt_names
        assert san.matcher.exact == f"spiffe://{remote.trust_domain}/ns/isthmus-system/sa/gateway"


def test_without_remotes_there_is_no_tls() -> None:
    message = made(HTTP)
    assert not message.HasField("transport_socket")
    assert not message.transport_socket_matches


@pytest.mark.parametrize("build", [made, at_gateway])
def test_an_endpoint_of_the_own_cluster_is_who_it_says_and_nobody_else(build: Any) -> None:
    message = build(HTTP, DB_1, DB_2)
    sockets = {m.match.fields["cluster"].string_value: m.transport_socket for m in message.transport_socket_matches}
    assert set(sockets) == {"@local", DB_2.identity}  # that of the first one is what a host gets that says nothing
    assert context(sockets["@local"]) is None
    for remote, socket in ((DB_1, message.transport_socket), (DB_2, sockets[DB_2.identity])):
        tls = context(socket)
        assert tls.sni == "p80.echo.shop.svc.here.test"
        validation = tls.common_tls_context.combined_validation_context
        assert validation.validation_context_sds_secret_config.name == "peers/here.test"
        (san,) = validation.default_validation_context.match_typed_subject_alt_names
        assert san.matcher.exact == remote.identity


@pytest.mark.parametrize(
    ("app", "speaks", "alpn"), [(HTTP, "negotiated", "h2"), (GRPC, "http2", "h2"), (OPAQUE, "tcp", "isthmus-tcp")]
)
def test_endpoints_that_speak_tls_are_not_checked_as_gateways_are(app: AppProtocol, speaks: str, alpn: str) -> None:
    for message in (made(app, DB_1), at_gateway(app, DB_1)):
        assert spoken(message) == speaks
        assert list(context(message.transport_socket).common_tls_context.alpn_protocols) == [alpn]
        assert not message.health_checks
        assert not message.close_connections_on_host_health_failure
    assert made(app, DB_1, WEST).health_checks


@pytest.mark.parametrize(("app", "speaks"), [(HTTP, "http1"), (H2C, "http2"), (GRPC, "http2"), (OPAQUE, "tcp")])
def test_the_workload_beside_a_sidecar_is_reached_in_plain_text_at_one_address(app: AppProtocol, speaks: str) -> None:
    message = cluster.workload_cluster("workload/shop/echo/80", app, "127.0.0.1", 8080)
    assert spoken(message) == speaks
    assert not message.HasField("transport_socket")
    ((host,),) = (group.lb_endpoints for group in message.load_assignment.endpoints)
    at = host.endpoint.address.socket_address
    assert (at.address, at.port_value) == ("127.0.0.1", 8080)
    assert message.per_connection_buffer_limit_bytes.value == 32 * 1024
    (limits,) = message.circuit_breakers.thresholds
    assert limits.max_connections.value == limits.max_requests.value == 65_536


def test_affinity_chooses_by_hash() -> None:
    assert made(HTTP, WEST, affinity=True).lb_policy == cluster.Cluster.RING_HASH
    assert made(HTTP, WEST).lb_policy == cluster.Cluster.LEAST_REQUEST


@pytest.mark.parametrize(
    ("app", "speaks", "gateway_failures"), [(HTTP, "http1", 100), (GRPC, "http2", 100), (OPAQUE, "tcp", 0)]
)
def test_a_gateways_own_endpoints_are_plain_and_not_checked(
    app: AppProtocol, speaks: str, gateway_failures: int
) -> None:
    message = at_gateway(app)
    assert spoken(message) == speaks
    assert not message.HasField("transport_socket")
    assert not message.health_checks
    assert message.outlier_detection.enforcing_consecutive_gateway_failure.value == gateway_failures
    assert message.outlier_detection.max_ejection_percent.value == 100


def test_every_cluster_is_limited_and_believes_its_checks_at_once() -> None:
    for message in (made(HTTP, WEST), at_gateway(OPAQUE)):
        assert message.per_connection_buffer_limit_bytes.value == 32 * 1024
        assert message.common_lb_config.healthy_panic_threshold.value == 1
        assert message.common_lb_config.HasField("update_merge_window")
        assert message.common_lb_config.update_merge_window.ToMilliseconds() == 0
        (limits,) = message.circuit_breakers.thresholds
        assert limits.max_connections.value == limits.max_requests.value == 65_536


def test_the_internal_cluster_takes_along_what_is_known() -> None:
    message = cluster.internal_cluster("in-tcp")
    (group,) = message.load_assignment.endpoints
    address = group.lb_endpoints[0].endpoint.address.envoy_internal_address
    assert address.server_listener_name == "in-tcp"
    assert message.transport_socket.name == "envoy.transport_sockets.internal_upstream"
