"""What a gateway's Envoy is given: what it asked for, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster

from federation.envoy import names
from federation.model.cluster import Bundle, Peer
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Endpoint, Export, Grant, Port
from federation.model.view import View
from gateway.build import ODD_NAMES, Builder, GatewayConfig

ECHO = ServiceName("shop", "echo")
SNI = names.server_name(ECHO, 80, "west.test")
EAST = names.inbound_http_cluster("east.test", SNI, "echo.shop.global")
NORTH = names.inbound_http_cluster("north.test", SNI, "echo.shop.global")
ENDPOINTS = names.inbound_endpoints(ECHO, 80)
TLS_ENDPOINTS = names.inbound_endpoints(ECHO, 80, tls=True)


class Proof:
    chain_pem = b"chain"
    key_pem = b"key"


def peer(cluster: str) -> Peer:
    domain = f"{cluster}.test"
    bundle = Bundle(trust_domain=domain, sequence=1, roots=(b"root",))
    return Peer(cluster=cluster, trust_domain=domain, own=cluster == "west", bundle=bundle)


def export(name: ServiceName, *, to: tuple[str, ...] = ("east", "north"), port: int = 8080) -> Export:
    return Export(
        name=name,
        ports=(Port(port=80, app=AppProtocol.HTTP),),
        endpoints=(Endpoint(address="127.0.0.1", ports={80: port}),),
        grants=tuple(map(Grant, to)),
    )


VIEW = View(
    cluster="west",
    peers={cluster: peer(cluster) for cluster in ("west", "east", "north")},
    exports={name: export(name) for name in (ECHO, *(ServiceName("shop", f"s{n}") for n in range(100)))},
)


def exporting(made: Export) -> View:
    return replace(VIEW, exports={**VIEW.exports, made.name: made})


@pytest.fixture
def builder() -> Builder:
    return Builder(
        GatewayConfig(cluster="west", trust_domain="west.test", address="127.0.0.1", port=15443, identity=Proof())
    )


def test_an_export_that_nobody_uses_is_nothing_to_envoy(builder: Builder) -> None:
    put = builder.update(VIEW, asked=frozenset()).put
    assert {kind: set(made) for kind, made in put.items() if kind != names.SECRET_TYPE} == {
        names.LISTENER_TYPE: {names.INBOUND, names.INBOUND_TCP},
        names.CLUSTER_TYPE: {names.INBOUND_TCP},
    }


def test_callers_share_the_endpoints_until_the_last_is_gone(builder: Builder) -> None:
    put = builder.update(VIEW, asked=frozenset({EAST, NORTH})).put
    assert set(put[names.ENDPOINT_TYPE]) == {ENDPOINTS}
    assert builder.take_moved() == {EAST: True, NORTH: True}
    assert builder.update(VIEW, asked=frozenset({NORTH})).removed == {names.CLUSTER_TYPE: {EAST}}
    assert builder.update(VIEW, asked=frozenset()).removed == {
        names.CLUSTER_TYPE: {NORTH},
        names.ENDPOINT_TYPE: {ENDPOINTS},
    }


def test_a_changed_export_changes_its_own_resources(builder: Builder) -> None:
    asked = frozenset({EAST, NORTH})
    builder.update(VIEW, asked=asked)
    moved = builder.update(exporting(export(ECHO, port=9090)), asked=asked, changed={ECHO})
    assert {kind: set(made) for kind, made in moved.put.items()} == {names.ENDPOINT_TYPE: {ENDPOINTS}}
    assert not moved.removed
    assert not builder.update(exporting(export(ECHO, port=9090)), asked=asked, changed={ServiceName("shop", "s1")})


def test_a_revoked_grant_leaves_a_refusal_and_no_endpoints(builder: Builder) -> None:
    asked = frozenset({EAST})
    builder.update(VIEW, asked=asked)
    builder.take_moved()
    revoked = builder.update(exporting(export(ECHO, to=("north",))), asked=asked, changed={ECHO})
    made: Cluster = revoked.put[names.CLUSTER_TYPE][EAST]
    assert made.metadata.filter_metadata["isthmus"]["answer"] == "forbidden"
    assert revoked.removed == {names.ENDPOINT_TYPE: {ENDPOINTS}}
    assert builder.take_moved() == {EAST: False}


def test_a_link_that_ends_takes_its_grants_along(builder: Builder) -> None:
    asked = frozenset({EAST, NORTH})
    builder.update(VIEW, asked=asked)
    builder.take_moved()
    unlinked = replace(VIEW, peers={name: p for name, p in VIEW.peers.items() if name != "east"})
    assert set(builder.update(unlinked, asked=asked, changed=()).put[names.CLUSTER_TYPE]) == {EAST}
    assert builder.take_moved() == {EAST: False, NORTH: True}


def test_odd_ways_to_write_a_name_are_served_but_not_without_end(builder: Builder) -> None:
    odd = [names.inbound_http_cluster("east.test", SNI, f"echo.shop.global:{port}") for port in range(1000, 1020)]
    plain = names.inbound_http_cluster("east.test", SNI, "echo.shop.global:80")
    builder.update(VIEW, asked=frozenset({*odd, EAST, plain}))
    served = {name for name, is_served in builder.take_moved().items() if is_served}
    assert served == {EAST, plain, *odd[:ODD_NAMES]}
    builder.update(VIEW, asked=frozenset({*odd[1:], EAST, plain}), changed=())
    builder.update(VIEW, asked=frozenset({*odd[1:], EAST, plain, odd[0]}), changed=())
    assert builder.take_moved() == {odd[0]: True}, "who leaves makes room"


def test_what_names_no_service_is_refused(builder: Builder) -> None:
    asked = frozenset({names.inbound_http_cluster("east.test", "nonsense", "x"), "in-health/east.test|p1.a"})
    put = builder.update(VIEW, asked=asked).put[names.CLUSTER_TYPE]
    assert asked < set(put)
    assert builder.take_moved() == dict.fromkeys(asked, False)


def test_a_silent_name_is_nothing_to_envoy_until_it_is_served(builder: Builder) -> None:
    asked = frozenset({EAST, NORTH})
    builder.update(exporting(export(ECHO, to=("north",))), asked=asked)
    silenced = builder.update(exporting(export(ECHO, to=("north",))), asked=asked, silent=asked, changed=())
    assert silenced.removed == {names.CLUSTER_TYPE: {EAST}}
    assert not silenced.put, "who is served does not notice"
    builder.take_moved()
    granted = builder.update(VIEW, asked=asked, silent=asked, changed={ECHO})
    assert set(granted.put[names.CLUSTER_TYPE]) == {EAST}
    assert builder.take_moved()[EAST]
    again = builder.update(exporting(export(ECHO, to=("north",))), asked=asked, silent=frozenset(), changed={ECHO})
    assert set(again.put[names.CLUSTER_TYPE]) == {EAST}
    assert builder.update(VIEW, asked=frozenset(), silent=asked).removed[names.CLUSTER_TYPE] == {EAST, NORTH}


def test_an_endpoint_with_an_identity_is_reached_by_tls_and_the_others_as_before(builder: Builder) -> None:
    asked, vm = frozenset({EAST}), "spiffe://west.test/ns/shop/sa/vm"
    plain = builder.update(VIEW, asked=asked).put[names.CLUSTER_TYPE][EAST]
    assert not plain.HasField("transport_socket")
    pod, *_ = export(ECHO).endpoints
    mixed = replace(export(ECHO), endpoints=(pod, Endpoint(address="10.0.0.9", ports={80: 15006}, identity=vm)))
    changes = builder.update(exporting(mixed), asked=asked, changed={ECHO})
    put = changes.put
    made = put[names.CLUSTER_TYPE][EAST]
    assert made.transport_socket.name == "envoy.transport_sockets.tls"
    assert [m.name for m in made.transport_socket_matches] == ["@local"]
    ((one, two),) = (group.lb_endpoints for group in put[names.ENDPOINT_TYPE][TLS_ENDPOINTS].endpoints)
    assert changes.removed == {names.ENDPOINT_TYPE: {ENDPOINTS}}, "the former cluster never hears of the new set"
    says = [
        h.metadata.filter_metadata["envoy.transport_socket_match"].fields["cluster"].string_value for h in (one, two)
    ]
    assert says == [vm, "@local"]


def test_an_identity_that_nobody_here_can_verify_is_no_endpoint_until_it_can(builder: Builder) -> None:
    asked, vm = frozenset({EAST}), "spiffe://west.test/ns/shop/sa/vm"
    proven = replace(export(ECHO), endpoints=(Endpoint(address="10.0.0.9", ports={80: 15006}, identity=vm),))
    rootless = replace(VIEW.peers["west"], bundle=replace(VIEW.peers["west"].bundle, roots=()))
    blind = replace(exporting(proven), peers={**VIEW.peers, "west": rootless})
    put = builder.update(blind, asked=asked).put
    assert not put[names.CLUSTER_TYPE][EAST].HasField("transport_socket")
    assert not put[names.ENDPOINT_TYPE][ENDPOINTS].endpoints
    put = builder.update(exporting(proven), asked=asked, changed=()).put
    assert put[names.CLUSTER_TYPE][EAST].HasField("transport_socket")
    assert len(put[names.ENDPOINT_TYPE][TLS_ENDPOINTS].endpoints) == 1
