"""Whether a process lives and is ready."""

from __future__ import annotations

from federation.aio.clock import FakeClock
from federation.registry.edge.health import STUCK_AFTER, Heartbeat, readiness


def test_a_loop_that_stands_still_is_not_alive() -> None:
    clock = FakeClock()
    heartbeat = Heartbeat(clock=clock)
    assert heartbeat.alive() == (True, "ok")
    clock.advance(STUCK_AFTER + 1)
    assert heartbeat.alive()[0] is False


def test_readiness_names_all_that_is_missing() -> None:
    assert readiness([lambda: "", lambda: ""]) == (True, "ok")
    assert readiness([lambda: "a", lambda: "", lambda: "b"]) == (False, "a; b")
