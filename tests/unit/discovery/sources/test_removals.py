"""Which vanished files are believed: read as transcripts."""

from __future__ import annotations

from discovery.sources.removals import Removals


def names(first: int, last: int) -> set[str]:
    return {f"{n}.yaml" for n in range(first, last)}


def test_one_of_many_is_believed_at_once() -> None:
    removals = Removals(confirm_seconds=5)
    assert removals.look(names(0, 1), present=99, now=0) == names(0, 1)
    assert removals.due() is None


def test_a_fifth_may_go_and_no_more() -> None:
    removals = Removals(confirm_seconds=5)
    assert removals.look(names(0, 20), present=80, now=0) == names(0, 20)
    assert removals.look(names(20, 21), present=79, now=1) == set()
    assert removals.held == names(20, 21)
    assert removals.due() == 6


def test_few_files_are_ordinary_whatever_their_share() -> None:
    assert Removals(confirm_seconds=5).look(names(0, 2), present=1, now=0) == names(0, 2)


def test_an_empty_folder_is_held_until_a_second_look_finds_the_same() -> None:
    removals = Removals(confirm_seconds=5)
    assert removals.look(names(0, 1), present=0, now=0) == set()
    assert removals.look(names(0, 1), present=0, now=4.9) == set()
    assert removals.look(names(0, 1), present=0, now=5) == names(0, 1)
    assert removals.held == frozenset()


def test_what_comes_back_was_never_gone() -> None:
    removals = Removals(confirm_seconds=5)
    removals.look(names(0, 50), present=50, now=0)
    assert removals.look(set(), present=100, now=3) == set()
    assert removals.held == frozenset()


def test_while_more_vanishes_the_wait_begins_anew() -> None:
    removals = Removals(confirm_seconds=5)
    removals.look(names(0, 50), present=50, now=0)
    removals.look(names(0, 60), present=40, now=4)
    assert removals.look(names(0, 60), present=40, now=6) == set()
    assert removals.look(names(0, 60), present=40, now=9) == names(0, 60)


def test_a_slow_stream_of_single_removals_is_counted_together() -> None:
    removals = Removals(confirm_seconds=5)
    believed: set[str] = set()
    gone: set[str] = set()
    for n in range(100):
        gone = (gone | names(n, n + 1)) - believed
        believed |= removals.look(gone, present=99 - n, now=n * 0.01, whole=False)
    assert len(believed) == 20
    assert len(removals.held) == 80


def test_a_look_at_single_files_confirms_nothing() -> None:
    removals = Removals(confirm_seconds=5)
    removals.look(names(0, 50), present=50, now=0)
    assert removals.look(names(0, 50), present=50, now=99, whole=False) == set()
    assert removals.look(names(0, 50), present=50, now=99) == names(0, 50)
