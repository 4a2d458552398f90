"""Whether a process lives and is ready."""

from __future__ import annotations

from federation.aio.clock import FakeClock
from federation.registry.edge.health import STUCK_AFTER, Heartbeat, Start, readiness


def test_a_loop_that_stands_still_is_not_alive() -> None:
    clock = FakeClock()
    heartbeat = Heartbeat(clock=clock)
    assert heartbeat.alive() == (True, "ok")
    clock.advance(STUCK_AFTER + 1)
    assert heartbeat.alive()[0] is False


def test_readiness_names_all_that_is_missing() -> None:
    assert readiness([lambda: "", lambda: ""]) == (True, "ok")
    assert readiness([lambda: "a", lambda: "", lambda: "b"]) == (False, "a; b")


def test_who_waits_may_begin_when_it_is_ready_or_after_a_while_when_it_answers() -> None:
    clock, ready = FakeClock(), [False]
    start = Start(lambda: (ready[0], "no identity yet"), patience=20.0, clock=clock)
    assert start.started() == (False, "no identity yet")
    clock.advance(20.0)
    assert start.started()[0] is False  # nothing answers: who began now would be worse off
    start.answers = True
    assert start.started() == (True, "waited for long enough: no identity yet")
    ready[0] = True
    assert start.started()[0] is True


def test_what_is_ready_at_once_is_not_waited_for() -> None:
    start = Start(lambda: (True, "ok"), clock=FakeClock())
    assert start.started() == (True, "ok")
