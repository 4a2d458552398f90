"""The clusters that a gateway's Envoy is given are those that the reference admits, and no others."""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.envoy import names
from federation.model.cluster import Bundle, Peer
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Endpoint, Export, Grant, Port
from federation.model.view import View
from gateway.authz import admitted
from gateway.build import Builder, GatewayConfig, build

CLUSTERS = ("east", "west", "edge", "eas", "east2")
PORTS = (80, 443, 9000)
SERVICES = tuple(ServiceName(ns, svc) for ns in ("shop", "bank") for svc in ("echo", "db"))


class Proof:
    chain_pem = b"chain"
    key_pem = b"key"


CONFIG = GatewayConfig(
    cluster="west", trust_domain="west.example.org", address="127.0.0.1", port=15443, identity=Proof()
)


def peer(cluster: str) -> Peer:
    domain = f"{cluster}.example.org"
    bundle = Bundle(trust_domain=domain, sequence=1, roots=(b"root",))
    return Peer(cluster=cluster, trust_domain=domain, own=cluster == "west", bundle=bundle)


grants = st.lists(
    st.builds(Grant, st.sampled_from((*CLUSTERS, "gone")), st.lists(st.sampled_from(PORTS), unique=True).map(tuple)),
    max_size=3,
).map(tuple)
ports = st.lists(
    st.builds(lambda n, app: Port(name=f"p{n}", port=n, app=app), st.sampled_from(PORTS), st.sampled_from(AppProtocol)),
    unique_by=lambda p: p.port,
    max_size=3,
).map(tuple)


def export(name: ServiceName, ports: tuple[Port, ...], grants: tuple[Grant, ...]) -> Export:
    endpoints = (Endpoint(address="127.0.0.1", ports={p.port: p.port for p in ports}),)
    return Export(name=name, ports=ports, grants=grants, endpoints=endpoints)


@st.composite
def views(draw: st.DrawFn) -> View:
    linked = {"west", *draw(st.sets(st.sampled_from(CLUSTERS)))}
    exported = draw(st.sets(st.sampled_from(SERVICES)))
    return View(
        cluster="west",
        peers={c: peer(c) for c in linked},
        exports={name: export(name, draw(ports), draw(grants)) for name in exported},
    )


domains = st.sampled_from([f"{c}.example.org" for c in (*CLUSTERS, "gone")] + ["east.example.org.evil", "-"])
authorities = st.sampled_from(
    [
        *(f"{n.name}.{n.namespace}.{zone}" for n in SERVICES for zone in ("global", "svc.clusterset.local")),
        "echo.shop.west.global",
        "echo.shop.east.global",
        "echo.shop.global:80",
        "Echo.Shop.Global:8080",
        "echo.shop.global:",
        "echo.shop.global:x",
        "echo.shop.global.",
        "global",
    ]
)


@settings(max_examples=200)
@given(
    view=views(),
    name=st.sampled_from(SERVICES),
    port=st.sampled_from(PORTS),
    domain=domains,
    host=authorities,
    after=views(),
)
def test_the_clusters_that_exist_are_those_that_the_reference_admits(
    view: View, name: ServiceName, port: int, domain: str, host: str, after: View
) -> None:
    sni = names.server_name(name, port, "west.example.org")
    http = names.inbound_http_cluster(domain, sni, host)
    tcp, health = names.inbound_tcp_cluster(domain, sni), names.inbound_health_cluster(domain, sni)
    asked = frozenset({http, tcp, health})
    builder = Builder(CONFIG)
    resources: dict[str, dict[str, Any]] = {}
    for seen in (view, after):  # the second time incrementally
        changes = builder.update(seen, asked=asked)
        for kind, gone in changes.removed.items():
            for name_of_it in gone:
                del resources[kind][name_of_it]
        for kind, made in changes.put.items():
            resources.setdefault(kind, {}).update(made)
        decision = admitted(seen, sni, domain)
        exported = decision.port is not None
        is_http = decision.port is not None and decision.port.app.is_http
        own = {f"{name.name}.{name.namespace}.{z}" for z in ("global", "svc.clusterset.local", "west.global")}
        spelt, _, digits = host.partition(":")
        fits = spelt.lower() in own and (not digits or digits.isdigit())
        clusters = resources[names.CLUSTER_TYPE]
        refused = "forbidden" if exported else "misdirected"
        assert leads_to(clusters[health]) == ("ready" if decision.allowed else refused)
        admits = "endpoints" if decision.allowed else refused
        assert leads_to(clusters[tcp]) == ("misdirected" if is_http else admits)
        assert leads_to(clusters[http]) == (admits if is_http and fits else "misdirected")
        fresh = build(seen, CONFIG, asked=asked)
        assert {k: dict(v) for k, v in fresh.items()} == {k: v for k, v in resources.items() if v}


def leads_to(cluster: Cluster) -> str:
    """What Envoy does with a request to it."""
    if cluster.type == Cluster.EDS:
        return "endpoints"
    assert not cluster.load_assignment.endpoints
    return str(cluster.metadata.filter_metadata["isthmus"]["answer"])


def test_reasons_are_named() -> None:
    name = SERVICES[0]
    offered = export(name, (Port(port=80),), (Grant("east", (80,)),))
    view = View(cluster="west", peers={c: peer(c) for c in ("west", "east", "edge")}, exports={name: offered})
    sni = names.server_name(name, 80, "west.example.org")
    assert admitted(view, sni, "east.example.org").reason == "granted"
    assert admitted(view, sni.replace("p80", "p81"), "east.example.org").reason == "not_exported"
    assert admitted(view, sni.replace("west.example", "east.example"), "east.example.org").reason == "not_exported"
    assert admitted(view, sni, "edge.example.org").reason == "no_grant"
    assert admitted(View(cluster="west"), sni, "east.example.org").reason == "not_exported"
