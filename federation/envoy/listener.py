"""Listeners and their network filters; every header rule for what enters an Envoy of ours stands here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLogFilter,
    ExtensionFilter,
    ResponseFlagFilter,
)
from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.core.v3.backoff_pb2 import BackoffStrategy
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption, TransportSocket
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions, HttpProtocolOptions
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, FilterChainMatch, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter
from envoy.extensions.filters.http.on_demand.v3.on_demand_pb2 import OnDemand, OnDemandCds
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    LocalReplyConfig,
    Rds,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import ON_DOWNSTREAM_TLS_HANDSHAKE, TcpProxy
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import HeaderMutation as Early
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.hash_policy_pb2 import HashPolicy
from google.protobuf.struct_pb2 import Struct
from xds.type.v3.typed_struct_pb2 import TypedStruct

from federation.envoy import cluster, names, route, tls
from federation.envoy.endpoint import address
from federation.envoy.message import flag, number, pack, seconds

STREAM_IDLE_SECONDS = 300.0
REQUEST_HEADERS_SECONDS = 10.0
ON_DEMAND_SECONDS = 5.0
_SET_FILTER_STATE = "envoy.filters.network.set_filter_state"
_CLUSTER_STATE = "envoy.tcp_proxy.cluster"
_STRING = "envoy.string"
_CALLER = "%CEL(connection.uri_san_peer_certificate.split('/')[2])%"
"""The trust domain of the peer's first URI: the one whose bundle its chain was verified with."""
_LONGEST_AUTHORITY = 260
"""Characters of it that go into a cluster's name: a DNS name and a port have 259 at most."""

_NOBODY = CidrRange(address_prefix="255.255.255.255", prefix_len=number(32))
"""Internal is no address that can call, so that x-envoy-* headers are never believed. An empty list would mean Envoy's
default: loopback and private ranges."""

State = Sequence[tuple[str, str]]
"""(filter state key, format)."""

ASK_FOR_DESTINATION = "vip/%DOWNSTREAM_LOCAL_ADDRESS%"
"""Names the cluster of a request after the address that was dialled."""
ASK_FOR_EXPORTED = (
    f"{names.InboundKind.HTTP}/%FILTER_STATE({names.STATE_CALLER}:PLAIN)%|%REQ(:AUTHORITY):{_LONGEST_AUTHORITY}%"
)
"""Names it after caller, server name and authority."""
ASK_FOR_HEALTH = f"{names.InboundKind.HEALTH}/%FILTER_STATE({names.STATE_CALLER}:PLAIN)%"
"""Names it after caller and server name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is said instead of Envoy's own words when it answers by itself, and what for: the response flag `flag`, or
    a cluster that is there for the `answer` (cluster.answering_cluster).

    `status` 0 leaves Envoy's; `not_forwarded` tells a caller's Envoy that any method may be tried elsewhere.
    """

    text: str
    flag: str = ""
    answer: str = ""
    status: int = 0
    not_forwarded: bool = False


def listener(
    name: str,
    ip: str,
    port: int,
    chains: Iterable[FilterChain],
    *,
    inspect_tls: bool = False,
    original_destination: bool = False,
) -> Listener:
    """A TCP listener on `ip`:`port`."""
    filters = []
    if original_destination:
        filters.append(ListenerFilter(name="envoy.filters.listener.original_dst", typed_config=pack(OriginalDst())))
    if inspect_tls:
        filters.append(ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=pack(TlsInspector())))
    return Listener(
        name=name,
        address=address(ip, port),
        listener_filters=filters,
        listener_filters_timeout=seconds(5),
        filter_chains=chains,
        per_connection_buffer_limit_bytes=number(cluster.BUFFER_BYTES),
        stat_prefix=name.partition("/")[0],
    )


def chain(
    name: str,
    filters: Iterable[Filter],
    *,
    alpn: str | None = None,
    sni: str | None = None,
    transport: TransportSocket | None = None,
) -> FilterChain:
    """A chain of filters, for connections that offer `alpn` (and want `sni`) over `transport` if those are given."""
    made = FilterChain(name=name, filters=filters)
    if alpn is not None:
        match = FilterChainMatch(transport_protocol="tls", application_protocols=[alpn])
        if sni is not None:
            match.server_names.append(sni)
        made.filter_chain_match.CopyFrom(match)
    if transport is not None:
        made.transport_socket.CopyFrom(transport)
        made.transport_socket_connect_timeout.CopyFrom(seconds(5))
    return made


def connection_state(*, at_once: State = (), after_handshake: State = ()) -> Filter:
    """Keeps facts of the connection as filter state, where routes and authorisation find them."""
    # A struct, not a message: xds-protos does not know the field of the TLS handshake yet.
    config = Struct()
    if at_once:
        config["on_new_connection"] = [_state(key, text) for key, text in at_once]
    if after_handshake:
        config["on_downstream_tls_handshake"] = [_state(key, text) for key, text in after_handshake]
    typed = TypedStruct(
        type_url="type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config", value=config
    )
    return Filter(name=_SET_FILTER_STATE, typed_config=pack(typed))


