"""The way out of a gateway: listeners for all imports, clusters for those that are called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from federation.envoy import names
from federation.envoy.ledger import Changes
from federation.model.cluster import Bundle, Gateway, Peer
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Backend, Import, Locality, Port, Readiness
from federation.model.view import View
from gateway.build import Builder, GatewayConfig
from gateway.called import Called

ECHO, DB = ServiceName("shop", "echo"), ServiceName("shop", "db")
ECHO_1, ECHO_2 = names.egress_cluster(ECHO, 80, 1), names.egress_cluster(ECHO, 80, 2)
AT = {"egress/shop/db/5432", "egress/shop/echo/80"}


class Proof:
    chain_pem = b"chain"
    key_pem = b"key"


def peer(cluster: str, *gateways: Gateway) -> Peer:
    bundle = Bundle(trust_domain=f"{cluster}.test", sequence=1, roots=(b"root",))
    return Peer(
        cluster=cluster, trust_domain=f"{cluster}.test", own=cluster == "west", bundle=bundle, gateways=gateways
    )


def imported(name: ServiceName, port: int, at: int, app: AppProtocol = AppProtocol.OPAQUE, ready: int = 1) -> Import:
    backend = Backend(cluster="east", ports=(port,), readiness=(Readiness(Locality(), ready),))
    return Import(name=name, ports=(Port(port=port, app=app),), backends=(backend,), gateway_ports={port: at})


VIEW = View(
    cluster="west",
    peers={"west": peer("west"), "east": peer("east", Gateway(name="gw", address="192.0.2.1", port=15443))},
    imports={ECHO: imported(ECHO, 80, 20001, AppProtocol.HTTP), DB: imported(DB, 5432, 20002)},
)


class Edge:
    """A builder with what it is told."""

    def __init__(self, **config: Any) -> None:
        self.called = Called(idle_seconds=100, drain_seconds=10)
        self.builder = Builder(
            GatewayConfig(
                cluster="west", trust_domain="west.test", address="127.0.0.1", port=1, identity=Proof(), **config
            ),
            called=self.called,
        )
        self.view = VIEW

    def update(self, *changed: ServiceName) -> Changes:
        return self.builder.update(self.view, asked=frozenset(), changed=changed)

    def set(self, name: ServiceName, made: Import | None) -> Changes:
        imports = {n: i for n, i in self.view.imports.items() if n != name}
        self.view = replace(self.view, imports=imports if made is None else {**imports, name: made})
        return self.update(name)


@pytest.fixture
def edge() -> Edge:
    return Edge()


def listeners(changes: Changes) -> set[str]:
    return {name for name in changes.put.get(names.LISTENER_TYPE, {}) if name.startswith("egress/")}


def checked(changes: Changes) -> bool:
    made: ClusterLoadAssignment = changes.put[names.ENDPOINT_TYPE][names.outbound_endpoints(ECHO, 80, tls=True)]
    host = made.endpoints[0].lb_endpoints[0].endpoint
    return not host.health_check_config.disable_active_health_check


def test_an_import_that_nobody_calls_is_a_listener(edge: Edge) -> None:
    made = edge.builder.update(VIEW, asked=frozenset())
    assert listeners(made) == AT
    assert set(made.put[names.CLUSTER_TYPE]) == {names.INBOUND_TCP}
    assert names.ENDPOINT_TYPE not in made.put
    echo: Listener = made.put[names.LISTENER_TYPE]["egress/shop/echo/80"]
    assert ECHO_1.encode() in echo.SerializeToString()
    assert echo.address.socket_address.port_value == 20001


def test_a_call_makes_its_cluster_and_checks_begin_later(edge: Edge) -> None:
    edge.builder.update(VIEW, asked=frozenset())
    edge.called.ask([ECHO_1])
    made = edge.update()
    assert set(made.put) == {names.CLUSTER_TYPE, names.ENDPOINT_TYPE}
    assert set(made.put[names.CLUSTER_TYPE]) == {ECHO_1}
    assert not checked(made)
    assert made.begin_checks(set(made.put[names.ENDPOINT_TYPE]), None)
    then = edge.update()
    assert set(then.put) == {names.ENDPOINT_TYPE}
    assert checked(then)


def test_a_changed_readiness_is_no_word_to_what_is_not_called(edge: Edge) -> None:
    edge.builder.update(VIEW, asked=frozenset())
    changes = edge.set(ECHO, imported(ECHO, 80, 20001, AppProtocol.HTTP, ready=5))
    assert (changes.put, changes.removed) == ({}, {})


def test_a_peer_more_changes_no_listener(edge: Edge) -> None:
    """Its connections would end with it."""
    edge.builder.update(VIEW, asked=frozenset())
    east = Gateway(name="other", address="192.0.2.2", port=15443)
    edge.view = replace(VIEW, peers={**VIEW.peers, "east": peer("east", east)})
    assert not listeners(edge.update())


def test_what_is_idle_is_taken_away_and_can_be_asked_for_again(edge: Edge) -> None:
    edge.builder.update(VIEW, asked=frozenset())
    edge.called.ask([ECHO_1])
    edge.update().begin_checks({names.outbound_endpoints(ECHO, 80, tls=True)}, None)
    edge.update()
    edge.called.sweep([], 0.0)
    edge.called.sweep([], 100.0)
    renamed = edge.update()
    assert listeners(renamed) == {"egress/shop/echo/80"}
    assert not renamed.removed, "the connections of the replaced listener go on"
    assert not checked(renamed), "and nothing is checked for them"
    edge.called.sweep([], 110.0)
    assert edge.update().removed == {
        names.CLUSTER_TYPE: {ECHO_1},
        names.ENDPOINT_TYPE: {names.outbound_endpoints(ECHO, 80, tls=True)},
    }
    edge.called.ask([ECHO_2])
    again = edge.update()
    assert set(again.put[names.CLUSTER_TYPE]) == {ECHO_2}
    assert not checked(again)


def test_an_import_that_comes_back_has_another_name(edge: Edge) -> None:
    """Envoy would not ask for the former one again."""
    edge.builder.update(VIEW, asked=frozenset())
    edge.called.ask([ECHO_1])
    edge.update()
    gone = edge.set(ECHO, None)
    assert gone.removed[names.CLUSTER_TYPE] == {ECHO_1}
    assert gone.removed[names.LISTENER_TYPE] == {"egress/shop/echo/80"}
    back = edge.set(ECHO, VIEW.imports[ECHO])
    assert names.CLUSTER_TYPE not in back.put
    assert ECHO_2.encode() in back.put[names.LISTENER_TYPE]["egress/shop/echo/80"].SerializeToString()


def test_imports_for_which_there_are_no_files_are_left_out_until_there_are() -> None:
    edge = Edge(most_listeners=1)
    made = edge.builder.update(VIEW, asked=frozenset())
    (taken,) = listeners(made)
    ((left,), first) = edge.builder.egress.left_out, ECHO if "echo" in taken else DB
    assert {first, left} == {ECHO, DB}
    assert edge.builder.egress.listening == 1
    assert listeners(edge.set(first, None)) == AT - {taken}
    assert edge.builder.egress.left_out == set()
    edge.set(first, VIEW.imports[first])
    assert edge.builder.egress.left_out == {first}
    edge.set(first, None)
    assert edge.builder.egress.left_out == set()


def test_aliases_are_led_on_under_the_global_name(edge: Edge) -> None:
    aliases = ("echo.service.consul", "echo.shop.global")  # one that is a global name anyway
    made = edge.set(ECHO, replace(VIEW.imports[ECHO], aliases=aliases)).put[names.LISTENER_TYPE]["egress/shop/echo/80"]
    assert isinstance(made, Listener)
    manager = HttpConnectionManager()
    assert made.filter_chains[0].filters[-1].typed_config.Unpack(manager)
    own, others, stranger = manager.route_config.virtual_hosts
    assert list(own.domains) == ["echo.shop.svc.clusterset.local", "echo.shop.global"]
    assert all(not one.route.host_rewrite_literal for one in own.routes)
    assert list(others.domains) == ["echo.service.consul"]
    assert {one.route.host_rewrite_literal for one in others.routes} == {"echo.shop.svc.clusterset.local"}
    assert [one.route.cluster for one in others.routes] == [one.route.cluster for one in own.routes]
    assert list(stranger.domains) == ["*"]
