"""The table of sidecar.demand, row by row."""

from __future__ import annotations

import pytest

from federation.model.ids import ServiceName
from sidecar.demand import RECENT, Demand, Plan, State

A, B, C, D = (ServiceName("shop", name) for name in "abcd")


@pytest.fixture
def demand() -> Demand:
    return Demand(limit=2, absent_limit=2, idle=600, absent_for=300)


def test_a_first_ask_subscribes_and_a_second_does_not(demand: Demand) -> None:
    assert demand.ask(A, 0) == Plan(subscribe=(A,))
    assert demand.ask(A, 1) == Plan()
    assert demand.state(A) is State.ASKED


def test_answers_move_a_name_between_its_states(demand: Demand) -> None:
    demand.ask(A, 0)
    demand.absent(A, 1)
    assert demand.state(A) is State.ABSENT
    assert demand.ask(A, 2) == Plan()  # it is still subscribed: asking again costs nothing
    assert demand.present(A, 3) == Plan()
    assert demand.state(A) is State.PRESENT
    demand.absent(A, 4)
    assert demand.state(A) is State.ABSENT


def test_an_answer_for_a_name_that_is_not_held_is_ignored(demand: Demand) -> None:
    assert demand.present(A, 0) == Plan()
    assert demand.absent(A, 0) == Plan()
    assert demand.state(A) is None
    assert list(demand.held()) == []


def test_names_that_do_not_exist_make_room_for_each_other_only(demand: Demand) -> None:
    demand.ask(A, 0)
    demand.present(A, 0)
    demand.ask(B, 1)
    demand.absent(B, 1)
    demand.ask(C, 2)
    assert demand.ask(D, 3) == Plan(subscribe=(D,), release=(B,))
    assert list(demand.held()) == [A, C, D]


def test_a_name_beyond_the_limit_is_refused_while_all_others_are_used(demand: Demand) -> None:
    for name in (A, B):
        demand.ask(name, 0)
        demand.present(name, 0)
    demand.ask(C, 1)
    assert demand.present(C, 1) == Plan(release=(C,), refused=(C,))
    assert demand.state(C) is None


def test_a_name_beyond_the_limit_displaces_the_longest_unused(demand: Demand) -> None:
    for name in (A, B):
        demand.ask(name, 0)
        demand.present(name, 0)
    demand.touch(A, RECENT)
    demand.ask(C, RECENT)
    assert demand.present(C, RECENT) == Plan(release=(B,))
    assert set(demand.present_names()) == {A, C}


def test_a_name_with_connections_is_never_displaced_however_late_the_next_look_is(demand: Demand) -> None:
    for name in (A, B):
        demand.ask(name, 0)
        demand.present(name, 0)
    demand.carrying({A}, 0)
    late = 100 * RECENT
    demand.ask(C, late)
    assert demand.present(C, late) == Plan(release=(B,))
    demand.carrying({A, C}, late)
    demand.ask(D, 2 * late)
    assert demand.present(D, 2 * late) == Plan(release=(D,), refused=(D,))
    demand.carrying({A, C}, 2 * late)
    demand.carrying({C}, 2 * late + 1)  # that of A has ended just now
    demand.ask(D, 2 * late + 1)
    assert demand.present(D, 2 * late + 1) == Plan(release=(D,), refused=(D,))
    demand.ask(D, 2 * late + RECENT)
    assert demand.present(D, 2 * late + RECENT) == Plan(release=(A,))


def test_that_a_name_which_is_not_held_has_connections_means_nothing(demand: Demand) -> None:
    demand.carrying({A}, 0)
    assert list(demand.held()) == []


def test_what_would_be_idle_makes_room_sooner() -> None:
    demand = Demand(limit=1, absent_limit=2, idle=4, absent_for=4)
    for name in (A, B):
        demand.ask(name, 0)
    demand.present(A, 0)
    assert demand.present(B, 3).refused == (B,)
    demand.ask(B, 4)
    assert demand.present(B, 4) == Plan(release=(A,))


def test_idle_names_are_released(demand: Demand) -> None:
    demand.ask(A, 0)
    demand.present(A, 0)
    demand.ask(B, 0)
    demand.absent(B, 0)
    assert demand.expire(299) == Plan()
    assert demand.expire(300) == Plan(release=(B,))
    demand.touch(A, 500)
    assert demand.expire(1099) == Plan()
    assert demand.expire(1100) == Plan(release=(A,))
    assert len(demand) == 0
