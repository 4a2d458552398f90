"""Who has a watch of its own."""

from __future__ import annotations

from discovery.consul.turns import QUIET, Move, Turns


def test_the_first_by_name_are_watched_and_a_free_watch_goes_on() -> None:
    turns = Turns(2)
    assert turns.want({"a", "b", "c"}, now=0) == Move(frozenset(), frozenset({"a", "b"}))
    assert turns.others == {"c"}
    assert turns.want({"b", "c", "d"}, now=1) == Move(frozenset({"a"}), frozenset({"c"}))
    assert (set(turns.watched), turns.others) == ({"b", "c"}, {"d"})
    assert turns.want({"b", "c", "d"}, now=2) == Move()


def test_what_changed_unseen_gets_the_watch_of_the_quietest() -> None:
    turns = Turns(2)
    turns.want({"a", "b", "c", "d"}, now=0)
    turns.changed("a", now=QUIET, unseen=False)
    assert turns.changed("c", now=QUIET + 1, unseen=False) == Move()  # its health was told by the others' watch
    assert turns.changed("c", now=QUIET + 1, unseen=True) == Move(frozenset({"b"}), frozenset({"c"}))
    assert turns.others == {"b", "d"}
    assert turns.changed("d", now=QUIET + 1.5, unseen=True) == Move()  # too soon
    assert turns.changed("d", now=QUIET + 3, unseen=True) == Move()  # nobody is quiet
    assert turns.changed("x", now=9999, unseen=True) == Move()


def test_without_watches_all_are_looked_at() -> None:
    turns = Turns(0)
    assert turns.want({"a"}, now=0) == Move()
    assert turns.others == {"a"}
    assert turns.changed("a", now=9999, unseen=True) == Move()
