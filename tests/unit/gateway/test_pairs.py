"""The bounded set of pairs."""

from __future__ import annotations

from gateway.pairs import Pairs


def test_a_new_pair_changes_the_set_and_a_known_one_does_not() -> None:
    pairs = Pairs(limit=10)
    assert pairs.ask(["a", "b"])
    assert not pairs.ask(["a"])
    assert pairs.names == ("b", "a")


def test_the_pair_that_was_asked_for_longest_ago_makes_room() -> None:
    pairs = Pairs(limit=2)
    pairs.ask(["a", "b"])
    pairs.ask(["a"])
    assert pairs.ask(["c"])
    assert pairs.names == ("a", "c")
    assert "b" not in pairs
