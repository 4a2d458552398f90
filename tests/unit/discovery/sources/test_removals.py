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
    assert set(removals.held) == names(20, 21)
    assert removals.due() == 6


def test_few_files_are_ordinary_whatever_their_share() -> None:
    assert Removals(confirm_seconds=5).look(names(0, 2), present=1, now=0) == names(0, 2)


def test_an_empty_folder_is_held_until_a_second_look_finds_the_same() -> None:
    removals = Removals(confirm_seconds=5)
    assert removals.look(names(0, 1), present=0, now=0) == set()
    assert removals.look(names(0, 1), present=0, now=4.9) == set()
    assert removals.look(names(0, 1), present=0, now=5) == names(0, 1)
    assert not removals.held


def test_what_comes_back_was_never_gone() -> None:
    removals = Removals(confirm_seconds=5)
    removals.look(names(0, 50), present=50, now=0)
    assert removals.look(set(), present=100, now=3) == set()
    assert not removals.held


def test_what_vanishes_later_waits_for_itself() -> None:
    removals = Removals(confirm_seconds=5)
    removals.look(names(0, 50), present=50, now=0)
    assert removals.look(names(0, 60), present=40, now=4) == set()
    assert removals.due() == 5
    assert removals.look(names(0, 60), present=40, now=6) == names(0, 50)
    assert removals.look(names(50, 60), present=40, now=9) == names(50, 60)


def test_single_removals_after_a_wave_are_ordinary_again() -> None:
    removals = Removals(confirm_seconds=5)
    removals.look(names(0, 300), present=700, now=0, whole=False)
    assert removals.look(names(0, 301), present=699, now=4, whole=False) == set()
    assert removals.look(names(0, 302), present=698, now=9, whole=False) == names(301, 302)
    assert removals.look(names(0, 301), present=698, now=9) == names(0, 301)


def test_what_is_left_of_a_catalogue_that_came_back_nearly_empty_is_not_measured_by_what_is_held() -> None:
    removals = Removals(confirm_seconds=5)
    removals.look(names(0, 980), present=20, now=0, whole=False)
    assert removals.look(names(0, 990), present=10, now=60, whole=False) == set()


def test_only_what_was_looked_for_again_is_confirmed() -> None:
    removals = Removals(confirm_seconds=5)
    removals.look(names(0, 50), present=50, now=0)
    assert removals.look(names(0, 50), present=50, now=5, seen=names(10, 20)) == names(10, 20)
    assert removals.ripe(5) == names(0, 10) | names(20, 50)


def test_in_doubt_even_a_single_one_is_held() -> None:
    removals = Removals(confirm_seconds=5)
    removals.look(names(0, 50), present=50, now=0)
    removals.doubt(until=90)
    assert removals.look(names(0, 51), present=49, now=1) == set()
    assert removals.look(names(0, 51), present=49, now=89) == set()
    assert removals.look(names(0, 51), present=49, now=90) == names(0, 51)
    assert removals.look(names(51, 52), present=48, now=91) == names(51, 52)


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
