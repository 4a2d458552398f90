"""The rules of blocking queries, as transcripts."""

from __future__ import annotations

import itertools

import pytest

from discovery.consul.blocking import BURST, LEAST, REFILL, Ask, Blocking


def query(blocking: Blocking, now: float) -> float:
    """When the next query is sent: at once, or when it is due."""
    at = max(now, blocking.next().at)
    blocking.asked(now=at)
    return at


def test_the_first_query_does_not_block_and_the_next_ones_have_the_index() -> None:
    blocking = Blocking(now=100.0)
    assert blocking.next() == Ask(0, 100.0)
    blocking.asked(now=100.0)
    assert not blocking.answered(7, changed=True, now=100.1)
    assert blocking.next() == Ask(7, 100.1)


@pytest.mark.parametrize(
    ("last", "given", "next_", "back"),
    [
        (0, 12, 12, False),
        (12, 12, 12, False),
        (12, 13, 13, False),
        (12, 11, 0, True),  # other servers, or older ones: begin anew
        (12, 1, 0, True),
        (0, 0, 1, False),  # an index of 0 would never block
        (12, 0, 1, False),
    ],
)
def test_the_index_that_is_asked_for_next(last: int, given: int, next_: int, back: bool) -> None:
    blocking = Blocking(now=0.0)
    if last:
        blocking.answered(last, changed=True, now=0.0)
    assert blocking.answered(given, changed=False, now=0.0) is back
    assert blocking.index == next_


def test_changes_are_followed_at_once_but_not_faster_than_they_can_be_used() -> None:
    blocking = Blocking(now=0.0)
    now, sent = 0.0, []
    for index in range(1, 100):
        now = query(blocking, now)
        sent.append(now)
        blocking.answered(index, changed=True, now=now)
    gaps = [after - before for before, after in itertools.pairwise(sent)]
    assert max(gaps) == pytest.approx(LEAST)
    assert min(gaps) == pytest.approx(LEAST)


@pytest.mark.parametrize("indexes", ["rising", "wild", "zero", "the same"])
def test_an_idle_watch_asks_less_than_once_a_second_whatever_the_index_does(indexes: str) -> None:
    blocking = Blocking(now=0.0)
    now, count = 0.0, 0
    while now < 600:
        now = query(blocking, now)
        count += 1
        index = {"rising": count, "wild": (count * 7919) % 1000, "zero": 0, "the same": 5}[indexes]
        blocking.answered(index, changed=count == 1, now=now)  # and returns at once
    assert count <= BURST + 2 + 600 * REFILL
    assert count / 600 < 1


def test_an_answer_that_is_not_believed_costs_like_one_without_a_change() -> None:
    blocking = Blocking(now=0.0)
    blocking.answered(50, changed=True, now=0.0)
    now, count = 0.0, 0
    while now < 60:
        now = query(blocking, now)
        count += 1
        blocking.unbelieved(now=now)
        assert blocking.index == 0
    assert count / 60 < 1


def test_what_wakes_a_watch_for_nothing_does_not_slow_down_the_changes_beside_it() -> None:
    blocking = Blocking(now=0.0)
    now = 0.0
    for turn in range(200):
        before = now
        now = query(blocking, now + 0.05)
        blocking.answered(turn + 1, changed=turn % 2 == 0, now=now)
        assert now - before < 0.1


def test_a_failure_keeps_the_index() -> None:
    blocking = Blocking(now=0.0)
    blocking.answered(9, changed=True, now=1.0)
    blocking.failed(at=5.0)
    assert blocking.next() == Ask(9, 5.0)
    blocking.reset()
    assert blocking.index == 0
