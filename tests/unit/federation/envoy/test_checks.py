from __future__ import annotations

from federation.envoy.checks import Checks
from federation.policy.locality import Host

LOCAL = ((Host("10.0.0.1", 80),),)
BOTH = (*LOCAL, (Host("192.0.2.1", 15443, cluster="west"),))


def test_checks_begin_once_envoy_has_the_endpoints() -> None:
    checks = Checks()
    assert not checks.begun("use", "out/a", BOTH)
    assert not checks.begin({"out/b"})
    assert checks.take_due() == set()
    assert checks.begin({"out/a", "out/b"})
    assert checks.take_due() == {"use"}
    assert checks.take_due() == set()
    assert checks.begun("use", "out/a", BOTH)
    assert not checks.begin({"out/a"})


def test_without_gateways_there_is_nothing_to_wait_for() -> None:
    checks = Checks()
    assert checks.begun("use", "out/a", LOCAL)
    assert checks.begun("use", "out/a", ())
    assert not checks.begin({"out/a"})


def test_what_was_sent_without_checks_stays_so_until_it_is_known() -> None:
    """The last gateway goes before Envoy has asked: sent as it was, and again when Envoy asks."""
    checks = Checks()
    assert not checks.begun("use", "out/a", BOTH)
    assert not checks.begun("use", "out/a", LOCAL)
    assert checks.begin({"out/a"})


def test_a_name_that_comes_back_begins_anew() -> None:
    checks = Checks()
    checks.begun("use", "out/a", BOTH)
    checks.begun("use", "out/b", BOTH)
    checks.begin({"out/a"})
    checks.forget("use")
    checks.forget("never there")
    assert checks.take_due() == set()
    assert not checks.begin({"out/a", "out/b"})
    assert not checks.begun("use", "out/a", BOTH)


def test_only_so_many_begin_at_once_the_longest_waiting_first() -> None:
    checks = Checks()
    names = [f"out/{letter}" for letter in "cab"]
    for name in names:
        checks.begun(name, name, BOTH)
    assert checks.begin(names, 2)
    assert checks.take_due() == set(names[:2])
    assert checks.begin(names, 2)
    assert checks.take_due() == set(names[2:])
    assert not checks.begin(names, 2)
