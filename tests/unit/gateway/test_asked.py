"""The bounded sets of names that Envoy asked for."""

from __future__ import annotations

from federation.envoy.names import inbound_http_cluster, inbound_tcp_cluster
from gateway.asked import Asked


def name(number: int, domain: str = "west.fed") -> str:
    return inbound_tcp_cluster(domain, f"p{number}.kv.shop.svc.east.fed")


A, B, C = name(1), name(2), name(3)


def test_the_names_are_one_object_until_they_change() -> None:
    asked = Asked(limit=10, refused_limit=10)
    asked.ask([A, B])
    names = asked.names
    assert names == {A, B}
    asked.ask([A])
    asked.settle({A: True})
    asked.settle({A: False})
    assert asked.names is names
    asked.ask([C])
    assert asked.names == {A, B, C}


def test_what_is_served_is_never_given_up() -> None:
    asked = Asked(limit=1, refused_limit=1)
    asked.ask([A, B, C])
    asked.settle({A: True, B: True, C: True})
    assert asked.names == {A, B, C}
    assert (asked.served, asked.refused, asked.silent) == (3, 0, frozenset())


def test_the_oldest_refusal_falls_silent_and_is_served_later() -> None:
    asked = Asked(limit=10, refused_limit=1)
    asked.ask([A])
    asked.ask([B])
    assert asked.silent == frozenset(), "the limits apply once it is known what is served"
    asked.settle({A: False, B: False})
    assert (asked.names, asked.silent) == ({A, B}, {A})
    silent = asked.silent
    asked.settle({})
    assert asked.silent is silent
    asked.settle({A: True})
    assert (asked.names, asked.silent, asked.served) == ({A, B}, frozenset(), 1)


def test_a_silent_name_that_is_asked_for_again_is_answered() -> None:
    """By another Envoy."""
    asked = Asked(limit=10, refused_limit=1)
    asked.ask([A, B])
    asked.settle({})
    assert asked.silent == {A}
    asked.ask([A])
    assert asked.silent == frozenset()
    asked.settle({})
    assert asked.silent == {B}


def test_a_revocation_of_everything_can_be_taken_back() -> None:
    names = [name(n) for n in range(1, 1001)]
    asked = Asked(limit=1_000, refused_limit=10)
    asked.ask(names)
    asked.settle(dict.fromkeys(names, True))
    asked.settle(dict.fromkeys(names, False))
    assert (len(asked.silent), asked.refused) == (990, 1_000)
    asked.settle(dict.fromkeys(names, True))
    assert (asked.silent, asked.served) == (frozenset(), 1_000)


def test_what_is_no_name_is_not_kept() -> None:
    asked = Asked(limit=10, refused_limit=10)
    asked.ask(["in-tcp/x", "vip/127.0.0.1:80", "in-http/west.fed|a", "out/shop/echo/80"])
    assert asked.names == frozenset()


def test_what_is_refused_displaces_nothing_that_is_served() -> None:
    asked = Asked(limit=10, refused_limit=3)
    asked.ask([A])
    asked.settle({A: True})
    asked.ask(inbound_http_cluster("west.fed", "p1.kv.shop.svc.east.fed", f"x{n}.shop.global") for n in range(100))
    asked.settle({})
    assert (asked.served, asked.refused, len(asked.silent)) == (1, 13, 10)
    assert len(asked.names) == 14, "and what is too much is forgotten"
    asked.settle({A: False})
    assert (asked.served, asked.refused) == (0, 14), "an eighth too many is not looked at yet"
    assert A in asked.names
    assert A not in asked.silent


def test_who_invents_names_makes_room_for_itself_alone() -> None:
    asked = Asked(limit=100, refused_limit=100)
    asked.ask([A])
    asked.ask(name(n, "evil.fed") for n in range(1_000))
    asked.settle({})
    assert A in asked.names
    assert A not in asked.silent
    assert (len(asked.names), len(asked.silent)) == (200, 100)


def test_clusters_that_nobody_asked_for_do_not_count() -> None:
    asked = Asked(limit=10, refused_limit=10)
    asked.settle({"out/shop/echo/80": True, "in-tcp": False})
    assert asked.names == frozenset()
