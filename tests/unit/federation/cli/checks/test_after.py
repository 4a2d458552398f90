"""Findings after the installation: one thing is broken at a time, and that is what is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from federation.cli.checks import after
from federation.cli.checks.facts import AgentFacts, FederationFacts, KubeFacts, RegistryFacts, Workload
from federation.cli.checks.finding import Code, Finding, Level
from federation.cli.replicas import Answer
from federation.errors import Unavailable
from federation.proto.v1 import agent_pb2, records_pb2, registry_pb2

NOW = 1_800_000_000_000_000_000
HOUR, DAY = 3_600 * 10**9, 86_400 * 10**9
PRINTS = {"east": "sha256:" + "e" * 64, "west": "sha256:" + "a" * 64}


def leaf(begin: int, end: int) -> agent_pb2.Certificate:
    """Renewed half way."""
    return agent_pb2.Certificate(
        what="the agent's identity", not_before_ns=begin, not_after_ns=end, renews_ns=(begin + end) // 2
    )


def root(end: int) -> agent_pb2.Certificate:
    return agent_pb2.Certificate(what="the cluster's root", not_before_ns=NOW - DAY, not_after_ns=end)


def agent(name: str) -> AgentFacts:
    other = "west" if name == "east" else "east"
    return AgentFacts(
        cluster=name,
        identity=agent_pb2.AgentIdentity(cluster=name, fingerprint=PRINTS[name]),
        status=agent_pb2.AgentStatus(
            cluster=name,
            version="0.3.1",
            registry_connected=True,
            epoch=7,
            exports=2,
            imports=3,
            peers=[agent_pb2.PeerStatus(cluster=other, state="live")],
            consumers=[
                agent_pb2.ConsumerStatus(
                    role="gateway", name="gw", version="0.3.1", connected=True, applied_revision=5, offered_revision=5
                )
            ],
        ),
        seen=agent_pb2.ExamineReply(
            cluster=name,
            now_ns=NOW,
            certificates=[leaf(NOW - HOUR // 4, NOW + 3 * HOUR // 4), root(NOW + 365 * DAY)],
            pins=[agent_pb2.PinStatus(cluster=other, fingerprint=PRINTS[other], shown=PRINTS[other], linked=True)],
            gateways=[
                agent_pb2.GatewayReach(cluster=name, name="gw", own=True, took_ns=10**6, not_after_ns=NOW + HOUR),
                agent_pb2.GatewayReach(cluster=other, name="gw", took_ns=2 * 10**6, not_after_ns=NOW + HOUR),
            ],
            dns=agent_pb2.DnsReach(server="127.0.0.1 port 5353", name="echo.shop.global", addresses=["241.0.0.1"]),
        ),
        asked_ns=NOW,
    )


def federation() -> FederationFacts:
    return FederationFacts(
        now_ns=NOW,
        version="0.3.0",
        agents=(agent("east"), agent("west")),
        registry=RegistryFacts(
            address="192.0.2.10:7400",
            pinned=True,
            status=registry_pb2.RegistryStatus(version="0.3.1"),
            clock_ns=(NOW, NOW),
            members=[
                registry_pb2.ClusterInfo(name=name, state="live", epoch=7, agent_version="0.3.1") for name in PRINTS
            ],
            links=[registry_pb2.LinkInfo(link=records_pb2.Link(a="east", b="west"), state="live")],
        ),
    )


def bad(facts: FederationFacts) -> list[Finding]:
    return [finding for finding in after.federation(facts) if finding.level is not Level.OK]


def test_a_whole_federation_is_well_in_every_respect() -> None:
    found = list(after.federation(federation()))
    assert [f for f in found if f.level is not Level.OK] == []
    assert {f.code for f in found} == {
        *(Code.REGISTRY, Code.CLOCK, Code.AGENT, Code.CONNECTION, Code.EPOCH, Code.CONSUMERS, Code.CERTIFICATES),
        *(Code.GATEWAYS, Code.GATEWAY_REACH, Code.EXPORTS, Code.NAMESPACES, Code.ADDRESSES, Code.DNS),
        *(Code.LINKS, Code.PINS, Code.VERSIONS),
    }


def injector(version: str) -> KubeFacts:
    workload = Workload("Deployment", "isthmus-injector", "injector", 1, 1, version=version)
    other = Workload("Deployment", "isthmus-agent", "agent", 1, 1, version="9.9.9")  # which tells its own itself
    return KubeFacts(context="kind-east", workloads=[workload, other])


@pytest.mark.parametrize(
    ("who", "version", "level"),
    [
        ("injector", "0.4.0", Level.OK),
        ("injector", "0.5.0", Level.ERROR),
        ("injector", "latest", Level.WARNING),
        ("injector", "", Level.OK),  # not known
        ("sidecar", "0.2.9", Level.OK),
        ("sidecar", "0.1.0", Level.ERROR),
    ],
)
def test_injectors_and_sidecars_of_every_replica_may_be_one_minor_version_apart(
    who: str, version: str, level: Level
) -> None:
    facts = federation()
    if who == "injector":
        facts = replace(facts, clusters=[injector(version)])
    else:
        consumer = agent_pb2.ConsumerStatus(role="sidecar", name="web-1", version=version, connected=True)
        first = facts.agents[0]
        other = Answer("isthmus-agent-2", agent_pb2.AgentStatus(version="0.3.1", consumers=[consumer]))
        answers = (Answer("isthmus-agent-1", first.status), other)
        facts = replace(facts, agents=(replace(first, answers=answers), facts.agents[1]))
    (found,) = (f for f in after.federation(facts) if f.code is Code.VERSIONS)
    assert found.level is level
    named = "the injector of kind-east" if who == "injector" else "east: sidecar web-1"
    assert (named in found.detail) == (level is not Level.OK or (bool(version) and version[:3] != "0.3"))


def test_a_replica_that_does_not_answer_is_named() -> None:
    facts = federation()
    first = facts.agents[0]
    silent = Answer("isthmus-agent-2", failure=Unavailable("no answer", hint="see its log"))
    answers = (Answer("isthmus-agent-1", first.status), silent)
    (found,) = bad(replace(facts, agents=(replace(first, answers=answers), facts.agents[1])))
    assert (found.code, found.level, found.subject) == (Code.AGENT, Level.WARNING, "east: isthmus-agent-2")


def test_a_gateway_that_nobody_dials_is_well() -> None:
    facts = federation()
    assert facts.agents[0].seen is not None
    facts.agents[0].seen.gateways[0].code = "outbound_only"
    assert bad(facts) == []
    reached = [f.subject for f in after.federation(facts) if f.code is Code.GATEWAY_REACH]
    assert reached == ["east: gw", "east", "west"]


Break = Callable[[agent_pb2.AgentStatus, agent_pb2.ExamineReply], object]


def problem(code: str) -> records_pb2.Problem:
    return records_pb2.Problem(code=code, subject="echo.yaml:3", detail="no YAML")


@pytest.mark.parametrize(
    ("breaks", "code", "level", "words"),
    [
        (
            lambda s, e: setattr(s, "registry_connected", False),
            Code.CONNECTION,
            Level.ERROR,
            "it serves its last view",
        ),
        (lambda s, e: setattr(s, "epoch", 6), Code.EPOCH, Level.ERROR, "somebody else speaks for it"),
        (lambda s, e: setattr(s, "epoch", 8), Code.EPOCH, Level.WARNING, "has epoch 7 still"),
        (lambda s, e: s.replica.SetInParent(), Code.LEADER, Level.ERROR, "no replica"),
        (
            lambda s, e: s.replica.MergeFrom(
                agent_pb2.ReplicaStatus(leader="b", identity="a", reporting=True, expired=True)
            ),
            Code.LEADER,
            Level.WARNING,
            "not renewed its Lease",
        ),
        (lambda s, e: s.problems.append(problem("file_malformed")), Code.PROBLEMS, Level.WARNING, "[file_malformed]"),
        (lambda s, e: setattr(s.consumers[0], "connected", False), Code.CONSUMERS, Level.ERROR, "not connected"),
        (lambda s, e: setattr(s.consumers[0], "applied_revision", 3), Code.CONSUMERS, Level.WARNING, "2 revisions"),
        (
            lambda s, e: s.consumers[0].problems.append(problem("envoy_down")),
            Code.PROBLEMS,
            Level.WARNING,
            "[envoy_down]",
        ),
        (lambda s, e: setattr(s.peers[0], "state", "stale"), Code.LINKS, Level.ERROR, "stale"),
        (lambda s, e: setattr(e, "now_ns", NOW + 5 * 10**9), Code.CLOCK, Level.WARNING, "5.0 s ahead"),
        (
            lambda s, e: e.certificates[0].CopyFrom(leaf(NOW - 2 * HOUR, NOW - HOUR)),
            Code.CERTIFICATES,
            Level.ERROR,
            "the agent's identity expired 60 min ago",
        ),
        (
            lambda s, e: e.certificates[0].CopyFrom(leaf(NOW + HOUR, NOW + 2 * HOUR)),
            Code.CERTIFICATES,
            Level.ERROR,
            "not valid before 60 min from now",
        ),
        (
            lambda s, e: e.certificates[0].CopyFrom(leaf(NOW - 9 * HOUR // 10, NOW + HOUR // 10)),
            Code.CERTIFICATES,
            Level.WARNING,
            "was not renewed",
        ),
        (
            lambda s, e: e.certificates[1].CopyFrom(root(NOW + 5 * DAY)),
            Code.CERTIFICATES,
            Level.WARNING,
            "the cluster's root ends in 5 d",
        ),
        (
            lambda s, e: setattr(e.gateways[0], "not_after_ns", NOW - 1),
            Code.CERTIFICATES,
            Level.ERROR,
            "the certificate of gw expired",
        ),
        (lambda s, e: e.gateways.pop(0), Code.GATEWAYS, Level.ERROR, "it has no gateway"),
        (
            lambda s, e: e.gateways[1].MergeFrom(agent_pb2.GatewayReach(code="no_route", detail="no route")),
            Code.GATEWAY_REACH,
            Level.ERROR,
            "[no_route]",
        ),
        (lambda s, e: e.exports_down.append("shop/echo"), Code.EXPORTS, Level.WARNING, "shop/echo"),
        (lambda s, e: e.imports_homeless.append("bank/api"), Code.NAMESPACES, Level.WARNING, "no namespace bank"),
        (lambda s, e: e.imports_unaddressed.append("shop/kv"), Code.ADDRESSES, Level.ERROR, "shop/kv"),
        (lambda s, e: setattr(e.dns, "code", "dns_wrong"), Code.DNS, Level.ERROR, "[dns_wrong]"),
        (
            lambda s, e: e.cluster_dns.MergeFrom(agent_pb2.DnsReach(server="10.96.0.10", code="dns_refused")),
            Code.CLUSTER_DNS,
            Level.ERROR,
            "[dns_refused]",
        ),
        (lambda s, e: setattr(e.pins[0], "fingerprint", ""), Code.PINS, Level.ERROR, "is not pinned"),
        (lambda s, e: setattr(e.pins[0], "fingerprint", "sha256:" + "b" * 64), Code.PINS, Level.ERROR, "and west has"),
        (lambda s, e: setattr(e.pins[0], "linked", False), Code.PINS, Level.WARNING, "there is no link"),
        (lambda s, e: setattr(s, "version", "0.5.0"), Code.VERSIONS, Level.ERROR, "too far apart"),
    ],
)
def test_one_thing_is_broken_at_east_and_nothing_else_is_found(
    breaks: Break, code: Code, level: Level, words: str
) -> None:
    facts = federation()
    east = facts.agents[0]
    assert east.status is not None
    assert east.seen is not None
    breaks(east.status, east.seen)
    (found,) = bad(facts)
    assert (found.code, found.level, words in found.detail) == (code, level, True), found
    assert found.next
    assert "east" in found.subject or code in (Code.VERSIONS, Code.CLOCK)


def test_an_agent_that_does_not_answer_is_told_once() -> None:
    facts = federation()
    away = AgentFacts(cluster="west", failure=Unavailable("no agent is running", code="agent_down"))
    (found,) = bad(replace(facts, agents=(facts.agents[0], away)))
    assert (found.code, found.subject, found.level) == (Code.AGENT, "west", Level.ERROR)


def test_an_older_agent_does_not_tell_what_it_sees() -> None:
    facts = federation()
    older = replace(facts.agents[1], seen=None, seen_failure=Unavailable("not implemented"))
    (found,) = bad(replace(facts, agents=(facts.agents[0], older)))
    assert (found.code, found.level) == (Code.AGENT, Level.WARNING)


@pytest.mark.parametrize(("state", "level"), [("pending", Level.WARNING), ("stale", Level.ERROR)])
def test_members_that_the_registry_does_not_hear_of(state: str, level: Level) -> None:
    facts = federation()
    assert facts.registry is not None
    members = [*(facts.registry.members or ()), registry_pb2.ClusterInfo(name="north", state=state)]
    (found,) = bad(replace(facts, registry=replace(facts.registry, members=members)))
    assert (found.code, found.subject, found.level) == (Code.CONNECTION, "north", level)


def test_a_registry_that_is_away() -> None:
    away = RegistryFacts(address="192.0.2.10:7400", failure=Unavailable("cannot be reached"))
    (found,) = bad(replace(federation(), registry=away))
    assert (found.code, found.level) == (Code.REGISTRY, Level.ERROR)
    assert bad(replace(federation(), registry=None)) == []


def test_two_clusters_of_one_name_and_a_context_of_another_name() -> None:
    facts = federation()
    twin = agent("east")
    assert twin.identity is not None
    twin.identity.fingerprint = "sha256:" + "c" * 64
    found = bad(replace(facts, agents=(*facts.agents, replace(twin, cluster="north"))))
    assert {(f.code, f.subject) for f in found if f.code is Code.CLUSTER_NAME} == {
        (Code.CLUSTER_NAME, "north"),
        (Code.CLUSTER_NAME, "east"),
    }


def test_pod_ranges_of_linked_clusters_on_one_network() -> None:
    facts = federation()
    for one in facts.agents:
        assert one.seen is not None
        one.seen.network = "lan"
        one.seen.pod_ranges.append("10.244.0.0/16")
    (found,) = bad(facts)
    assert (found.code, found.level) == (Code.RANGES, Level.ERROR)
    assert facts.registry is not None
    assert bad(replace(facts, registry=replace(facts.registry, links=()))) == []
    assert facts.agents[1].seen is not None
    facts.agents[1].seen.network = "other"
    assert bad(facts) == []


@pytest.mark.parametrize(
    ("versions", "level"),
    [
        (["0.3.0", "0.3.9"], Level.OK),
        (["0.3.0", "0.4.1"], Level.OK),
        (["0.3.0", "0.4.0", "0.5.0"], Level.ERROR),
        (["1.0.0", "0.9.0"], Level.ERROR),
        (["0.3.0", "unknown"], Level.WARNING),
    ],
)
def test_components_work_together_over_one_minor_version(versions: list[str], level: Level) -> None:
    assert after.versions({f"c{n}": text for n, text in enumerate(versions)}).level is level


@pytest.mark.parametrize(
    ("wanted", "ready", "level"),
    [(2, 2, Level.OK), (2, 1, Level.WARNING), (2, 0, Level.ERROR), (0, 0, Level.WARNING)],
)
def test_workloads(wanted: int, ready: int, level: Level) -> None:
    workload = Workload("Deployment", "isthmus-agent", "agent", wanted, ready, reason="no node")
    facts = KubeFacts(context="east", namespace="isthmus-system", workloads=(workload,))
    (found,) = after.deployments(facts)
    assert (found.code, found.level) == (Code.DEPLOYMENTS, level)
    assert ("no node" in found.detail) == (wanted > 0 and ready < wanted)
    assert [f.level for f in after.deployments(replace(facts, workloads=()))] == [Level.WARNING]
    assert list(after.deployments(replace(facts, workloads=None))) == []


def test_whatever_is_missing_is_no_crash() -> None:
    empty: Any = FederationFacts(now_ns=NOW, version="0.3.0", agents=(AgentFacts(cluster="east"),))
    assert [f.code for f in after.federation(empty) if f.level is not Level.OK] == [Code.AGENT]
