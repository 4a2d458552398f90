"""Which ports are called: names are asked for once, given up when idle, and never used again."""

from __future__ import annotations

import pytest

from federation.envoy.names import egress_cluster
from federation.model.ids import ServiceName
from gateway.called import Called, Line

ECHO, DB = ServiceName("shop", "echo"), ServiceName("shop", "db")
WEB = Line(ECHO, 80)
FIRST, SECOND = egress_cluster(ECHO, 80, 1), egress_cluster(ECHO, 80, 2)


@pytest.fixture
def called() -> Called:
    return Called(idle_seconds=100, drain_seconds=10)


def test_nothing_is_in_use_before_it_is_asked_for(called: Called) -> None:
    assert called.cluster(WEB) == FIRST
    assert (called.clusters(WEB), called.in_use(WEB), called.busy, called.count) == ((), False, False, 0)
    called.ask([FIRST, "vip/1.2.3.4:5", "egress/shop/echo/80", "egress/shop/echo/80/0", "egress/Shop/echo/80/1"])
    assert (called.clusters(WEB), called.in_use(WEB), called.busy, called.count) == ((FIRST,), True, True, 1)
    assert called.take_moved() == {ECHO}
    called.ask([FIRST])
    assert called.take_moved() == set(), "another worker, or another Envoy"


def test_what_is_idle_gets_another_name_and_ends_later(called: Called) -> None:
    called.ask([FIRST])
    called.take_moved()
    assert not called.sweep([], 1000.0)
    assert not called.sweep([FIRST], 1090.0)
    assert not called.sweep([], 1189.0)
    assert called.sweep([], 1190.0)
    assert (called.cluster(WEB), called.clusters(WEB), called.in_use(WEB)) == (SECOND, (FIRST,), False)
    assert (called.take_moved(), called.count, called.busy) == ({ECHO}, 0, True)
    assert not called.sweep([], 1199.0), "connections of the replaced listener may still be there"
    assert called.sweep([], 1200.0)
    assert (called.clusters(WEB), called.busy) == ((), False)


def test_who_calls_while_the_former_name_ends_has_both(called: Called) -> None:
    called.ask([FIRST])
    called.sweep([], 0.0)
    called.sweep([], 100.0)
    called.ask([SECOND])
    assert called.clusters(WEB) == (FIRST, SECOND)
    called.sweep([SECOND], 110.0)
    assert called.clusters(WEB) == (SECOND,)


def test_a_name_that_was_given_up_is_dead(called: Called) -> None:
    called.ask([FIRST])
    called.keep(ECHO, ())
    called.take_moved()
    called.ask([FIRST])
    assert (called.cluster(WEB), called.clusters(WEB), called.take_moved()) == (SECOND, (), set())


def test_a_port_keeps_its_name_when_another_one_goes(called: Called) -> None:
    other = Line(ECHO, 9000)
    called.ask([FIRST, called.cluster(other)])
    called.keep(ECHO, {80})
    assert called.clusters(WEB) == (FIRST,)
    assert (called.clusters(other), called.cluster(other)) == ((), egress_cluster(ECHO, 9000, 2))


def test_what_was_asked_for_in_vain_is_dead(called: Called) -> None:
    """The import went away while Envoy asked."""
    called.ask([egress_cluster(DB, 5432, 1)])
    assert called.take_moved() == {DB}
    called.keep(DB, ())
    assert called.cluster(Line(DB, 5432)) == egress_cluster(DB, 5432, 2)
