from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf import any_pb2

from federation.xds.references import CLUSTER, ENDPOINT, ROUTE, SECRET, Reference, references

ADS = {"ads": {}, "resource_api_version": "V3"}


def packed(message: Any) -> any_pb2.Any:
    box = any_pb2.Any()
    box.Pack(message)
    return box


def tls() -> dict[str, Any]:
    secret = {"name": "identity", "sds_config": ADS}
    context = tls_pb2.UpstreamTlsContext(
        common_tls_context={
            "tls_certificate_sds_secret_configs": [secret],
            "validation_context_sds_secret_config": {"name": "peers", "sds_config": ADS},
        }
    )
    return {"name": "tls", "typed_config": packed(context)}


def listener(filter_config: Any) -> Any:
    return listener_pb2.Listener(
        name="l", filter_chains=[{"filters": [{"name": "f", "typed_config": packed(filter_config)}]}]
    )


def route(**action: Any) -> Any:
    return route_pb2.RouteConfiguration(
        name="r",
        virtual_hosts=[{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}],
    )


@pytest.mark.parametrize(
    ("message", "found"),
    [
        pytest.param(cluster_pb2.Cluster(name="a", type="STATIC"), set(), id="static cluster"),
        pytest.param(
            cluster_pb2.Cluster(name="a", type="EDS", eds_cluster_config={"eds_config": ADS}),
            {(ENDPOINT, "a")},
            id="EDS",
        ),
        pytest.param(
            cluster_pb2.Cluster(name="a", type="EDS", eds_cluster_config={"eds_config": ADS, "service_name": "s"}),
            {(ENDPOINT, "s")},
            id="EDS under another name",
        ),
        pytest.param(
            cluster_pb2.Cluster(
                name="a", type="EDS", eds_cluster_config={"eds_config": {"path_config_source": {"path": "/x"}}}
            ),
            set(),
            id="EDS from a file",
        ),
        pytest.param(
            cluster_pb2.Cluster(name="a", transport_socket=tls()), {(SECRET, "identity"), (SECRET, "peers")}, id="TLS"
        ),
        pytest.param(
            cluster_pb2.Cluster(name="a", transport_socket_matches=[{"name": "m", "transport_socket": tls()}]),
            {(SECRET, "identity"), (SECRET, "peers")},
            id="TLS among matches",
        ),
        pytest.param(listener(tcp_proxy_pb2.TcpProxy(cluster="a")), {(CLUSTER, "a")}, id="TCP"),
        pytest.param(
            listener(tcp_proxy_pb2.TcpProxy(cluster="a", on_demand={"odcds_config": ADS})), set(), id="TCP on demand"
        ),
        pytest.param(
            listener(tcp_proxy_pb2.TcpProxy(weighted_clusters={"clusters": [{"name": "a", "weight": 1}]})),
            {(CLUSTER, "a")},
            id="TCP by weight",
        ),
        pytest.param(
            listener(
                http_connection_manager_pb2.HttpConnectionManager(rds={"route_config_name": "r", "config_source": ADS})
            ),
            {(ROUTE, "r")},
            id="RDS",
        ),
        pytest.param(
            listener(http_connection_manager_pb2.HttpConnectionManager(route_config=route(cluster="a"))),
            {(CLUSTER, "a")},
            id="routes in the listener",
        ),
        pytest.param(route(cluster="a"), {(CLUSTER, "a")}, id="route"),
        pytest.param(
            route(weighted_clusters={"clusters": [{"name": "a"}, {"name": "b"}]}),
            {(CLUSTER, "a"), (CLUSTER, "b")},
            id="route by weight",
        ),
        pytest.param(
            route(cluster="a", request_mirror_policies=[{"cluster": "m"}]),
            {(CLUSTER, "a"), (CLUSTER, "m")},
            id="mirror",
        ),
        pytest.param(route(cluster_header="x-to"), set(), id="route by header"),
        pytest.param(listener(any_pb2.Any(type_url="type.googleapis.com/not.known")), set(), id="unknown extension"),
    ],
)
def test_what_is_found(message: Any, found: set[tuple[str, str]]) -> None:
    assert references(message) == {Reference(kind, name) for kind, name in found}
