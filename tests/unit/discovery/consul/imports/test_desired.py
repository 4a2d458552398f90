"""Which gateways VMs reach, ids, and what an instance says."""

from __future__ import annotations

import pytest

from discovery.consul.imports.desired import (
    digest,
    instance_id,
    local_gateways,
    parse_id,
    reachable,
    source_clusters,
    source_set,
)
from federation.model.cluster import Gateway
from federation.model.ids import ServiceName


@pytest.mark.parametrize(
    ("address", "single_machine", "expected"),
    [
        ("10.0.0.1", False, True),
        ("2001:db8::1", False, True),
        ("127.0.0.1", False, False),
        ("127.0.0.1", True, True),
        ("::1", True, True),
        ("0.0.0.0", True, False),
        ("169.254.1.1", False, False),
        ("224.0.0.1", False, False),
        ("gateway.example", False, False),
    ],
)
def test_what_a_vm_can_reach(address, single_machine, expected):
    assert reachable(address, single_machine=single_machine) is expected


def test_a_gateway_is_named_by_where_its_own_cluster_reaches_it():
    gateways = [
        Gateway(name="b", address="192.0.2.2", port=1, egress="10.0.0.2", weight=2),
        Gateway(name="a", address="10.0.0.1", port=1, draining=True),
        Gateway(name="c", address="192.0.2.3", port=1, egress="127.0.0.1"),
    ]
    made = local_gateways(gateways, single_machine=False)
    assert [(g.name, g.address, g.weight, g.draining) for g in made] == [
        ("a", "10.0.0.1", 1, True),
        ("b", "10.0.0.2", 2, False),
    ]


@pytest.mark.parametrize(
    "text", ["", "db", "isthmus:shop:db:5432", "isthmus:shop:db:x:gw", "other:shop:db:1:gw", "isthmus:Shop:db:1:gw"]
)
def test_ids_of_others(text):
    assert parse_id(text) is None


def test_an_id_says_what_it_is_for():
    name = ServiceName("shop", "db")
    assert parse_id(instance_id(name, 5432, "gw-1")) == (name, 5432, "gw-1")


def test_the_digest_is_of_all_that_is_said_and_of_no_order():
    said = ("db", "10.0.0.1", 1, 1, ("a", "b"), {"x": "1", "y": "2"})
    assert digest(*said) == digest("db", "10.0.0.1", 1, 1, ("b", "a"), {"y": "2", "x": "1"})
    for at, other in enumerate(("dc", "10.0.0.2", 2, 2, ("a",), {"x": "1"})):
        assert digest(*said) != digest(*(other if i == at else value for i, value in enumerate(said)))


def test_more_source_clusters_than_meta_can_hold():
    assert source_set(source_clusters(["west", "east", "west"])) == {"east", "west"}
    assert source_clusters(f"cluster-{n}" for n in range(100)) == "*"
    assert source_set("*") is None
    assert source_set("") is None
