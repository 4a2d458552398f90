"""What Envoy's counters tell of use."""

from __future__ import annotations

from federation.envoy.traffic import Traffic

A, B = "egress/shop/echo/80/1", "egress/shop/db/5432/1"


def test_what_was_counted_since_the_last_look_is_used() -> None:
    traffic = Traffic()
    assert traffic.used({f"cluster.{A}.upstream_rq_total": 3, f"cluster.{B}.upstream_rq_total": 0}) == {A}
    assert traffic.used({f"cluster.{A}.upstream_rq_total": 3}) == set()
    assert traffic.used({f"cluster.{A}.upstream_rq_total": 4}) == {A}


def test_what_is_under_way_is_used() -> None:
    traffic = Traffic()
    quiet = {f"cluster.{A}.upstream_rq_total": 0, f"cluster.{A}.upstream_rq_active": 0}
    assert traffic.used({**quiet, f"cluster.{B}.upstream_rq_active": 1}) == {B}


def test_other_statistics_are_passed_over() -> None:
    assert Traffic().used({"server.upstream_rq_total": 1, f"cluster.{A}.upstream_cx_active": 5}) == set()


def test_counters_that_begin_anew_are_use() -> None:
    """Envoy was restarted: nothing is given up too early."""
    traffic = Traffic()
    traffic.used({f"cluster.{A}.upstream_rq_total": 5})
    assert traffic.used({f"cluster.{A}.upstream_rq_total": 1}) == {A}
