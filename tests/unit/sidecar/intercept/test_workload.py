from __future__ import annotations

from pathlib import Path

import pytest

from federation.aio.clock import FakeClock
from federation.aio.files import write_state
from federation.log import get
from sidecar.intercept.clash import Listener
from sidecar.intercept.workload import WorkloadPorts

LOG = get("test")
ALL, ONE = Listener("0.0.0.0", 8080), Listener("127.0.0.1", 9090)


def ports(clock: FakeClock, *listens: int, keep: float = 600.0) -> WorkloadPorts:
    return WorkloadPorts(listens, keep=keep, clock=clock)


def test_a_port_that_is_said_to_be_the_workloads_is_never_ours() -> None:
    clock = FakeClock()
    known = ports(clock, 80, keep=0.0)
    assert "listens" in known.why(80)
    assert known.why(81) == ""
    clock.advance(1e6)
    assert known.why(80)


def test_a_port_that_was_held_is_left_to_the_workload_for_a_while() -> None:
    clock = FakeClock()
    known = ports(clock)
    assert known.look([ALL, ONE, Listener("::", 443)])
    assert "left to the workload" in known.why(8080)
    assert known.why(443)
    assert known.why(9090) == ""  # on one address: nobody is kept from another one
    clock.advance(300)
    known.look([ALL])
    clock.advance(599)
    known.look([])
    assert known.why(8080)
    assert known.why(443) == ""
    clock.advance(1)
    assert known.why(8080) == ""


def test_with_no_time_to_keep_it_a_port_is_free_at_once() -> None:
    known = ports(FakeClock(), keep=0.0)
    assert not known.look([ALL])
    assert known.why(8080) == ""


def test_it_is_written_when_there_is_something_new_only() -> None:
    clock = FakeClock()
    known = ports(clock)
    assert known.look([ALL])
    known.dump()
    clock.advance(2)
    assert not known.look([ALL])
    clock.advance(60)
    assert known.look([ALL])


def test_the_next_process_knows_it_too(tmp_path: Path) -> None:
    clock = FakeClock()
    known = ports(clock)
    known.look([ALL])
    write_state(tmp_path / "ports", known.dump())
    clock.advance(100)
    later = ports(clock)
    later.open(tmp_path / "ports", LOG)
    assert later.why(8080)
    clock.advance(500)
    assert later.why(8080) == ""


def test_a_clock_that_was_set_back_keeps_no_port_for_ever(tmp_path: Path) -> None:
    known = ports(FakeClock(wall_ns=10**18))
    known.look([ALL])
    write_state(tmp_path / "ports", known.dump())
    clock = FakeClock(wall_ns=10**17)
    later = ports(clock)
    later.open(tmp_path / "ports", LOG)
    clock.advance(601)
    assert later.why(8080) == ""


@pytest.mark.parametrize("data", [b"[]", b"no json"])
def test_what_cannot_be_read_is_a_precaution_less(tmp_path: Path, data: bytes) -> None:
    write_state(tmp_path / "ports", data)
    known = ports(FakeClock())
    known.open(tmp_path / "ports", LOG)
    assert known.why(8080) == ""
    (tmp_path / "ports").write_bytes(b"damaged")
    known.open(tmp_path / "ports", LOG)
    known.open(tmp_path / "none", LOG)
    assert known.why(8080) == ""
