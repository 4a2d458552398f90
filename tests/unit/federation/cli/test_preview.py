"""Who would see what: every rule, every change, every conflict, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.cli.preview import Change, Known, PortSight, Rule, Sight, disputes, sights, stray_ports
from federation.model.cluster import Link, LinkGrant
from federation.model.ids import ServiceName
from federation.model.service import Grant, Port, Protocol, Service

ECHO = ServiceName("shop", "echo")
HTTP, ADMIN = Port(name="http", port=80), Port(name="admin", port=81)
EAST_WEST, EAST_NORTH = Link(a="east", b="west"), Link(a="east", b="north")


def service(*ports: Port, since: int = 10, headless: bool = False, grants: tuple[Grant, ...] = ()) -> Service:
    return Service(name=ECHO, exported_at_ns=since, ports=ports or (HTTP, ADMIN), headless=headless, grants=grants)


def limited(*ports: int, service: str = "echo", namespace: str = "shop", consumer: str = "west") -> Link:
    origin = "east" if consumer == "west" else "west"
    grant = LinkGrant(origin=origin, consumer=consumer, namespace=namespace, service=service, ports=ports)
    return replace(EAST_WEST, grants=(grant,))


def look(known: Known, cluster: str = "west") -> Sight:
    return {sight.cluster: sight for sight in sights(known)}[cluster]


def brief(sight: Sight) -> list[tuple[int, bool, Rule]]:
    return [(p.port, p.sees, p.rule) for p in sight.ports]


def of(port: int, sight: Sight) -> PortSight:
    return next(p for p in sight.ports if p.port == port)


@pytest.mark.parametrize(
    ("link", "grants", "expected"),
    [
        pytest.param(EAST_WEST, (), [(80, True, Rule.LINK), (81, True, Rule.LINK)], id="no grants: the link shows all"),
        pytest.param(
            EAST_WEST,
            (Grant("west", (80,)),),
            [(80, True, Rule.EXPORT_GRANT), (81, False, Rule.EXPORT_GRANT)],
            id="the export names a port",
        ),
        pytest.param(
            EAST_WEST, (Grant("*"),), [(80, True, Rule.EXPORT_GRANT), (81, True, Rule.EXPORT_GRANT)], id="everybody"
        ),
        pytest.param(
            EAST_WEST,
            (Grant("north"),),
            [(80, False, Rule.EXPORT_GRANT), (81, False, Rule.EXPORT_GRANT)],
            id="the export names another cluster",
        ),
        pytest.param(
            limited(81),
            (),
            [(80, False, Rule.LINK_GRANT), (81, True, Rule.LINK_GRANT)],
            id="the link is limited to a port",
        ),
        pytest.param(
            limited(service="kv"),
            (),
            [(80, False, Rule.LINK_GRANT), (81, False, Rule.LINK_GRANT)],
            id="the link is limited to another service",
        ),
        pytest.param(
            limited(consumer="east"),
            (),
            [(80, False, Rule.LINK_GRANT), (81, False, Rule.LINK_GRANT)],
            id="the link is limited to the other direction",
        ),
        pytest.param(
            limited(80),
            (Grant("west"),),
            [(80, True, Rule.BOTH_GRANTS), (81, False, Rule.LINK_GRANT)],
            id="both name it",
        ),
        pytest.param(
            limited(80),
            (Grant("west", (81,)),),
            [(80, False, Rule.EXPORT_GRANT), (81, False, Rule.LINK_GRANT)],
            id="both name ports, none in common",
        ),
    ],
)
def test_which_rule_decides_on_a_port(link: Link, grants: tuple[Grant, ...], expected: list[tuple[int, bool, Rule]]):
    sight = look(Known(origin="east", name=ECHO, after=service(grants=grants), links=[link]))
    assert brief(sight) == expected
    assert sight.sees is any(sees for _, sees, _ in expected)
    assert sight.type == ("ClusterSetIP" if sight.sees else "")
    assert sight.change is (Change.GAINS if sight.sees else Change.NONE)


def test_a_cluster_without_a_link_sees_nothing_whoever_names_it():
    known = Known(
        origin="east",
        name=ECHO,
        after=service(grants=(Grant("moon"), Grant("west"))),
        links=[EAST_WEST, Link(a="north", b="west")],
        members=("east", "north", "west"),
    )
    assert [s.cluster for s in sights(known)] == ["moon", "north", "west"]
    for cluster in ("moon", "north"):
        sight = look(known, cluster)
        assert (sight.linked, sight.sees, sight.rule, sight.ports) == (False, False, Rule.NO_LINK, ())


def test_a_service_without_ports_is_seen_by_its_name():
    portless = replace(service(headless=True), ports=())
    known = Known(origin="east", name=ECHO, after=portless, links=[EAST_WEST])
    sight = look(known)
    assert (sight.sees, sight.ports, sight.type) == (True, (), "Headless")
    narrowed = replace(known, after=replace(portless, grants=(Grant("north"),)))
    assert (look(narrowed).sees, look(narrowed).rule) == (False, Rule.EXPORT_GRANT)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(None, (), Change.GAINS, id="a new export"),
        pytest.param((), (), Change.KEEPS, id="the same export"),
        pytest.param((), (Grant("north"),), Change.LOSES, id="narrowed"),
        pytest.param((Grant("north"),), (Grant("west"),), Change.GAINS, id="widened"),
        pytest.param((Grant("north"),), (Grant("north"),), Change.NONE, id="not for it"),
        pytest.param((), None, Change.LOSES, id="withdrawn"),
        pytest.param((Grant("north"),), None, Change.NONE, id="withdrawn from others"),
    ],
)
def test_what_changes(before: tuple[Grant, ...] | None, after: tuple[Grant, ...] | None, expected: Change):
    known = Known(
        origin="east",
        name=ECHO,
        before=None if before is None else service(grants=before),
        after=None if after is None else service(grants=after),
        links=[EAST_WEST, EAST_NORTH],
    )
    sight = look(known)
    assert {sight.change, *(p.change for p in sight.ports)} == {expected}
    assert {p.rule for p in sight.ports} != {Rule.WITHDRAWN} or after is None


def test_a_port_that_goes_is_lost_and_one_that_comes_is_gained():
    new = Port(name="grpc", port=90)
    known = Known(origin="east", name=ECHO, before=service(HTTP, ADMIN), after=service(HTTP, new), links=[EAST_WEST])
    sight = look(known)
    assert [(p.port, p.change) for p in sight.ports] == [
        (80, Change.KEEPS),
        (81, Change.LOSES),
        (90, Change.GAINS),
    ]
    assert of(81, sight).rule is Rule.WITHDRAWN


def test_ports_that_are_not_carried():
    known = Known(origin="east", name=ECHO, after=service(HTTP), links=[EAST_WEST], uncarried=[(7, "SCTP")])
    assert brief(look(known)) == [(7, False, Rule.PROTOCOL), (80, True, Rule.LINK)]


def test_the_oldest_export_decides_on_the_type_and_both_are_told():
    known = Known(
        origin="east",
        name=ECHO,
        after=service(since=20, headless=True),
        others={"west": service(since=10)},
        links=[EAST_WEST],
    )
    assert look(known).type == "ClusterSetIP"
    assert look(known).others == ("west",)
    (dispute,) = disputes(known)
    assert (dispute.reason, dispute.at, dispute.new) == ("TypeConflict", ("east", "west"), True)
    older = replace(known, after=service(since=5, headless=True))
    assert look(older).type == "Headless"


def test_a_port_name_that_an_older_export_has_for_another_port_is_lost():
    known = Known(
        origin="east",
        name=ECHO,
        after=service(Port(name="http", port=8080), ADMIN, since=20),
        others={"west": service(HTTP, since=10)},
        links=[EAST_WEST],
    )
    assert brief(look(known)) == [(81, True, Rule.LINK), (8080, False, Rule.CONFLICT)]
    assert "PortConflict" in {d.reason for d in disputes(known)}


def test_a_service_of_which_all_ports_are_lost_is_not_seen():
    known = Known(
        origin="east",
        name=ECHO,
        after=service(Port(name="http", port=8080), since=20),
        others={"west": service(HTTP, since=10)},
        links=[EAST_WEST],
    )
    sight = look(known)
    assert (sight.sees, sight.change, sight.others) == (False, Change.NONE, ("west",))


def test_only_who_sees_both_exports_has_the_conflict():
    """north is linked to both, west to east alone, and south to none."""
    known = Known(
        origin="east",
        name=ECHO,
        after=service(since=20, headless=True),
        others={"far": service(since=10)},
        links=[EAST_WEST, EAST_NORTH, Link(a="far", b="north")],
        members=("east", "far", "north", "south", "west"),
    )
    assert (look(known, "west").type, look(known, "north").type) == ("Headless", "ClusterSetIP")
    assert look(known, "north").others == ("far",)
    (dispute,) = disputes(known)
    assert dispute.at == ("north",)


def test_grants_keep_a_conflict_away_from_who_does_not_see_the_port():
    known = Known(
        origin="east",
        name=ECHO,
        after=service(HTTP, Port(name="x", port=99), since=20, grants=(Grant("west", (80,)),)),
        others={"west": service(HTTP, Port(name="x", port=98), since=10)},
        links=[EAST_WEST],
    )
    assert of(80, look(known)).sees
    assert ("port name 'x' is 98/TCP, not 99/TCP" in " ".join(d.detail for d in disputes(known) if "west" in d.at)) is (
        False
    )


def test_a_conflict_that_is_there_already_is_not_new():
    known = Known(
        origin="east",
        name=ECHO,
        before=service(since=20, headless=True),
        after=service(since=20, headless=True, grants=(Grant("west"),)),
        others={"west": service(since=10)},
        links=[EAST_WEST],
    )
    assert [d.new for d in disputes(known)] == [False]


def test_a_withdrawal_says_who_still_offers_it_and_ends_all_conflicts():
    known = Known(
        origin="east",
        name=ECHO,
        before=service(since=20, headless=True),
        others={"far": service(since=10)},
        links=[EAST_WEST, EAST_NORTH, Link(a="far", b="north")],
    )
    assert disputes(known) == ()
    assert {s.cluster: (s.change, s.rule, s.others, s.type) for s in sights(known)} == {
        "north": (Change.LOSES, Rule.WITHDRAWN, ("far",), "ClusterSetIP"),
        "west": (Change.LOSES, Rule.WITHDRAWN, (), ""),
    }


def test_both_protocols_of_one_number():
    ports = (Port(name="dns", port=53), Port(name="dns-udp", port=53, protocol=Protocol.UDP))
    known = Known(origin="east", name=ECHO, after=service(*ports), links=[EAST_WEST])
    assert [(p.port, p.protocol, p.sees) for p in look(known).ports] == [(53, "TCP", True), (53, "UDP", True)]


def test_grants_for_ports_that_are_not_there():
    assert stray_ports(service(grants=(Grant("north"), Grant("west", (80, 9999))))) == (("west", 9999),)
