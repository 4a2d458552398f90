"""Services as the cluster claims them, from the manifests: one table per question."""

from __future__ import annotations

import pytest

from discovery.sources import manifests as k8s
from discovery.sources.convert import Refused, app_protocol, convert, readiness, uncarried, unsupported
from federation.errors import InvalidInput
from federation.model.service import AppProtocol, Endpoint, Grant, Locality, Port, Protocol, Readiness, Service

HOME = Locality("eu", "eu-1")


def service(*ports: k8s.ServicePort, **spec: object) -> k8s.Service:
    return k8s.Service(
        metadata=k8s.Metadata(name="echo", namespace="shop"),
        spec=k8s.ServiceSpec(ports=list(ports) or [k8s.ServicePort(port=80, name="http")], **spec),  # type: ignore[arg-type]
    )


def slice_(*endpoints: k8s.SliceEndpoint, ports: dict[str, int] | None = None, **more: object) -> k8s.EndpointSlice:
    labels = {k8s.SERVICE_NAME: "echo", **more.pop("labels", {})}  # type: ignore[dict-item]
    return k8s.EndpointSlice(
        metadata=k8s.Metadata(name="echo-1", namespace="shop", labels=labels),
        address_type=str(more.get("family", "IPv4")),
        ports=[k8s.SlicePort(name=n, port=p) for n, p in (ports or {"http": 8080}).items()],
        endpoints=list(endpoints),
    )


def at(address: str, **more: object) -> k8s.SliceEndpoint:
    return k8s.SliceEndpoint(addresses=[address], **more)  # type: ignore[arg-type]


def claim(given: k8s.Service, *slices: k8s.EndpointSlice, export: k8s.ServiceExport | None = None) -> Service:
    export = export or k8s.ServiceExport(metadata=k8s.Metadata(name="echo", namespace="shop"))
    return convert(given, export, slices, exported_at_ns=7, locality=HOME)


@pytest.mark.parametrize(
    ("declared", "name", "expected"),
    [
        ("http", "", AppProtocol.HTTP),
        ("HTTP", "", AppProtocol.HTTP),
        ("https", "http-web", AppProtocol.OPAQUE),
        ("kubernetes.io/h2c", "", AppProtocol.H2C),
        ("kubernetes.io/ws", "", AppProtocol.HTTP),
        ("kubernetes.io/wss", "", AppProtocol.OPAQUE),
        ("grpc", "", AppProtocol.GRPC),
        ("tcp", "http", AppProtocol.OPAQUE),
        ("mongo", "", AppProtocol.OPAQUE),
        ("example.com/own", "", AppProtocol.OPAQUE),
        (None, "http", AppProtocol.HTTP),
        (None, "http-admin", AppProtocol.HTTP),
        (None, "http2-api", AppProtocol.H2C),
        (None, "grpc-api", AppProtocol.GRPC),
        (None, "https-web", AppProtocol.OPAQUE),
        (None, "httpd", AppProtocol.OPAQUE),
        (None, "web", AppProtocol.OPAQUE),
        (None, "", AppProtocol.OPAQUE),
    ],
)
def test_app_protocol(declared: str | None, name: str, expected: AppProtocol) -> None:
    assert app_protocol(declared, name) is expected


def test_named_target_ports_come_from_the_slice_by_port_name() -> None:
    given = service(k8s.ServicePort(port=80, name="http"), k8s.ServicePort(port=9000, name="admin"))
    made = claim(given, slice_(at("10.0.0.1"), ports={"admin": 9999, "http": 8080}))
    assert made.endpoints[0].ports == {80: 8080, 9000: 9999}


def test_one_port_each_needs_no_names() -> None:
    made = claim(service(k8s.ServicePort(port=80)), slice_(at("10.0.0.1"), ports={"whatever": 1234}))
    assert made.endpoints[0].ports == {80: 1234}


def test_a_port_that_no_slice_offers_is_not_on_the_endpoint() -> None:
    given = service(k8s.ServicePort(port=80, name="http"), k8s.ServicePort(port=81, name="other"))
    assert claim(given, slice_(at("10.0.0.1"))).endpoints[0].ports == {80: 8080}


def test_udp_is_carried_as_bytes_and_tcp_decides_a_shared_number() -> None:
    given = service(
        k8s.ServicePort(port=53, name="dns", protocol="UDP", app_protocol="http"),
        k8s.ServicePort(port=53, name="dns-tcp"),
    )
    offered = k8s.EndpointSlice(
        metadata=k8s.Metadata(name="x"),
        address_type="IPv4",
        ports=[k8s.SlicePort(name="dns", port=1, protocol="UDP"), k8s.SlicePort(name="dns-tcp", port=2)],
        endpoints=[at("10.0.0.1")],
    )
    made = claim(given, offered)
    assert [(p.protocol, p.app) for p in made.ports] == [
        (Protocol.UDP, AppProtocol.OPAQUE),
        (Protocol.TCP, AppProtocol.OPAQUE),
    ]
    assert made.endpoints[0].ports == {53: 2}


def test_sctp_is_shown_and_refused_alone() -> None:
    both = service(k8s.ServicePort(port=80, name="http"), k8s.ServicePort(port=81, name="http-s", protocol="SCTP"))
    assert claim(both).ports[1] == Port(name="http-s", port=81, protocol=Protocol.SCTP)
    assert uncarried(both) == ((81, "SCTP"),)
    assert unsupported(both) == ("port 81 speaks SCTP: imports show it, gateways and sidecars carry TCP only",)
    beside = service(k8s.ServicePort(port=53, name="dns"), k8s.ServicePort(port=53, name="dns-udp", protocol="UDP"))
    assert uncarried(beside) == ((53, "UDP"),)
    assert unsupported(beside) == ()
    with pytest.raises(Refused) as caught:
        claim(service(k8s.ServicePort(port=81, protocol="SCTP")))
    assert caught.value.code == "unsupported_protocol"


