"""Who sees what: one wide table, and the rule that nothing is seen without a link."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.model.cluster import Link, LinkGrant
from federation.model.ids import ServiceName
from federation.model.record import Key, Kind
from federation.model.service import Grant
from federation.policy.visibility import Links, allowed_ports, is_visible

ECHO = Key("west", Kind.SERVICE, "shop/echo")
PLAIN = Link(a="east", b="west")


def granted(*grants: LinkGrant) -> Link:
    return Link(a="east", b="west", grants=grants)


TO_EAST = LinkGrant(origin="west", consumer="east", namespace="shop", service="echo")
TO_WEST = LinkGrant(origin="east", consumer="west")


@pytest.mark.parametrize(
    ("key", "grants", "link", "seen"),
    [
        (ECHO, (), PLAIN, True),
        (ECHO, (), None, False),
        (ECHO, (Grant("*"),), PLAIN, True),
        (ECHO, (Grant("east"),), PLAIN, True),
        (ECHO, (Grant("edge"),), PLAIN, False),
        (ECHO, (Grant("edge"), Grant("east", (80,))), PLAIN, True),
        (ECHO, (), granted(TO_EAST), True),
        (ECHO, (Grant("edge"),), granted(TO_EAST), False),
        (Key("west", Kind.SERVICE, "shop/other"), (), granted(TO_EAST), False),
        (Key("west", Kind.SERVICE, "pay/echo"), (), granted(TO_EAST), False),
        (ECHO, (), granted(TO_WEST), False),  # a grant in the other direction
        (ECHO, (), granted(LinkGrant(origin="west", consumer="edge")), False),
        (ECHO, (Grant("east", (80,)),), granted(LinkGrant(origin="west", consumer="east", ports=(443,))), False),
        (ECHO, (Grant("east", (80,)),), granted(LinkGrant(origin="west", consumer="east", ports=(80, 443))), True),
        (Key("west", Kind.CLUSTER, "west"), (), PLAIN, True),
        (Key("west", Kind.GATEWAY, "gw"), (), granted(TO_WEST), True),
        (Key("west", Kind.GATEWAY, "gw"), (), None, False),
        (Key("west", Kind.LINK, "east/west"), (), PLAIN, False),  # only the registry speaks of links
        (Key("west", Kind.IMPORT, "shop/echo"), (), PLAIN, False),
        (Key("west", Kind.EXPORT, "shop/echo"), (), PLAIN, False),
        (Key("west", Kind.PEER, "east"), (), PLAIN, False),
        (Key("east", Kind.SERVICE, "shop/echo"), (), PLAIN, False),  # one's own
        (Key("edge", Kind.SERVICE, "shop/echo"), (), PLAIN, False),
        (Key("@registry", Kind.LINK, "east/west"), (), PLAIN, True),
        (Key("@registry", Kind.LINK, "east/west"), (), None, True),
        (Key("@registry", Kind.LINK, "edge/west"), (), PLAIN, False),
        (Key("@registry", Kind.LINK, "beast/west"), (), PLAIN, False),
        (Key("@registry", Kind.CLUSTER, "east"), (), PLAIN, False),
    ],
)
def test_what_east_sees(key: Key, grants: tuple[Grant, ...], link: Link | None, seen: bool) -> None:
    links = Links.of("east", [link] if link else [])
    assert is_visible(key, grants, links) is seen


WHERE = Key("west", Kind.ENDPOINTS, "shop/echo")


@pytest.mark.parametrize(
    ("grants", "link", "there", "here", "seen"),
    [
        ((), PLAIN, "flat", "flat", True),
        ((), PLAIN, "flat", "other", False),
        ((), PLAIN, "flat", "", False),
        ((), PLAIN, "flat", None, True),  # east has not reported since the registry began
        ((), PLAIN, "", "", False),
        ((), PLAIN, "", None, False),
        ((), None, "flat", "flat", False),
        ((Grant("edge"),), PLAIN, "flat", "flat", False),
        ((Grant("east", (80,)),), PLAIN, "flat", "flat", True),
        ((), granted(TO_EAST), "flat", "flat", True),
        ((), granted(TO_WEST), "flat", "flat", False),
    ],
)
def test_endpoints_are_seen_on_one_network_only(
    grants: tuple[Grant, ...], link: Link | None, there: str, here: str | None, seen: bool
) -> None:
    links = Links.of("east", [link] if link else [], network=here)
    assert is_visible(WHERE, grants, links, network=there) is seen


@pytest.mark.parametrize(
    ("grants", "link", "ports"),
    [
        ((), PLAIN, None),
        ((Grant("east", (80, 81)),), PLAIN, {80, 81}),
        ((Grant("east", (80,)), Grant("*", (81,))), PLAIN, {80, 81}),
        ((Grant("east"), Grant("*", (81,))), PLAIN, None),
        ((Grant("edge"),), PLAIN, set()),
        ((), granted(LinkGrant(origin="west", consumer="east", ports=(80,))), {80}),
        ((Grant("*", (80, 81)),), granted(LinkGrant(origin="west", consumer="east", ports=(80,))), {80}),
    ],
)
def test_ports(grants: tuple[Grant, ...], link: Link, ports: set[int] | None) -> None:
    found = allowed_ports(ServiceName("shop", "echo"), grants, link, consumer="east")
    assert found == (None if ports is None else frozenset(ports))


names = st.sampled_from(["a", "b", "c", "d"])
links_strategy = st.lists(
    st.tuples(names, names).filter(lambda p: p[0] < p[1]).map(lambda p: Link(a=p[0], b=p[1])), max_size=6
)
keys = st.builds(Key, names, st.sampled_from(list(Kind)), st.sampled_from(["n/s", "a", "a/b"]))


networks = st.sampled_from(["", "n", "m"])


@given(
    consumer=names,
    links=links_strategy,
    key=keys,
    grants=st.lists(st.builds(Grant, names), max_size=3).map(tuple),
    here=st.none() | networks,
    there=networks,
)
def test_nothing_is_seen_of_who_is_not_linked(
    consumer: str, links: list[Link], key: Key, grants: tuple[Grant, ...], here: str | None, there: str
) -> None:
    linked = {link.other(consumer) for link in links if consumer in (link.a, link.b)}
    if is_visible(key, grants, Links.of(consumer, links, network=here), network=there):
        assert key.origin in linked
        assert key.kind in (Kind.CLUSTER, Kind.GATEWAY, Kind.SERVICE, Kind.ENDPOINTS)
        if key.kind is Kind.ENDPOINTS:
            assert there
            assert here in (None, there)
        if key.kind in (Kind.SERVICE, Kind.ENDPOINTS):
            assert not grants or any(g.consumer in ("*", consumer) for g in grants)
