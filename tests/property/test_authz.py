"""What Envoy is told about callers is what the reference decides: exact ALLOW rules, nothing by pattern."""

from __future__ import annotations

from typing import Any

from envoy.type.matcher.v3.string_pb2 import StringMatcher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.envoy import names
from federation.model.cluster import Bundle, Peer
from federation.model.ids import ServiceName, SpiffeId
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


callers = st.sampled_from(
    [
        *(f"spiffe://{c}.example.org/ns/shop/sa/web" for c in CLUSTERS),
        "spiffe://gone.example.org/ns/shop/sa/web",
        "spiffe://east.example.org.evil/ns/shop/sa/web",
        "spiffe://east.example.org/ns/shop/sa/web,spiffe://edge.example.org/ns/shop/sa/web",
        "https://east.example.org/",
        "",
    ]
)


def holds(matcher: StringMatcher, value: str) -> bool:
    kind = matcher.WhichOneof("match_pattern")
    assert kind in ("exact", "prefix"), "nothing by pattern"
    return value == matcher.exact if kind == "exact" else value.startswith(matcher.prefix)


def by_routes(resources: dict, configuration: str, host: str, sni: str, uri: str) -> bool:
    """What Envoy does with a request, by the rules of the route configuration: first match wins, default deny."""
    for virtual_host in resources[names.ROUTE_TYPE][configuration].virtual_hosts:
        if host not in virtual_host.domains:
            continue
        for candidate in virtual_host.routes:
            state = {names.STATE_SNI: sni, names.STATE_PEER: uri}
            if not all(holds(m.string_match, state[m.key]) for m in candidate.match.filter_state):
                continue
            return candidate.HasField("route") or candidate.direct_response.status == 200
    return False


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(view=views(), name=st.sampled_from(SERVICES), port=st.sampled_from(PORTS), uri=callers, after=views())
def test_the_configuration_decides_as_the_reference(
    view: View, name: ServiceName, port: int, uri: str, after: View
) -> None:
    sni = names.server_name(name, port, "west.example.org")
    pair = names.inbound_tcp_cluster(sni, uri)
    host = f"{name.name}.{name.namespace}.global"
    builder = Builder(CONFIG)
    resources: dict[str, dict[str, Any]] = {}
    for seen in (view, after):  # the second time incrementally
        changes = builder.update(seen, tcp_pairs=[pair])
        for kind, gone in changes.removed.items():
            for name_of_it in gone:
                del resources[kind][name_of_it]
        for kind, made in changes.put.items():
            resources.setdefault(kind, {}).update(made)
        decision = admitted(seen, sni, uri)
        http = decision.port is not None and decision.port.app.is_http
        # The comma-joined URIs are no SPIFFE ID. Envoy sees the first one, whose domain its validator has verified.
        first = uri.partition(",")[0]
        expected = admitted(seen, sni, first).allowed
        assert by_routes(resources, names.HEALTH, host, sni, uri) == expected
        assert by_routes(resources, names.INBOUND, host, sni, uri) == (expected and http)
        assert (pair in resources[names.CLUSTER_TYPE]) == (decision.allowed and not http)
        fresh = build(seen, CONFIG, tcp_pairs=[pair])
        assert {k: dict(v) for k, v in fresh.items()} == {k: v for k, v in resources.items() if v}


def test_reasons_are_named() -> None:
    name = SERVICES[0]
    offered = export(name, (Port(port=80),), (Grant("east", (80,)),))
    view = View(cluster="west", peers={c: peer(c) for c in ("west", "east", "edge")}, exports={name: offered})
    sni = names.server_name(name, 80, "west.example.org")
    caller = str(SpiffeId.workload("east.example.org", "shop", "web"))
    assert admitted(view, sni, caller).reason == "granted"
    assert admitted(view, sni.replace("p80", "p81"), caller).reason == "not_exported"
    assert admitted(view, sni.replace("west.example", "east.example"), caller).reason == "not_exported"
    assert admitted(view, sni, caller.replace("east", "edge")).reason == "no_grant"
    assert admitted(view, sni, "spiffe://east.example.org").reason == "no_identity"
    assert admitted(View(cluster="west"), sni, caller).reason == "not_exported"