def test_external_name_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        claim(service(type="ExternalName"))
    assert caught.value.code == "invalid_service_type"


@pytest.mark.parametrize(
    ("ready", "serving", "terminating", "expected"),
    [
        (None, None, None, (True, False)),
        (True, True, False, (True, False)),
        (False, False, False, (False, False)),
        (False, True, True, (False, True)),
        (False, False, True, (False, False)),
        (False, None, True, (False, False)),
    ],
)
def test_conditions(
    ready: bool | None, serving: bool | None, terminating: bool | None, expected: tuple[bool, bool]
) -> None:
    conditions = k8s.Conditions(ready=ready, serving=serving, terminating=terminating)
    (endpoint,) = claim(service(), slice_(at("10.0.0.1", conditions=conditions))).endpoints
    assert (endpoint.ready, endpoint.terminating) == expected


def test_publish_not_ready_addresses() -> None:
    given = service(publish_not_ready_addresses=True)
    made = claim(given, slice_(at("10.0.0.1", conditions=k8s.Conditions(ready=False))))
    assert made.ready == 1


def test_zones_and_regions() -> None:
    made = claim(
        service(),
        slice_(at("10.0.0.1", zone="us-2"), at("10.0.0.2"), labels={k8s.REGION: "us", k8s.ZONE: "us-1"}),
        slice_(at("10.0.0.3"), at("10.0.0.4", zone="eu-9")),
    )
    assert [e.locality for e in made.endpoints] == [
        Locality("us", "us-2"),
        Locality("us", "us-1"),
        HOME,
        Locality("eu", "eu-9"),
    ]
    assert made.readiness == tuple(sorted(made.readiness, key=lambda r: r.locality))
    assert made.ready == 4


def test_an_endpoint_in_two_slices_is_one() -> None:
    given = service(k8s.ServicePort(port=80, name="http"), k8s.ServicePort(port=81, name="b"))
    down = at("10.0.0.1", conditions=k8s.Conditions(ready=False))
    made = claim(given, slice_(down), slice_(at("10.0.0.1"), ports={"b": 9}))
    assert made.endpoints == (Endpoint(address="10.0.0.1", locality=HOME, ports={80: 8080, 81: 9}),)


def test_both_families_count_once() -> None:
    made = claim(service(), slice_(at("10.0.0.1"), at("10.0.0.2")), slice_(at("fd00::1"), at("fd00::2"), family="IPv6"))
    assert made.readiness == (Readiness(HOME, 2),)
    assert made.ip_families == ("IPv4", "IPv6")
    assert len(made.endpoints) == 4


def test_weights_are_added_up_where_there_are_any() -> None:
    def one(address: str, weight: int, zone: str = "home-1", *, ready: bool = True) -> Endpoint:
        return Endpoint(address=address, weight=weight, locality=Locality("home", zone), ready=ready)

    plain = [one("10.0.0.1", 1), one("10.0.0.2", 1)]
    assert readiness(plain) == (Readiness(Locality("home", "home-1"), 2, 0),)  # as who knows of no weights says it
    weighed = [one("10.0.0.1", 5), one("10.0.0.2", 1), one("10.0.0.3", 9, ready=False), one("10.0.0.4", 7, "home-2")]
    weighed += [one("fd00::1", 5), one("fd00::2", 1)]
    assert readiness(weighed) == (
        Readiness(Locality("home", "home-1"), 2, 6),
        Readiness(Locality("home", "home-2"), 1, 7),
    )


def test_hostnames_belong_to_headless_services() -> None:
    named = at("10.0.0.1", hostname="db-0")
    assert claim(service(cluster_ip="None"), slice_(named)).endpoints[0].hostname == "db-0"
    assert claim(service(), slice_(named)).endpoints[0].hostname == ""


def test_the_exports_labels_annotations_and_grants() -> None:
    export = k8s.ServiceExport(
        metadata=k8s.Metadata(name="echo", labels={"not": "this"}, annotations={k8s.CONSUMERS: "west, edge:80"}),
        spec=k8s.ExportSpec(exported_labels={"b": "2", "a": "1"}, exported_annotations={"c": "3"}),
    )
    made = claim(service(), export=export)
    assert list(made.labels) == ["a", "b"]
    assert made.annotations == {"c": "3"}
    assert made.grants == (Grant("edge", (80,)), Grant("west"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ()),
        ("*", (Grant("*"),)),
        ("west", (Grant("west"),)),
        (" edge:443 ,edge:80", (Grant("edge", (80, 443)),)),
        ("edge:80,edge", (Grant("edge"),)),
        ("edge,edge:80", (Grant("edge"),)),
        ("*:80,west", (Grant("*", (80,)), Grant("west"))),
    ],
)
def test_consumers(text: str | None, expected: tuple[Grant, ...]) -> None:
    assert k8s.grants(text) == expected
    if expected:
        assert k8s.grants(k8s.consumers(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", " ", "west,", "West", "west:", "west:http", "west:0", "west:65536", "west:٣", "a:-1"]
)
def test_consumers_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        k8s.grants(text)


def test_session_affinity() -> None:
    config = k8s.AffinityConfig(client_ip=k8s.ClientIp(timeout_seconds=30))
    assert claim(service(session_affinity="ClientIP", session_affinity_config=config)).session_affinity_seconds == 30
    assert claim(service(session_affinity="ClientIP")).session_affinity_seconds == 10_800
    assert claim(service()).session_affinity_seconds == 0


def test_readiness_of_nothing_is_empty() -> None:
    assert readiness([]) == ()
