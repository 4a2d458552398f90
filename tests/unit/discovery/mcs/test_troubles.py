"""When a name is tried again, and what an operator is shown."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from discovery.kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, ServerFailed, TooMany
from discovery.mcs.apply import NotRepaired
from discovery.mcs.troubles import CALM_SECONDS, REPAIR, ROUNDS, Troubles
from federation import log
from federation.aio.clock import FakeClock
from federation.errors import IsthmusError
from federation.model.cluster import Problem
from federation.model.ids import ServiceName

ECHO, OTHER = ServiceName("shop", "echo"), ServiceName("shop", "other")


@pytest.fixture
def world() -> SimpleNamespace:
    made = SimpleNamespace(clock=FakeClock(), shown=[])
    made.troubles = Troubles(
        on_problems=lambda found: setattr(made, "shown", found),
        clock=made.clock,
        rng=random.Random(1),
        log=log.get("test"),
    )
    return made


@pytest.mark.parametrize(
    ("error", "longest", "shown"),
    [
        (Conflict("changed"), 0.05, False),
        (AlreadyExists("there"), 0.05, False),
        (ServerFailed("500"), 0.2, False),
        (TooMany("busy", retry_after=7.0), 7.0, False),
        (Forbidden("no", hint="the role lacks it"), 1.0, True),
        (Invalid("what is this"), 1.0, True),
    ],
)
def test_delays_and_problems(world: SimpleNamespace, error: IsthmusError, longest: float, shown: bool) -> None:
    assert 0 < world.troubles.failed(ECHO, error) <= longest
    assert bool(world.shown) is shown
    assert world.troubles.over(ECHO, None) == 0.0
    assert not world.shown
    assert not world.troubles.failing(ECHO)


def test_failures_in_a_row_are_tried_less_and_less(world: SimpleNamespace) -> None:
    delays = [world.troubles.failed(ECHO, Forbidden("no")) for _ in range(12)]
    assert max(delays) > 10
    assert max(delays) <= 60
    assert world.troubles.failing(ECHO)


def test_a_rule_that_is_missing_for_all_is_shown_once(world: SimpleNamespace) -> None:
    for name in (ECHO, OTHER):
        world.troubles.failed(name, Forbidden("no", hint="the role lacks it"))
    (problem,) = world.shown
    assert problem.detail == "no (the role lacks it)"
    world.troubles.over(ECHO, None)
    assert len(world.shown) == 1
    world.troubles.over(OTHER, None)
    assert world.shown == []


def test_what_is_no_failure_is_shown_as_long_as_it_is_so(world: SimpleNamespace) -> None:
    foreign = Problem("import_not_ours", "ServiceImport shop/echo", "left alone")
    assert world.troubles.over(ECHO, foreign) == 0.0
    assert world.shown == [foreign]
    world.troubles.over(ECHO, None)
    assert world.shown == []


def fight(world: SimpleNamespace) -> None:
    for _ in range(ROUNDS):
        world.troubles.round(ECHO, "apply Service")
        world.troubles.over(ECHO, None)  # repaired, for a moment
    with pytest.raises(NotRepaired, match="again and again: apply Service"):
        world.troubles.round(ECHO, "apply Service")
    world.troubles.failed(ECHO, NotRepaired("again"))


def test_a_fight_rests_longer_and_longer_and_ends_when_nobody_else_has_written(world: SimpleNamespace) -> None:
    fight(world)
    rests = []
    for _ in range(6):
        world.troubles.round(ECHO, "apply Service")
        rests.append(world.troubles.over(ECHO, None))
        if not rests[-1]:
            break
        assert [p.code for p in world.shown] == ["import_contested"]
        world.clock.advance(rests[-1])
        if len(rests) >= REPAIR:
            break
    assert all(rests)
    assert world.troubles.over(ECHO, None) == 0.0  # the rest has passed, and all is as it was left
    assert world.shown == []


def test_another_wish_is_no_fight(world: SimpleNamespace) -> None:
    for _ in range(10):
        for _ in range(ROUNDS):
            world.troubles.round(ECHO, "apply")
        world.troubles.wanted(ECHO)
    fight(world)


def test_an_edit_now_and_then_is_no_fight(world: SimpleNamespace) -> None:
    for _ in range(5 * ROUNDS):
        world.troubles.round(ECHO, "apply")
        world.troubles.over(ECHO, None)
        world.clock.advance(CALM_SECONDS + 1)
    assert world.shown == []
