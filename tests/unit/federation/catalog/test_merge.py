"""The MCS conflict rules (KEP-1645) as a table: two or three claims in, one field of the import out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from federation.catalog.merge import Claim, merge
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Endpoint, Locality, Port, Protocol, Readiness, Service

NAME = ServiceName("shop", "echo")
HTTP = Port(name="http", port=80, app=AppProtocol.HTTP)


def claim(cluster: str, age: int, **fields: Any) -> Claim:
    base = Service(name=NAME, exported_at_ns=age, ports=(HTTP,))
    return Claim(cluster=cluster, service=dataclasses.replace(base, **fields))


@pytest.mark.parametrize(
    ("reason", "field", "old", "new"),
    [
        ("TypeConflict", "headless", True, False),
        ("SessionAffinityConflict", "session_affinity", "ClientIP", "None"),
        ("InternalTrafficPolicyConflict", "internal_traffic_policy", "Local", "Cluster"),
        ("TrafficDistributionConflict", "traffic_distribution", "PreferClose", ""),
        ("LabelsConflict", "labels", {"a": "1"}, {"a": "2"}),
        ("AnnotationsConflict", "annotations", {"a": "1"}, {}),
    ],
)
def test_the_oldest_wins_and_the_conflict_is_named(reason, field, old, new):
    merged = merge(NAME, [claim("east", 2, **{field: new}), claim("west", 1, **{field: old})])
    assert [c.reason for c in merged.conflicts] == [reason]
    assert merged.conflicts[0].detail.startswith("east: ")
    if hasattr(merged, field):
        assert getattr(merged, field) == old
    assert merge(NAME, [claim("east", 2, **{field: old}), claim("west", 1, **{field: old})]).conflicts == ()


def test_between_equally_old_exports_the_first_cluster_name_wins():
    merged = merge(NAME, [claim("west", 1, headless=True), claim("east", 1)])
    assert not merged.headless


def test_the_session_affinity_time_out_is_a_conflict_of_its_own():
    merged = merge(
        NAME,
        [
            claim("east", 1, session_affinity="ClientIP", session_affinity_seconds=10),
            claim("west", 2, session_affinity="ClientIP", session_affinity_seconds=20),
        ],
    )
    assert [c.reason for c in merged.conflicts] == ["SessionAffinityConfigConflict"]
    assert merged.session_affinity_seconds == 10


def test_calls_of_a_number_go_to_who_has_it_for_tcp():
    """The youngest has it, and the others have the number for protocols that are not carried."""
    sig, dns = Port(name="sig", port=53, protocol=Protocol.SCTP), Port(name="dns", port=53, protocol=Protocol.UDP)
    tcp, more = Port(name="tcp", port=53), Port(name="more", port=54, protocol=Protocol.UDP)
    merged = merge(NAME, [claim("a", 1, ports=(sig, more)), claim("b", 2, ports=(dns,)), claim("c", 3, ports=(tcp,))])
    assert merged.ports == (sig, tcp, dns, more)
    assert [b.ports for b in merged.backends] == [(54,), (), (53,)]


GRPC = Port(name="grpc", port=90, app=AppProtocol.GRPC)
UNNAMED_80, UNNAMED_81 = Port(port=80), Port(port=81)


@pytest.mark.parametrize(
    ("older", "newer", "union", "serves", "conflicts"),
    [
        ((HTTP,), (GRPC,), (HTTP, GRPC), (90,), 1),  # a union, and yet not the same in all
        ((HTTP,), (HTTP, GRPC), (HTTP, GRPC), (80, 90), 1),
        ((HTTP, GRPC), (GRPC, HTTP), (HTTP, GRPC), (80, 90), 0),
        ((HTTP,), (Port(name="http", port=8080),), (HTTP,), (), 1),  # the name is another port's
        ((HTTP,), (Port(name="web", port=80),), (HTTP,), (80,), 1),  # the same port, another name
        ((HTTP,), (Port(name="http", port=80),), (HTTP,), (80,), 1),  # another app protocol
        ((UNNAMED_80,), (UNNAMED_81,), (UNNAMED_80,), (), 1),  # the empty name is a name
        (
            (Port(name="dns", port=53),),
            (Port(name="dns-udp", port=53, protocol=Protocol.UDP),),
            (Port(name="dns", port=53), Port(name="dns-udp", port=53, protocol=Protocol.UDP)),
            (),  # calls of 53 are TCP, and it has none
            1,
        ),
    ],
)
def test_ports_are_a_union(older, newer, union, serves, conflicts):
    merged = merge(NAME, [claim("east", 2, ports=newer), claim("west", 1, ports=older)])
    assert merged.ports == union
    east, west = merged.backends
    assert east.ports == serves
    assert west.ports == tuple(sorted({p.port for p in older}))
    assert [c.reason for c in merged.conflicts] == ["PortConflict"] * conflicts


def test_backends_keep_what_the_consumer_needs():
    endpoint = Endpoint(address="10.0.0.1", ports={80: 8080})
    ready = (Readiness(Locality("eu", "b"), 1), Readiness(Locality("eu", "a"), 2))
    claims = [
        Claim(cluster="west", service=claim("west", 1, readiness=ready).service, stale=True),
        Claim(cluster="east", service=claim("east", 2).service, local=True, endpoints=(endpoint,)),
    ]
    east, west = merge(NAME, claims).backends
    assert (east.cluster, east.local, east.endpoints) == ("east", True, (endpoint,))
    assert (west.stale, west.ready, west.readiness[0].locality.zone) == (True, 3, "a")


def test_families_are_those_of_the_oldest_that_names_any():
    merged = merge(NAME, [claim("a", 1), claim("b", 2, ip_families=("IPv6",)), claim("c", 3, ip_families=("IPv4",))])
    assert merged.ip_families == ("IPv6",)


def test_families_without_a_common_one_conflict():
    merged = merge(NAME, [claim("b", 2, ip_families=("IPv6",)), claim("c", 3, ip_families=("IPv4",))])
    assert [c.reason for c in merged.conflicts] == ["IPFamilyConflict"]


@pytest.mark.parametrize(
    "claims",
    [[], [claim("east", 1), claim("east", 2)], [claim("east", 1, name=ServiceName("shop", "other"))]],
    ids=["none", "twice", "another name"],
)
def test_claims_that_cannot_be(claims):
    with pytest.raises(ValueError):
        merge(NAME, claims)


def test_ports_that_are_kept_from_the_consumer_are_no_conflict_and_are_not_served():
    merged = merge(
        NAME,
        [
            claim("east", 1, ports=(HTTP, GRPC)),
            dataclasses.replace(claim("west", 2, ports=(HTTP, GRPC)), granted=frozenset({90})),
        ],
    )
    assert merged.conflicts == ()
    assert [b.ports for b in merged.backends] == [(80, 90), (90,)]


def test_of_headless_services_different_families_conflict():
    dual, single = {"ip_families": ("IPv4", "IPv6")}, {"ip_families": ("IPv4",)}
    assert merge(NAME, [claim("b", 1, **dual), claim("c", 2, **single)]).conflicts == ()
    merged = merge(NAME, [claim("b", 1, headless=True, **dual), claim("c", 2, headless=True, **single)])
    assert [c.reason for c in merged.conflicts] == ["IPFamilyConflict"]
    turned = claim("c", 2, headless=True, ip_families=("IPv6", "IPv4"))
    assert merge(NAME, [claim("b", 1, headless=True, **dual), turned]).conflicts == ()


def test_the_winner_gives_what_is_passed_on():
    merged = merge(NAME, [claim("east", 2), claim("west", 1, internal_traffic_policy="Cluster")])
    assert merged.internal_traffic_policy == "Cluster"
    assert merged.conflicts == ()  # "" is the default, which is Cluster


DIFFERENT = {
    "PortConflict": {"ports": (HTTP, GRPC)},
    "TypeConflict": {"headless": True},
    "SessionAffinityConflict": {"session_affinity": "None"},
    "SessionAffinityConfigConflict": {"session_affinity_seconds": 99},
    "InternalTrafficPolicyConflict": {"internal_traffic_policy": "Local"},
    "TrafficDistributionConflict": {"traffic_distribution": "PreferClose"},
    "LabelsConflict": {"labels": {"tier": "1"}},
    "AnnotationsConflict": {"annotations": {"note": "x"}},
    "IPFamilyConflict": {"ip_families": ("IPv6",)},
}
STICKY = {"session_affinity": "ClientIP", "session_affinity_seconds": 10, "ip_families": ("IPv4",)}


@pytest.mark.parametrize("one", DIFFERENT)
@pytest.mark.parametrize("other", DIFFERENT)
def test_every_reason_alone_and_with_every_other(one, other):
    fields = {**STICKY, **DIFFERENT[one], **DIFFERENT[other]}
    merged = merge(NAME, [claim("west", 1, **STICKY), claim("east", 2, **fields)])
    wanted = {one, other}
    if "SessionAffinityConflict" in wanted:  # without affinity there is no time-out to disagree on
        wanted.discard("SessionAffinityConfigConflict")
    assert {c.reason for c in merged.conflicts} == wanted