def http(
    stat_prefix: str,
    routes: RouteConfiguration | str,
    *,
    gateway: bool = False,
    http1: bool = False,
    forwards: bool = False,
    on_demand: str = "",
    ask: bool = False,
    replies: Iterable[Reply] = (),
) -> Filter:
    """The HTTP connection manager.

    `routes` is a configuration or the name of one (RDS). `gateway`: callers come by mutual TLS, so their identity is
    put into x-forwarded-client-cert; with `forwards` behind what they say of their own callers, which routes have to
    take away from who is not to be believed. `on_demand` is the format of the name of the cluster that a request is led
    to (ASK_FOR_…), which is asked for where Envoy has it not; with `ask` the clusters that the routes name themselves
    are.
    """
    manager = HttpConnectionManager(
        stat_prefix=stat_prefix,
        codec_type=HttpConnectionManager.HTTP2 if gateway and not http1 else HttpConnectionManager.AUTO,
        http_filters=_http_filters(on_demand=ask or bool(on_demand)),
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=seconds(cluster.IDLE_SECONDS),
            headers_with_underscores_action=HttpProtocolOptions.REJECT_REQUEST,
        ),
        # Workloads behind proxies that speak HTTP/1.0 by default name the service by Host like everybody else.
        http_protocol_options=None if gateway else Http1ProtocolOptions(accept_http_10=True),
        http2_protocol_options=cluster.http2_options(),
        server_header_transformation=HttpConnectionManager.PASS_THROUGH,
        stream_idle_timeout=seconds(STREAM_IDLE_SECONDS),
        request_headers_timeout=seconds(REQUEST_HEADERS_SECONDS),
        use_remote_address=flag(True),
        skip_xff_append=not gateway,
        internal_address_config=HttpConnectionManager.InternalAddressConfig(cidr_ranges=[_NOBODY]),
        generate_request_id=flag(False),
        forward_client_cert_details=_client_certificates(gateway=gateway, forwards=forwards),
        upgrade_configs=[HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        normalize_path=flag(True),
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManager.UNESCAPE_AND_REDIRECT,
        strip_trailing_host_dot=not gateway,
        local_reply_config=_local_replies(replies),
    )
    if gateway:
        manager.set_current_client_cert_details.uri = True
    if isinstance(routes, str):
        manager.rds.CopyFrom(Rds(route_config_name=routes, config_source=tls.ads()))
    else:
        manager.route_config.CopyFrom(routes)
    if gateway or on_demand:
        manager.early_header_mutation_extensions.append(_early(on_demand=on_demand))
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))


def tcp(
    stat_prefix: str, to: str, *, affinity: bool = False, ask: bool = False, after_handshake: bool = False
) -> Filter:
    """A TCP proxy to the cluster `to`, with `ask` asked for where Envoy has it not.

    A connection that cannot be made is tried with other endpoints. `after_handshake`: none is made before the caller
    has proven who it is.
    """
    proxy = _tcp_proxy(stat_prefix, affinity=affinity)
    proxy.cluster = to
    if ask:
        _ask(proxy)
    if after_handshake:
        _wait_for_handshake(proxy)
    return Filter(name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy))


def tcp_to_destination(stat_prefix: str) -> list[Filter]:
    """A TCP proxy to the cluster named after the address that was dialled, asked for where Envoy has it not."""
    proxy = _tcp_proxy(stat_prefix, affinity=True)
    _ask(proxy)
    return [
        connection_state(at_once=[(_CLUSTER_STATE, ASK_FOR_DESTINATION)]),
        Filter(name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy)),
    ]


def tcp_of_caller(stat_prefix: str) -> list[Filter]:
    """Waits for the handshake, then names the cluster after the server name and the caller and hands over to
    `tcp_to_exported`: a TCP proxy looks for that name when a connection is new, and here nobody knows yet who calls."""
    proxy = _tcp_proxy(stat_prefix, affinity=False)
    proxy.cluster = names.INBOUND_TCP
    _wait_for_handshake(proxy)
    name = names.inbound_tcp_cluster(_CALLER, "%REQUESTED_SERVER_NAME%")
    return [
        connection_state(after_handshake=[(_CLUSTER_STATE, name)]),
        Filter(name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy)),
    ]


def tcp_to_exported(name: str) -> Listener:
    """The internal listener: a TCP proxy to the cluster that came with the connection. It exists iff the caller is
    admitted, and is asked for where Envoy has it not."""
    proxy = _tcp_proxy(name, affinity=False)
    _ask(proxy)
    filters = [Filter(name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy))]
    return Listener(
        name=name,
        internal_listener=Listener.InternalListenerConfig(),
        filter_chains=[chain(name, filters)],
        per_connection_buffer_limit_bytes=number(cluster.BUFFER_BYTES),
        stat_prefix=name,
    )


