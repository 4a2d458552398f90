"""The merge of claims does not depend on their order, and never makes two ports with one name or number."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from federation.catalog.merge import Claim, merge
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Locality, Port, Protocol, Readiness, Service

NAME = ServiceName("shop", "echo")

ports = st.builds(
    Port,
    name=st.sampled_from(["", "http", "grpc"]),
    port=st.integers(80, 82),
    protocol=st.sampled_from(Protocol),
    app=st.sampled_from(AppProtocol),
)
services = st.builds(
    Service,
    name=st.just(NAME),
    exported_at_ns=st.integers(0, 2),
    ports=st.lists(ports, max_size=3).map(tuple),
    headless=st.booleans(),
    session_affinity=st.sampled_from(["None", "ClientIP"]),
    session_affinity_seconds=st.integers(0, 1),
    internal_traffic_policy=st.sampled_from(["", "Local"]),
    traffic_distribution=st.sampled_from(["", "PreferClose"]),
    ip_families=st.sampled_from([(), ("IPv4",), ("IPv6",), ("IPv6", "IPv4")]),
    labels=st.dictionaries(st.sampled_from("ab"), st.sampled_from("12")),
    annotations=st.dictionaries(st.sampled_from("ab"), st.sampled_from("12")),
    readiness=st.lists(st.builds(Readiness, st.just(Locality()), st.integers(0, 3)), max_size=2).map(tuple),
)
claims = st.lists(
    st.builds(Claim, cluster=st.sampled_from("abcd"), service=services, local=st.booleans(), stale=st.booleans()),
    min_size=1,
    max_size=4,
    unique_by=lambda claim: claim.cluster,
)


@given(claims.flatmap(lambda drawn: st.tuples(st.just(drawn), st.permutations(drawn))))
def test_order_does_not_matter(drawn):
    one, other = drawn
    assert merge(NAME, one) == merge(NAME, other)


@given(claims)
def test_ports_are_unique_by_name_and_by_number(drawn):
    merged = merge(NAME, drawn)
    assert len({p.name for p in merged.ports}) == len(merged.ports)
    assert len({(p.protocol, p.port) for p in merged.ports}) == len(merged.ports)
    offered = {port for backend in merged.backends for port in backend.ports}
    assert offered == {p.port for p in merged.ports}


@given(claims)
def test_a_claim_alone_has_only_conflicts_with_itself(drawn):
    (alone,) = drawn[:1]
    assert {c.reason for c in merge(NAME, [alone]).conflicts} <= {"PortConflict"}


@given(claims)
def test_there_is_a_conflict_exactly_where_exports_disagree(drawn):
    """Whatever is wrong with one export alone is no matter of disagreement, so only sound ports are compared."""
    sound = [c for c in drawn if not merge(NAME, [c]).conflicts]
    if not sound:
        return
    oldest, *others = sorted(sound, key=lambda c: c.age)
    reasons = {c.reason for c in merge(NAME, sound).conflicts}

    def differ(value):
        return any(value(c.service) != value(oldest.service) for c in others)

    assert ("TypeConflict" in reasons) == differ(lambda s: s.headless)
    assert ("SessionAffinityConflict" in reasons) == differ(lambda s: s.session_affinity)
    assert ("InternalTrafficPolicyConflict" in reasons) == differ(lambda s: s.internal_traffic_policy or "Cluster")
    assert ("TrafficDistributionConflict" in reasons) == differ(lambda s: s.traffic_distribution)
    assert ("LabelsConflict" in reasons) == differ(lambda s: s.labels)
    assert ("AnnotationsConflict" in reasons) == differ(lambda s: s.annotations)
    if differ(lambda s: {(p.name, p.port, p.protocol) for p in s.ports}):
        assert "PortConflict" in reasons


@given(claims)
def test_conflicts_are_the_same_wherever_they_are_looked_at(drawn):
    """Each cluster merges with itself as the local one, and with its own endpoints: all exporters get one condition."""
    views = [
        merge(NAME, [replace(c, local=c.cluster == at.cluster, stale=False) for c in drawn]).conflicts for at in drawn
    ]
    assert all(view == views[0] for view in views)
