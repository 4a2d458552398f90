"""The bootstrap of an Envoy of ours: who it is, where its configuration comes from, and what it must never exceed.

All else comes over delta ADS on a UNIX socket. The limits are those that Envoy's documentation asks for at the edge;
its defaults are not safe against overload.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2, grpc_service_pb2, protocol_pb2
from envoy.config.metrics.v3 import stats_pb2
from envoy.config.overload.v3 import overload_pb2
from envoy.extensions.bootstrap.internal_listener.v3 import internal_listener_pb2
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2
from envoy.extensions.resource_monitors.fixed_heap.v3 import fixed_heap_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import any_pb2, duration_pb2, message, struct_pb2

from federation.envoy import leaving

ADS_CLUSTER = "isthmus-ads"
STATS = (
    "server.live",
    "server.state",
    "server.uptime",
    "server.memory_allocated",
    "control_plane.connected_state",
    "cluster_manager.active_clusters",
    "cluster_manager.warming_clusters",
    "listener_manager.total_listeners_",
    "listener_manager.listener_create_failure",
    "overload.",
    *leaving.STATS,
)
"""The statistics that somebody reads, as prefixes; every other one costs memory for nothing."""

RUNTIME: Mapping[str, str | bool | float] = {
    # One cluster holds local endpoints (plain text) and gateways (TLS, where HTTP/2 is agreed on): only the latter can
    # negotiate, and Envoy refuses such a cluster unless it is told that this is meant.
    "config.do_not_validate_alpn_support": 100,
}
"""What the clusters of `federation.envoy.cluster` presuppose."""

_SUFFIXES = (".upstream_cx_total", ".upstream_rq_active", ".upstream_rq_total")
"""Of each cluster. Health checks look at the first one to see whether it has traffic: without it they are always the
slow ones. By the others federation.envoy.traffic knows what is in use."""
_INTERNAL = "envoy.bootstrap.internal_listener"
_HEAP = "envoy.resource_monitors.fixed_heap"
_CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def bootstrap(
    *,
    node_id: str,
    cluster: str,
    ads_path: Path,
    admin_path: Path,
    max_connections: int = 50_000,
    max_heap: int = 1 << 30,
    stats: Iterable[str] = (),
    runtime: Mapping[str, str | bool | float] | None = None,
    metadata: Mapping[str, str] | None = None,
    zone: str = "",
    region: str = "",
) -> bootstrap_pb2.Bootstrap:
    """The bootstrap message.

    `ads_path` and `admin_path` are UNIX sockets. `max_connections` bounds the downstream connections of the whole
    process, `max_heap` (bytes) is what the overload manager measures against. `stats` are prefixes to keep besides
    `STATS`, `runtime` keys join the static layer, `metadata` the node.
    """
    return bootstrap_pb2.Bootstrap(
        node=_node(node_id, cluster, metadata or {}, zone, region),
        admin=bootstrap_pb2.Admin(address={"pipe": {"path": str(admin_path), "mode": 0o600}}),
        static_resources={"clusters": [_ads_cluster(ads_path)]},
        dynamic_resources=_dynamic(),
        bootstrap_extensions=[{"name": _INTERNAL, "typed_config": _any(internal_listener_pb2.InternalListener())}],
        layered_runtime={"layers": [{"name": "static", "static_layer": _struct({**RUNTIME, **(runtime or {})})}]},
        overload_manager=_overload(max_connections, max_heap),
        stats_config=stats_pb2.StatsConfig(
            stats_matcher={
                "inclusion_list": {
                    "patterns": [
                        *({"suffix": s} for s in _SUFFIXES),
                        *({"prefix": p} for p in sorted({*STATS, *stats})),
                    ],
                }
            }
        ),
        stats_flush_on_admin=True,
    )


def _node(node_id: str, cluster: str, metadata: Mapping[str, str], zone: str, region: str) -> base_pb2.Node:
    return base_pb2.Node(
        id=node_id,
        cluster=cluster,
        metadata=_struct(dict(metadata)),
        locality={"region": region, "zone": zone} if zone or region else None,
    )


def _dynamic() -> bootstrap_pb2.Bootstrap.DynamicResources:
    ads = config_source_pb2.ConfigSource(ads={}, resource_api_version="V3")
    backoff = {"base_interval": _seconds(0.1), "max_interval": _seconds(2)}
    return bootstrap_pb2.Bootstrap.DynamicResources(
        ads_config=config_source_pb2.ApiConfigSource(
            api_type="DELTA_GRPC",
            transport_api_version="V3",
            set_node_on_first_message_only=True,
            grpc_services=[
                grpc_service_pb2.GrpcService(
                    envoy_grpc={"cluster_name": ADS_CLUSTER, "retry_policy": {"retry_back_off": backoff}}
                )
            ],
        ),
        cds_config=ads,
        lds_config=ads,
    )


def _ads_cluster(path: Path) -> cluster_pb2.Cluster:
    # A process that hangs must not look alive: pings, answered by the gRPC library of the process beside Envoy.
    options = protocol_pb2.Http2ProtocolOptions(
        connection_keepalive={"interval": _seconds(30), "timeout": _seconds(10)}
    )
    return cluster_pb2.Cluster(
        name=ADS_CLUSTER,
        type="STATIC",
        connect_timeout=_seconds(1),
        load_assignment={
            "cluster_name": ADS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(path)}}}}]}],
        },
        typed_extension_protocol_options={
            _HTTP_OPTIONS: _any(
                http_protocol_options_pb2.HttpProtocolOptions(explicit_http_config={"http2_protocol_options": options})
            )
        },
    )


def _overload(max_connections: int, max_heap: int) -> overload_pb2.OverloadManager:
    return overload_pb2.OverloadManager(
        refresh_interval=_seconds(0.25),
        resource_monitors=[
            {"name": _HEAP, "typed_config": _any(fixed_heap_pb2.FixedHeapConfig(max_heap_size_bytes=max_heap))},
            {
                "name": _CONNECTIONS,
                "typed_config": _any(
                    downstream_connections_pb2.DownstreamConnectionsConfig(
                        max_active_downstream_connections=max_connections
                    )
                ),
            },
        ],
        actions=[
            {"name": "envoy.overload_actions.shrink_heap", "triggers": [_above(0.95)]},
            {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [_above(0.98)]},
        ],
    )


def _above(value: float) -> overload_pb2.Trigger:
    return overload_pb2.Trigger(name=_HEAP, threshold={"value": value})


def _any(inner: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(inner, deterministic=True)
    return packed


def _seconds(seconds: float) -> duration_pb2.Duration:
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))


def _struct(values: Mapping[str, str | bool | float]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(dict(values))
    return struct
