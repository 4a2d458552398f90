"""Networks of Pods and Services: apart unless asked for otherwise, and refused where they exclude each other."""

from __future__ import annotations

from ipaddress import IPv4Network
from itertools import combinations
from typing import Any

import pytest

from clusters.kind.ranges import SHARED_PODS, SHARED_SERVICES, assign, networks
from clusters.topology import ClusterSpec, NodeSpec, Topology
from clusters.topologyfile import MOST, numbered
from federation.errors import InvalidInput
from federation.model.service import Locality


def topology(*nodes: NodeSpec, **options: Any) -> Topology:
    clusters = tuple(ClusterSpec(name=f"c{i}", locality=Locality(), nodes=one) for i, one in enumerate(nodes))
    return Topology(federation="t.isthmus", clusters=clusters, links=(), name="t", **options)


def test_all_are_apart() -> None:
    found = assign(numbered(MOST), taken=networks(["172.18.0.0/16"]))
    every = [n for ranges in found.values() for n in (ranges.pods, ranges.services)]
    assert len(every) == 2 * MOST
    assert not [pair for pair in combinations(every, 2) if pair[0].overlaps(pair[1])]


def test_the_same_again() -> None:
    assert assign(numbered(3)) == assign(numbered(3))


def test_overlapping_on_request() -> None:
    for ranges in assign(numbered(3, overlap=True)).values():
        assert (ranges.pods, ranges.services) == (SHARED_PODS, SHARED_SERVICES)


def test_what_is_stated_is_kept_and_nobody_elses() -> None:
    first = assign(topology(NodeSpec()))["c0"]
    found = assign(topology(NodeSpec(pods=str(first.pods), services=str(first.services)), NodeSpec()))
    assert found["c0"] == first
    assert not found["c1"].pods.overlaps(first.pods)
    assert not found["c1"].services.overlaps(first.services)


def test_what_is_taken_is_not_picked() -> None:
    first = assign(topology(NodeSpec()))["c0"]
    assert assign(topology(NodeSpec()), taken=[first.pods])["c0"].pods != first.pods


@pytest.mark.parametrize(
    ("wanted", "code", "text"),
    [
        (topology(NodeSpec(pods="10.1.0.0/24", workers=1)), "invalid_topology", "too small for 2 nodes"),
        (topology(NodeSpec(pods="10.1.0.0/25")), "invalid_topology", "too small for 1 nodes"),
        (topology(NodeSpec(services="10.0.0.0/8")), "invalid_topology", "prefix out of range"),
        (topology(NodeSpec(services="10.0.0.0/28")), "invalid_topology", "prefix out of range"),
        (topology(NodeSpec(pods="10.1.0.0/16", services="10.1.8.0/24")), "cidr_overlap", "its pods .* its services"),
        (topology(NodeSpec(pods="10.0.0.0/8"), NodeSpec()), "cidr_overlap", "no network of .* is left"),
        (topology(NodeSpec(pods="172.18.0.0/16")), "cidr_overlap", "172.18.0.0/16 of its nodes"),
        (
            topology(NodeSpec(pods="10.1.0.0/16"), NodeSpec(pods="10.1.4.0/22"), flat=True),
            "cidr_overlap",
            "flat: pods 10.1.0.0/16 of c0 overlap with 10.1.4.0/22 of c1",
        ),
        (
            topology(NodeSpec(services="10.2.0.0/16"), NodeSpec(pods="10.2.0.0/16"), flat=True),
            "cidr_overlap",
            "flat: pods 10.2.0.0/16 of c1 overlap with 10.2.0.0/16 of c0",
        ),
    ],
)
def test_refused(wanted: Topology, code: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        assign(wanted, taken=networks(["172.18.0.0/16", "fc00::/64"]))
    assert caught.value.error_code == code
    assert caught.value.hint


def test_the_same_pods_behind_gateways_are_fine() -> None:
    found = assign(topology(NodeSpec(pods="10.1.0.0/16"), NodeSpec(pods="10.1.0.0/16")))
    assert found["c0"].pods == found["c1"].pods == IPv4Network("10.1.0.0/16")
