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


def test_who_invents_names_makes_room_for_itself_alone() -> None:
    pairs = Pairs(limit=100)
    mine = "in-tcp/p1.kv.shop.svc.east.fed|spiffe://west.fed/ns/shop/sa/client"
    pairs.ask([mine])
    for number in range(1_000):
        pairs.ask([f"in-tcp/p1.x{number}.shop.svc.east.fed|spiffe://evil.fed/ns/shop/sa/client"])
        pairs.ask([f"in-tcp/p1.kv.shop.svc.east.fed|spiffe://evil.fed/ns/shop/sa/x{number}"])
    assert mine in pairs
    assert len(pairs) == 100
