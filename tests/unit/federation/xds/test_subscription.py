"""The subscription rules of the xDS protocol, a table of transcripts."""

from __future__ import annotations

import pytest

from federation.xds.snapshot import TypeUrl
from federation.xds.subscription import Moved, Subscription

C, E = TypeUrl.CLUSTER, TypeUrl.ENDPOINT


def play(kind: TypeUrl, *steps: tuple[str, str]) -> tuple[Subscription, Moved]:
    subscription = Subscription(kind, only_named=("vip/",))
    moved = Moved()
    for subscribe, unsubscribe in steps:
        moved = subscription.receive(subscribe=subscribe.split(), unsubscribe=unsubscribe.split())
    return subscription, moved


@pytest.mark.parametrize(
    ("kind", "steps", "wildcard", "names"),
    [
        pytest.param(C, [("", "")], True, set(), id="an empty first request is the wildcard"),
        pytest.param(E, [("", "")], False, set(), id="but not for endpoints"),
        pytest.param(C, [("", ""), ("", "")], True, set(), id="and stays it"),
        pytest.param(C, [("", ""), ("a", "")], False, {"a"}, id="until a name is subscribed"),
        pytest.param(C, [("a", ""), ("", "a")], False, set(), id="no way back by an empty list"),
        pytest.param(C, [("*", "")], True, set(), id="explicit wildcard"),
        pytest.param(C, [("* a", "")], True, {"a"}, id="wildcard and name"),
        pytest.param(
            C, [("", ""), ("* vip/1", "")], True, {"vip/1"}, id="legacy made explicit, as Envoy does on demand"
        ),
        pytest.param(C, [("* a", ""), ("", "*")], False, {"a"}, id="wildcard ended, name kept"),
        pytest.param(C, [("", ""), ("", "*")], False, set(), id="legacy wildcard ended explicitly"),
        pytest.param(C, [("* a", ""), ("", "a")], True, set(), id="name ended, wildcard kept"),
        pytest.param(E, [("a b", ""), ("", "a c")], False, {"b"}, id="phantom unsubscription"),
    ],
)
def test_interest(kind: TypeUrl, steps: list[tuple[str, str]], wildcard: bool, names: set[str]) -> None:
    subscription, _ = play(kind, *steps)
    assert subscription.wildcard is wildcard
    assert subscription.names == names


@pytest.mark.parametrize(
    ("steps", "asked", "dropped"),
    [
        pytest.param([("a", "")], {"a"}, set(), id="subscribed"),
        pytest.param([("a", ""), ("a", "")], {"a"}, set(), id="subscribed again: sent again"),
        pytest.param([("a", ""), ("", "a")], set(), {"a"}, id="unsubscribed: no answer"),
        pytest.param([("* a", ""), ("", "a")], {"a"}, set(), id="unsubscribed under the wildcard: an answer"),
        pytest.param([("*", ""), ("", "a")], set(), set(), id="phantom under the wildcard: no answer"),
        pytest.param([("a", "a")], set(), {"a"}, id="both in one request"),
    ],
)
def test_what_a_request_moves(steps: list[tuple[str, str]], asked: set[str], dropped: set[str]) -> None:
    _, moved = play(C, *steps)
    assert (moved.asked, moved.dropped) == (asked, dropped)


def test_the_wildcard_does_not_include_names_on_demand() -> None:
    subscription, moved = play(C, ("", ""))
    assert moved.wildcard_began
    assert subscription.wants("out/shop/echo/80")
    assert not subscription.wants("vip/1")
    subscription, moved = play(C, ("", ""), ("* vip/1", ""))
    assert not moved.wildcard_began
    assert subscription.wants("vip/1")
    assert subscription.only_named("vip/1")
    assert not subscription.wants("vip/2")


def test_nothing_is_wanted_before_the_first_request() -> None:
    subscription = Subscription(C)
    assert not subscription.begun
    assert not subscription.wants("a")
    assert not subscription.only_named("vip/1")