def caller_state() -> Filter:
    """Keeps the caller's trust domain and the server name, for ASK_FOR_EXPORTED and ASK_FOR_HEALTH."""
    return connection_state(after_handshake=[(names.STATE_CALLER, f"{_CALLER}|%REQUESTED_SERVER_NAME%")])


def identity_state() -> Filter:
    """Keeps the SPIFFE ID that the caller has proven, for routes to choose by."""
    return connection_state(after_handshake=[(names.STATE_IDENTITY, "%DOWNSTREAM_PEER_URI_SAN%")])


def _state(key: str, text: str) -> dict[str, Any]:
    value: dict[str, Any] = {"object_key": key, "format_string": {"text_format_source": {"inline_string": text}}}
    if "%CEL(" in text:
        # Once per connection; a request pays nothing for it.
        cel = {
            "@type": "type.googleapis.com/envoy.extensions.formatter.cel.v3.Cel",
            "cel_config": {"enable_string_functions": True},
        }
        value["format_string"]["formatters"] = [{"name": "envoy.formatter.cel", "typed_config": cel}]
    if key == _CLUSTER_STATE:
        value["shared_with_upstream"] = "ONCE"
    else:
        value["factory_key"] = _STRING
    return value


def _tcp_proxy(stat_prefix: str, *, affinity: bool) -> TcpProxy:
    proxy = TcpProxy(
        stat_prefix=stat_prefix,
        cluster="-",
        idle_timeout=seconds(cluster.IDLE_SECONDS),
        max_connect_attempts=number(6),
        backoff_options=BackoffStrategy(base_interval=seconds(0.01), max_interval=seconds(0.1)),
    )
    if affinity:
        proxy.hash_policy.append(HashPolicy(source_ip=HashPolicy.SourceIp()))
    return proxy


def _wait_for_handshake(proxy: TcpProxy) -> None:
    proxy.upstream_connect_mode = ON_DOWNSTREAM_TLS_HANDSHAKE
    proxy.max_early_data_bytes.value = 0  # what comes before there is an upstream stays in the socket


def _ask(proxy: TcpProxy) -> None:
    proxy.on_demand.CopyFrom(TcpProxy.OnDemand(odcds_config=tls.ads(), timeout=seconds(ON_DEMAND_SECONDS)))


def _http_filters(*, on_demand: bool) -> list[HttpFilter]:
    filters = []
    if on_demand:
        ask = OnDemand(odcds=OnDemandCds(source=tls.ads(), timeout=seconds(ON_DEMAND_SECONDS)))
        filters.append(HttpFilter(name="envoy.filters.http.on_demand", typed_config=pack(ask)))
    router = Router(suppress_envoy_headers=True, dynamic_stats=flag(False))
    filters.append(HttpFilter(name="envoy.filters.http.router", typed_config=pack(router)))
    return filters


def _client_certificates(*, gateway: bool, forwards: bool) -> HttpConnectionManager.ForwardClientCertDetails.ValueType:
    if forwards:
        return HttpConnectionManager.APPEND_FORWARD
    return HttpConnectionManager.SANITIZE_SET if gateway else HttpConnectionManager.SANITIZE


def _early(*, on_demand: str) -> TypedExtensionConfig:
    """Before anything is decided: headers that Envoys say to each other are dropped, whoever sent them."""
    mutations = [
        HeaderMutation(remove_on_match=HeaderMutation.RemoveOnMatch(key_matcher=StringMatcher(prefix=prefix)))
        for prefix in ("x-envoy-", "x-isthmus-")
    ]
    if on_demand:
        header = HeaderValueOption(
            header=HeaderValue(key=route.CLUSTER_HEADER, value=on_demand),
            append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        mutations.append(HeaderMutation(append=header))
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=pack(Early(mutations=mutations))
    )


def _by_flag(flag: str) -> AccessLogFilter:
    return AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=[flag]))


def _by_answer(answer: str) -> AccessLogFilter:
    """Looked at when Envoy answers by itself only; a cluster without our metadata is no match."""
    expression = f"xds.cluster_metadata.filter_metadata['{cluster.METADATA}']['{cluster.ANSWER}'] == '{answer}'"
    config = pack(ExpressionFilter(expression=expression))
    return AccessLogFilter(
        extension_filter=ExtensionFilter(name="envoy.access_loggers.extension_filters.cel", typed_config=config)
    )


def _local_replies(replies: Iterable[Reply]) -> LocalReplyConfig:
    config = LocalReplyConfig()
    for reply in replies:
        mapper = config.mappers.add(filter=_by_answer(reply.answer) if reply.answer else _by_flag(reply.flag))
        mapper.body.inline_string = f"isthmus: {reply.text}\n"
        if reply.status:
            mapper.status_code.CopyFrom(number(reply.status))
        if reply.not_forwarded:
            mapper.headers_to_add.append(HeaderValueOption(header=HeaderValue(key=route.NOT_FORWARDED, value="true")))
    return config
