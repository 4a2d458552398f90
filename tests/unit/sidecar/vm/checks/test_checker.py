"""The checks of a VM as they are run: when, how many at once, and what is told."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import AsyncIterator

import pytest

from clusters.waiting import until
from federation import log
from federation.aio.clock import FakeClock
from federation.model.ids import ServiceName
from sidecar.vm.checks.checker import AT_ONCE_SCRIPTS, Checker, Key
from sidecar.vm.checks.machine import Outcome, Policy, State
from sidecar.vm.checks.result import Result, critical, passing
from sidecar.vm.definition import Check, Script, Tcp

DB, WEB = ServiceName("shop", "db"), ServiceName("shop", "web")


def tcp(service: ServiceName, port: int, **policy: float) -> Key:
    return Key(service, Check(Tcp("127.0.0.1", port), Policy(**{"failures": 1, **policy})))  # type: ignore[arg-type]


def script(service: ServiceName, number: int) -> Key:
    return Key(service, Check(Script((f"/{number}",)), Policy()))


class World:
    """Workloads that are what the test says, and a checker that runs on a clock of the test's."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.says: dict[Check, Result] = {}
        self.runs: list[Check] = []
        self.running = self.most = 0
        self.held: asyncio.Event | None = None
        self.changes = 0
        self.checker = Checker(
            on_change=self._changed, clock=self.clock, log=log.get("test"), rng=random.Random(1), run=self._run
        )

    def _changed(self) -> None:
        self.changes += 1

    async def _run(self, check: Check) -> Result:
        self.runs.append(check)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.held is not None:
                await self.held.wait()
            return self.says.get(check, passing())
        finally:
            self.running -= 1

    async def turn(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    task = asyncio.create_task(made.checker.run(), name="checker")
    yield made
    task.cancel()
    await asyncio.wait({task})
    assert not made.running


async def test_nothing_is_ready_before_all_of_its_checks_have_passed(world: World) -> None:
    one, two = tcp(DB, 1), tcp(DB, 2)
    world.says[two.check] = critical("refused")
    world.checker.set([one, two])
    assert not world.checker.ready(DB)
    assert world.checker.ready(WEB), "without checks it is"
    await world.turn()
    assert not world.checker.ready(DB)
    assert (world.checker.count(), world.checker.count(State.DOWN)) == (2, 1)
    assert world.checker.problems() == {"shop/db tcp 2": "refused"}
    world.says[two.check] = Result(Outcome.WARNING, "slow")
    await world.turn(11.0)
    assert world.checker.ready(DB)
    assert world.checker.problems() == {}


async def test_a_check_that_turns_is_told_at_once_and_one_that_does_not_is_not(world: World) -> None:
    key = tcp(DB, 1)
    world.checker.set([key])
    await world.turn()
    assert world.changes == 1
    await world.turn(11)
    await world.turn(11)
    assert (len(world.runs), world.changes) == (3, 1)
    world.says[key.check] = critical("refused")
    await world.turn(11)
    assert (world.checker.ready(DB), world.changes) == (False, 2)
    await world.turn(11)
    assert world.changes == 2
    world.says[key.check] = critical("reset")
    await world.turn(11)
    assert (world.changes, world.checker.problems()) == (3, {"shop/db tcp 1": "reset"})


async def test_pauses_are_the_interval_more_or_less(world: World) -> None:
    world.checker.set([tcp(DB, 1)])
    await world.turn()
    await world.turn(8.9)
    assert len(world.runs) == 1
    await world.turn(2.2)
    assert len(world.runs) == 2


async def test_what_stays_keeps_its_health_and_what_goes_is_stopped(world: World) -> None:
    key, other = tcp(DB, 1), tcp(WEB, 2)
    world.checker.set([key, other])
    await world.turn()
    world.checker.set([key])
    await world.turn()
    runs = len(world.runs)
    assert world.checker.ready(DB)
    await world.turn(100)
    assert world.runs[runs:] == [key.check]
    world.checker.set([tcp(DB, 3)])
    assert not world.checker.ready(DB), "another check has to pass first"
    await world.turn()
    assert world.checker.ready(DB)


async def test_a_result_of_what_is_not_wanted_any_more_is_none(world: World) -> None:
    world.held = asyncio.Event()
    world.checker.set([tcp(DB, 1)])
    await world.turn()
    world.checker.set([])
    world.held.set()
    await world.turn()
    assert world.changes == 0


async def test_a_service_that_hangs_holds_up_no_other(world: World) -> None:
    """1. many of one service, and scripts of it, hang  2. those of another are run all the same."""
    world.held = asyncio.Event()
    slow = [tcp(DB, n) for n in range(1, 50)] + [script(DB, n) for n in range(9)]
    world.checker.set(slow)
    await world.turn()
    assert (world.running, world.checker.late()) == (49 + AT_ONCE_SCRIPTS, {})
    held, world.held = world.held, None
    world.checker.set([*slow, tcp(WEB, 1), script(WEB, 1)])
    await world.turn()
    assert world.checker.ready(WEB)
    held.set()
    await until(lambda: not world.running)


async def test_a_script_that_has_to_wait_for_longer_than_its_interval_is_told(world: World) -> None:
    world.held = asyncio.Event()
    world.checker.set([script(DB, 1), script(DB, 2), script(DB, 3)])
    await world.turn()
    for _ in range(9):
        await world.turn(1.0)
    assert (world.checker.late(), world.changes) == ({}, 0)
    await world.turn(1.5)
    await world.turn(1.5)
    waiting = {str(Key(DB, check)) for key in (1, 2, 3) if (check := script(DB, key).check) not in world.runs}
    assert set(world.checker.late()) == waiting
    assert len(waiting) == 1
    assert world.changes == 1
    world.held.set()
    await world.turn()
    await world.turn(1.5)
    assert world.checker.late() == {}


async def test_what_this_process_lacks_is_a_bad_result_and_no_end() -> None:
    async def starved(check: Check) -> Result:
        raise OSError(errno.EMFILE, "Too many open files")

    checker = Checker(on_change=lambda: None, clock=FakeClock(), log=log.get("test"), run=starved)
    task = asyncio.create_task(checker.run(), name="checker")
    checker.set([tcp(DB, 1)])
    await until(checker.problems)
    assert checker.problems() == {"shop/db tcp 1": "could not be run: Too many open files"}
    task.cancel()
    await asyncio.wait({task})


async def test_one_that_flaps_is_a_problem_of_its_own(world: World) -> None:
    key = tcp(DB, 1)
    world.checker.set([key])
    for result in (passing(), critical("x")) * 4:
        world.says[key.check] = result
        await world.turn(12)
    assert world.checker.problems() == {"shop/db tcp 1": "it goes to and fro; last: x"}


async def test_who_takes_too_long_is_ended() -> None:
    async def hang(check: Check) -> Result:
        await asyncio.Event().wait()
        raise AssertionError

    clock = FakeClock()
    checker = Checker(on_change=lambda: None, clock=clock, log=log.get("test"), run=hang)
    task = asyncio.create_task(checker.run(), name="checker")
    checker.set([tcp(DB, 1, timeout=0.1)])
    await until(checker.problems)
    assert checker.problems() == {"shop/db tcp 1": "no answer within 0.1 s"}
    task.cancel()
    await asyncio.wait({task})
