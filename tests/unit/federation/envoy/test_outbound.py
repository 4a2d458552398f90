"""Whom a caller's Envoy speaks mutual TLS with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.envoy import outbound
from federation.envoy.cluster import Remote
from federation.model.cluster import Bundle, Peer
from federation.model.ids import ServiceName
from federation.model.service import Backend, Endpoint, Import, Port

DB_1, DB_2 = (f"spiffe://here.test/ns/shop/sa/db-{n}" for n in (1, 2))
ENDPOINTS = (
    Endpoint(address="10.1.0.1", ports={80: 8080}),
    Endpoint(address="10.1.0.2", ports={80: 15006}, identity=DB_2),
    Endpoint(address="10.1.0.3", ports={80: 15006}, identity=DB_1, ready=False),
    Endpoint(address="10.1.0.4", ports={80: 15006}, identity=DB_1),
    Endpoint(address="10.1.0.5", ports={443: 15006}, identity="spiffe://here.test/ns/shop/sa/other-port"),
    Endpoint(address="10.1.0.6", ports={80: 15006}, identity="spiffe://west.test/ns/shop/sa/foreign"),
)


def peer(cluster: str) -> Peer:
    domain = f"{cluster}.test"
    return Peer(
        cluster=cluster,
        trust_domain=domain,
        own=cluster == "here",
        bundle=Bundle(trust_domain=domain, sequence=1, roots=(b"root",)),
    )


PEERS = {name: peer(name) for name in ("here", "west")}
SERVICE = Import(
    name=ServiceName("shop", "db"),
    ports=(Port(port=80),),
    backends=(
        Backend(cluster="here", local=True, ports=(80,), endpoints=ENDPOINTS),
        Backend(cluster="west", ports=(80,)),
        Backend(cluster="unlinked", ports=(80,)),
    ),
)
OWN = [Remote("here", "here.test", DB_1), Remote("here", "here.test", DB_2)]
WEST = Remote("west", "west.test")


@pytest.mark.parametrize(
    ("port", "pinned", "expected"), [(80, None, [*OWN, WEST]), (80, "west", [WEST]), (80, "here", OWN), (443, None, [])]
)
def test_gateways_and_endpoints_that_can_be_verified(port: int, pinned: str | None, expected: list[Remote]) -> None:
    assert list(outbound.remotes(SERVICE, port, PEERS, pinned)) == expected


def test_without_the_own_roots_only_gateways() -> None:
    own = PEERS["here"]
    for doubtful in (replace(own, bundle=replace(own.bundle, roots=())), replace(own, bundle=PEERS["west"].bundle)):
        assert outbound.remotes(SERVICE, 80, {**PEERS, "here": doubtful}, None) == (WEST,)
    assert outbound.own_remotes(ENDPOINTS, 80, None) == ()
