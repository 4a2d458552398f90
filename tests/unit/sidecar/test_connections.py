"""From the names in Envoy's counters to services."""

from __future__ import annotations

import pytest

from federation.envoy.traffic import Traffic
from federation.model.ids import ServiceName
from sidecar.build.outbound import Use
from sidecar.connections import services

ECHO, DB = ServiceName("shop", "echo"), ServiceName("shop", "db")
USES = [
    Use(name=ECHO, vip="127.128.0.1"),
    Use(name=DB, vip="240.64.0.2"),
    Use(name=DB, vip="240.64.0.3", pinned="east"),
]


@pytest.mark.parametrize(
    ("cluster", "found"),
    [
        ("out/shop/echo/80", {ECHO}),
        ("out/shop/db/5432/east", {DB}),
        ("out/shop/ech/80", set()),
        ("vip/240.64.0.2_5432", {DB}),
        ("vip/240.64.0.3_5432", {DB}),
        ("vip/240.64.0.9_5432", set()),
        ("vip/240.64.0.20_5432", set()),
        ("isthmus-ads", set()),
        ("vip/", set()),
        ("", set()),
    ],
)
def test_a_cluster_belongs_to_the_service_of_its_name_or_address(cluster: str, found: set[ServiceName]) -> None:
    assert services([cluster], USES) == found


def test_ipv6_addresses_are_written_without_colons() -> None:
    assert services(["vip/[fd00__1]_80"], [Use(name=ECHO, vip="fd00::1")]) == {ECHO}


def test_a_connection_under_way_is_use_for_as_long_as_it_lasts() -> None:
    traffic = Traffic()
    stats = {"cluster.vip/240.64.0.2_5432.upstream_rq_total": 1, "cluster.vip/240.64.0.2_5432.upstream_rq_active": 1}
    for _ in range(3):
        assert services(traffic.used(stats), USES) == {DB}
    stats["cluster.vip/240.64.0.2_5432.upstream_rq_active"] = 0
    assert services(traffic.used(stats), USES) == set()
