"""Names of Envoy's resources: what is built can be parsed, and nothing else can."""

from __future__ import annotations

import pytest

from federation.envoy import names
from federation.model.ids import ServiceName

ECHO = ServiceName("shop", "echo")


def test_each_name_has_one_form() -> None:
    assert names.outbound_cluster(ECHO, 80) == "out/shop/echo/80"
    assert names.outbound_cluster(ECHO, 80, "west") == "out/shop/echo/80/west"
    assert names.outbound_endpoints(ECHO, 80, tls=False) == "out/shop/echo/80"
    assert names.outbound_endpoints(ECHO, 80, tls=True) == "out/shop/echo/80/@tls"
    assert names.outbound_endpoints(ECHO, 80, "west", tls=True) == "out/shop/echo/80/west/@tls"
    assert names.inbound_endpoints(ECHO, 80) == "in/shop/echo/80"
    assert names.inbound_endpoints(ECHO, 80, tls=True) == "in/shop/echo/80/@tls"
    assert names.workload_cluster(ECHO, 80) == "workload/shop/echo/80"
    assert names.vip_cluster("240.64.0.1", 80) == "vip/240.64.0.1:80"
    assert names.vip_cluster("fd00::1", 80) == "vip/[fd00::1]:80"
    assert names.outbound_listener("127.128.0.1", 80) == "out/127.128.0.1:80"
    assert names.egress_listener(ECHO, 80) == "egress/shop/echo/80"


def test_a_server_name_is_parsed_exactly() -> None:
    sni = names.server_name(ECHO, 8080, "west.example.org")
    assert sni == "p8080.echo.shop.svc.west.example.org"
    assert names.parse_server_name(sni) == (ECHO, 8080, "west.example.org")


@pytest.mark.parametrize(
    "sni",
    [
        "",
        "p80.echo.shop.svc",
        "p80.echo.shop.svc.",
        "80.echo.shop.svc.west.example.org",
        "p080.echo.shop.svc.west.example.org",
        "p0.echo.shop.svc.west.example.org",
        "p65536.echo.shop.svc.west.example.org",
        "p99999999999999999999.echo.shop.svc.west.example.org",
        "p\u0668\u0660.echo.shop.svc.west.example.org",
        "p80.Echo.shop.svc.west.example.org",
        "p80.*.shop.svc.west.example.org",
        "p80.echo.shop.pod.west.example.org",
        "p80..shop.svc.west.example.org",
    ],
)
def test_what_is_no_server_name_of_ours(sni: str) -> None:
    assert names.parse_server_name(sni) is None


@pytest.mark.parametrize(
    ("cluster", "parsed"),
    [
        ("vip/240.64.0.1:80", ("240.64.0.1", 80)),
        ("vip/[fd00::1]:80", ("fd00::1", 80)),
        ("vip/fd00::1:80", None),
        ("vip/240.64.0.1", None),
        ("vip/:80", None),
        ("vip/240.64.0.1:080", None),
        ("out/240.64.0.1:80", None),
    ],
)
def test_clusters_of_virtual_addresses(cluster: str, parsed: tuple[str, int] | None) -> None:
    assert names.parse_vip_cluster(cluster) == parsed


@pytest.mark.parametrize(
    ("cluster", "parsed"),
    [
        (names.inbound_tcp_cluster("west.test", "p1.a.b"), ("in-tcp", "west.test", "p1.a.b", "")),
        (names.inbound_health_cluster("west.test", "p1.a.b"), ("in-health", "west.test", "p1.a.b", "")),
        (names.inbound_http_cluster("west.test", "p1.a.b", "a.b"), ("in-http", "west.test", "p1.a.b", "a.b")),
        (names.inbound_http_cluster("west.test", "p1.a.b|a.b", "x"), None),
        (names.inbound_http_cluster("west.test", "p1.a.b", "a.b|x"), None),
        (names.inbound_tcp_cluster("west.test", "p1.a.b|c"), None),
        ("in-http/west.test|p1.a.b", None),
        ("in-http/west.test|p1.a.b|", None),
        ("in-tcp/west.test|", None),
        ("in-tcp/|p1.a.b", None),
        ("in-tcp/p1.a.b", None),
        ("in-tcp", None),
        ("in/a|b", None),
        ("vip/a|b", None),
    ],
)
def test_clusters_that_a_gateway_asks_for(cluster: str, parsed: tuple[str, ...] | None) -> None:
    assert names.parse_inbound_cluster(cluster) == parsed


@pytest.mark.parametrize("number", [1, 17])
def test_the_cluster_of_an_egress_listener_is_read_back(number: int) -> None:
    made = names.egress_cluster(ServiceName("shop", "echo"), 80, number)
    assert names.parse_egress_cluster(made) == (ServiceName("shop", "echo"), 80, number)


@pytest.mark.parametrize(
    "text",
    ["", "egress/shop/echo/80", "egress/shop/echo/80/", "egress/shop/echo/80/0", "egress/shop/echo/80/01",
     "egress/shop/echo/0/1", "egress/shop/Echo/80/1", "egress/shop/echo/80/1/1", "out/shop/echo/80/1",
     "egress/shop/echo/80/" + "9" * 19],
)  # fmt: skip
def test_what_no_egress_listener_names_is_nothing(text: str) -> None:
    assert names.parse_egress_cluster(text) is None
