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


def test_the_name_that_was_asked_for_longest_ago_makes_room() -> None:
    asked = Asked(limit=2, refused_limit=10)
    asked.ask([A, B])
    asked.settle({A: True, B: True})
    asked.ask([A])
    asked.ask([C])
    assert asked.names == {A, B, C}, "the limits apply once it is known what is served"
    asked.settle({C: True})
    assert asked.names == {A, C}


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
    assert A in asked.names
    assert (asked.served, asked.refused) == (1, 3)
    asked.settle({A: False})
    assert (asked.served, asked.refused) == (0, 3)
    assert A in asked.names


def test_who_invents_names_makes_room_for_itself_alone() -> None:
    asked = Asked(limit=100, refused_limit=100)
    asked.ask([A])
    asked.ask(name(n, "evil.fed") for n in range(1_000))
    asked.settle({})
    assert A in asked.names
    assert len(asked.names) == 100


def test_clusters_that_nobody_asked_for_do_not_count() -> None:
    asked = Asked(limit=10, refused_limit=10)
    asked.settle({"out/shop/echo/80": True, "in-tcp": False})
    assert asked.names == frozenset()
