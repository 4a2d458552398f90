"""What Envoy's /clusters tells of use."""

from __future__ import annotations

from federation.model.ids import ServiceName
from sidecar.build.outbound import Use
from sidecar.connections import Traffic

ECHO, DB = ServiceName("shop", "echo"), ServiceName("shop", "db")
USES = [
    Use(name=ECHO, vip="127.128.0.1"),
    Use(name=DB, vip="240.64.0.2"),
    Use(name=DB, vip="240.64.0.3", pinned="east"),
]


def text(*lines: str) -> bytes:
    return "\n".join(("out/shop/echo/80::observability_name::out/shop/echo/80", "isthmus-ads::x", *lines)).encode()


def test_requests_since_the_last_look_count_as_use() -> None:
    traffic = Traffic()
    assert traffic.used(text("out/shop/echo/80::192.0.2.1:80::rq_total::3"), USES) == {ECHO}
    assert traffic.used(text("out/shop/echo/80::192.0.2.1:80::rq_total::3"), USES) == set()
    assert traffic.used(text("out/shop/echo/80::192.0.2.1:80::rq_total::4"), USES) == {ECHO}


def test_what_is_under_way_counts_and_idle_pooled_connections_do_not() -> None:
    traffic = Traffic()
    assert traffic.used(text("out/shop/echo/80::[2001:db8::1]:80::rq_active::1"), USES) == {ECHO}
    assert traffic.used(text("out/shop/echo/80::192.0.2.1:80::cx_active::5"), USES) == set()


def test_clusters_on_demand_belong_to_the_service_of_their_address() -> None:
    assert Traffic().used(text("vip/240.64.0.2:5432::192.0.2.1:1::rq_active::1"), USES) == {DB}
    assert Traffic().used(text("vip/240.64.0.3:5432::192.0.2.1:1::rq_total::1"), USES) == {DB}
    assert Traffic().used(text("vip/240.64.0.9:5432::192.0.2.1:1::rq_total::1"), USES) == set()


def test_garbage_is_passed_over() -> None:
    assert Traffic().used(b"\xff\xfe::::rq_total::x\nout::rq_total::1\n", USES) == set()
