"""When an Envoy that ends serves nobody any more, as transcripts of what it counts."""

from __future__ import annotations

import re

from federation.envoy.bootstrap import STATS
from federation.envoy.leaving import PATTERN, Leaving


def counts(
    *,
    inbound: int = 0,
    egress: int = 0,
    http: int = 0,
    checks: int = 0,
    requests: int = 0,
    come: int = 0,
    asked: int = 0,
    checked: int = 0,
) -> dict[str, int]:
    """Now: connections at both listeners, those that carry HTTP, requests. Ever: connections, requests, checks."""
    return {
        "listener.inbound.downstream_cx_active": inbound,
        "listener.egress.downstream_cx_active": egress,
        "http.in.downstream_cx_active": http,
        "http.health.downstream_cx_active": checks,
        "http.out.downstream_rq_active": requests,
        "listener.inbound.downstream_cx_total": come,
        "http.in.downstream_rq_total": asked,
        "http.health.downstream_cx_total": checked,
    }


def test_it_is_over_when_nothing_has_come_for_long_enough() -> None:
    leaving = Leaving(quiet=5, now=100)
    assert not leaving.over(counts(come=7), 100)
    assert not leaving.over(counts(come=7), 104.9)
    assert leaving.over(counts(come=7), 105)


def test_who_comes_late_begins_the_time_anew() -> None:
    leaving = Leaving(quiet=5, now=100)
    for at, come, asked in ((100, 7, 20), (103, 8, 20), (106, 8, 21)):  # a connection, a request on one that there was
        assert not leaving.over(counts(come=come, asked=asked), at)
    assert not leaving.over(counts(come=8, asked=21), 110.9)
    assert leaving.over(counts(come=8, asked=21), 111)


def test_what_is_under_way_is_waited_for_however_long_it_is_quiet() -> None:
    leaving = Leaving(quiet=1, now=100)
    assert not leaving.over(counts(inbound=1, http=1, requests=1), 200)
    assert leaving.left == 1
    assert not leaving.over(counts(egress=2, inbound=1, http=1), 300)  # two TCP connections, and an idle one of HTTP
    assert leaving.left == 2
    assert leaving.over(counts(), 301)


def test_idle_connections_and_checks_hold_nobody_up() -> None:
    assert Leaving(quiet=0, now=100).over(counts(inbound=5, http=3, checks=2), 100)


def test_peers_that_only_ask_whether_it_is_there_hold_nobody_up() -> None:
    leaving = Leaving(quiet=5, now=100)
    for at in range(100, 105):
        assert not leaving.over(counts(come=at, checked=at), at)
    assert leaving.over(counts(come=105, checked=105), 105)


def test_counts_that_were_not_read_at_one_moment_are_no_negative_rest() -> None:
    leaving = Leaving(quiet=0, now=100)
    assert not leaving.over(counts(inbound=1, http=3, requests=1), 100)
    assert leaving.left == 1


def test_a_listener_that_is_not_there_has_nobody() -> None:
    assert Leaving(quiet=0, now=100).over({}, 100)


def test_what_is_read_is_kept_and_no_more_is_asked_for() -> None:
    for name in counts():
        assert re.search(PATTERN, name)
        assert name in STATS
    for name in (
        "http.outer.downstream_rq_active",
        "listener.egress.downstream_cx_total_",
        "listenerXegress.downstream_cx_total",
    ):
        assert not re.search(PATTERN, name)
