"""What a sidecar's Envoy is given for the callers of its workload."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import ON_DOWNSTREAM_TLS_HANDSHAKE, TcpProxy
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext

from federation.envoy import names
from federation.model.cluster import Bundle, Peer
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol
from federation.model.view import View
from sidecar.build.inbound import Inbound, Workload, accepted
from sidecar.build.outbound import Builder, SidecarConfig

ECHO, DB = ServiceName("shop", "echo"), ServiceName("shop", "db")
WEB = Workload(name=ECHO, port=80, app=AppProtocol.HTTP, target=8080)
SQL = Workload(name=DB, port=5432, address="192.0.2.9", target=5433)
AT = Inbound(address="192.0.2.1", port=15006)
OWN = Peer(
    cluster="east",
    trust_domain="east.test",
    own=True,
    bundle=Bundle(trust_domain="east.test", sequence=1, roots=(b"root",)),
)
VIEW = View(cluster="east", peers={"east": OWN})


class Proof:
    chain_pem = b"chain"
    key_pem = b"key"


def builder(at: Inbound | None = AT) -> Builder:
    return Builder(SidecarConfig(way="loopback", cluster="east", identity=Proof(), inbound=at))


def put(*workloads: Workload, at: Inbound | None = AT, view: View = VIEW) -> dict[str, dict[str, Any]]:
    made = builder(at).update(view, {}, workloads=workloads).put
    return {kind: dict(named) for kind, named in made.items() if kind != names.SECRET_TYPE}


def chains(*workloads: Workload, at: Inbound = AT) -> dict[tuple[str, str], Any]:
    """By server name and ALPN."""
    listener = put(*workloads, at=at)[names.LISTENER_TYPE][names.INBOUND]
    found = {}
    for chain in listener.filter_chains:
        (sni,), (alpn,) = chain.filter_chain_match.server_names, chain.filter_chain_match.application_protocols
        found[sni, alpn] = chain
    assert len(found) == len(listener.filter_chains)
    assert not listener.HasField("default_filter_chain")
    return found


def unpacked(packed: Any, kind: type) -> Any:
    found = kind()
    assert packed.typed_config.Unpack(found)
    return found


def test_each_port_has_its_own_name_and_is_no_more_than_it_says() -> None:
    found = chains(WEB, SQL)
    web, sql = "p80.echo.shop.svc.east.test", "p5432.db.shop.svc.east.test"
    assert set(found) == {(web, "h2"), (web, "isthmus-health"), (sql, "isthmus-tcp"), (sql, "isthmus-health")}
    for (_, alpn), chain in found.items():
        assert chain.filter_chain_match.transport_protocol == "tls"
        context = unpacked(chain.transport_socket, DownstreamTlsContext)
        assert context.require_client_certificate.value
        assert list(context.common_tls_context.alpn_protocols) == [alpn]
        assert context.common_tls_context.validation_context_sds_secret_config.name == "peers/east.test"


def test_a_workload_is_one_address_in_plain_text() -> None:
    made = put(WEB, SQL)
    assert {kind: set(named) for kind, named in made.items()} == {
        names.LISTENER_TYPE: {"inbound"},
        names.CLUSTER_TYPE: {"workload/shop/echo/80", "workload/shop/db/5432"},
    }
    address = made[names.LISTENER_TYPE]["inbound"].address.socket_address
    assert (address.address, address.port_value) == ("192.0.2.1", 15006)


def test_requests_are_bound_to_the_names_of_the_service() -> None:
    for alpn in ("h2", "isthmus-health"):
        chain = chains(WEB)["p80.echo.shop.svc.east.test", alpn]
        manager = unpacked(chain.filters[-1], HttpConnectionManager)
        service, rest = manager.route_config.virtual_hosts
        assert set(service.domains) == {"echo.shop.global", "echo.shop.svc.clusterset.local", "echo.shop.east.global"}
        assert list(rest.domains) == ["*"]
        assert [r.direct_response.status for r in rest.routes] == [421]
        answers = [r.direct_response.status or r.route.cluster for r in service.routes]
        assert answers == (["workload/shop/echo/80"] * 2 if alpn == "h2" else [200])


def test_only_the_clusters_gateway_may_tell_whom_it_calls_for() -> None:
    chain = chains(WEB)["p80.echo.shop.svc.east.test", "h2"]
    manager = unpacked(chain.filters[-1], HttpConnectionManager)
    told, verified = manager.route_config.virtual_hosts[0].routes
    (condition,) = told.match.filter_state
    assert condition.string_match.exact == "spiffe://east.test/ns/isthmus-system/sa/gateway"
    assert not verified.match.filter_state
    assert [h.header.key for h in verified.request_headers_to_add] == ["x-forwarded-client-cert"]
    assert manager.forward_client_cert_details == HttpConnectionManager.APPEND_FORWARD


def test_a_tcp_workload_hears_of_nobody_who_was_not_verified() -> None:
    (proxy,) = chains(SQL)["p5432.db.shop.svc.east.test", "isthmus-tcp"].filters
    found = unpacked(proxy, TcpProxy)
    assert (found.cluster, found.upstream_connect_mode) == ("workload/shop/db/5432", ON_DOWNSTREAM_TLS_HANDSHAKE)


@pytest.mark.parametrize(
    ("at", "view", "workloads"),
    [
        (None, VIEW, (WEB,)),
        (AT, VIEW, ()),
        (AT, View(cluster="east"), (WEB,)),
        (AT, replace(VIEW, peers={"east": replace(OWN, bundle=replace(OWN.bundle, roots=()))}), (WEB,)),
        (AT, replace(VIEW, peers={"east": replace(OWN, trust_domain="other.test")}), (WEB,)),
    ],
    ids=["not asked for", "nothing to serve", "no roots yet", "empty bundle", "another's bundle"],
)
def test_when_there_is_no_listener(at: Inbound | None, view: View, workloads: tuple[Workload, ...]) -> None:
    assert not put(*workloads, at=at, view=view)


def test_what_changes_is_what_has_changed() -> None:
    made = builder()
    made.update(VIEW, {}, workloads=(WEB, SQL))
    assert not made.update(VIEW, {}, workloads=(SQL, WEB))
    moved = made.update(VIEW, {}, workloads=(replace(WEB, target=9090), SQL))
    assert {kind: set(named) for kind, named in moved.put.items()} == {names.CLUSTER_TYPE: {"workload/shop/echo/80"}}
    gone = made.update(VIEW, {}, workloads=(SQL,))
    assert gone.removed == {names.CLUSTER_TYPE: {"workload/shop/echo/80"}}
    assert set(gone.put) == {names.LISTENER_TYPE}
    assert made.update(VIEW, {}).removed == {
        names.CLUSTER_TYPE: {"workload/shop/db/5432"},
        names.LISTENER_TYPE: {"inbound"},
    }


def test_a_port_is_served_once() -> None:
    made = put(WEB, replace(WEB, target=9090))
    ((cluster,),) = ([*named.values()] for kind, named in made.items() if kind == names.CLUSTER_TYPE)
    ((host,),) = (group.lb_endpoints for group in cluster.load_assignment.endpoints)
    assert host.endpoint.address.socket_address.port_value == 8080


@pytest.mark.parametrize(
    ("pattern", "kind", "text"),
    [
        ("shop/web", "exact", "spiffe://east.test/ns/shop/sa/web"),
        ("shop/*", "prefix", "spiffe://east.test/ns/shop/sa/"),
        ("shop/web-*", "prefix", "spiffe://east.test/ns/shop/sa/web-"),
        ("isthmus-system/gateway", "exact", "spiffe://east.test/ns/isthmus-system/sa/gateway"),
    ],
)
def test_who_may_call_is_compared_as_a_whole_or_by_its_beginning(pattern: str, kind: str, text: str) -> None:
    matcher = accepted(pattern, "east.test")
    assert (matcher.WhichOneof("match_pattern"), getattr(matcher, kind)) == (kind, text)


def test_callers_are_told_apart_in_the_handshake() -> None:
    at = replace(AT, callers=("shop/web", "isthmus-system/gateway"))
    for chain in chains(WEB, SQL, at=at).values():
        context = unpacked(chain.transport_socket, DownstreamTlsContext)
        combined = context.common_tls_context.combined_validation_context
        assert combined.validation_context_sds_secret_config.name == "peers/east.test"
        sans = combined.default_validation_context.match_typed_subject_alt_names
        assert [s.matcher for s in sans] == [accepted(pattern, "east.test") for pattern in at.callers]
