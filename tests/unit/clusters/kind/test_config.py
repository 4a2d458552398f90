"""What kind is told of a cluster."""

from __future__ import annotations

import pytest
import yaml

from clusters.kind.config import mark, wanted
from clusters.topology import EAST, ClusterSpec, NodeSpec, Topology
from federation.errors import InvalidInput
from federation.model.service import Locality


def test_nodes_with_their_place_and_whose_they_are() -> None:
    spec = ClusterSpec(name="east", locality=Locality("eu", "eu-1"), nodes=NodeSpec(workers=2, pods="10.7.0.0/16"))
    found = wanted(Topology.full_mesh("t.isthmus", spec, name="lab"), prefix="p")["east"]
    assert found.name == "p-lab-east"
    assert found.nodes == ("p-lab-east-control-plane", "p-lab-east-worker", "p-lab-east-worker2")
    assert found.context == "kind-p-lab-east"
    tree = yaml.safe_load(found.config)
    assert tree["networking"]["podSubnet"] == "10.7.0.0/16"
    assert [node["role"] for node in tree["nodes"]] == ["control-plane", "worker", "worker"]
    for node in tree["nodes"]:
        assert node["labels"] == {"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": "eu-1"}
        (mount,) = node["extraMounts"]
        assert mount["containerPath"] == mark("lab", "p") == "/isthmus-harness/p.lab"


def test_no_label_without_a_place() -> None:
    found = wanted(Topology.full_mesh("t.isthmus", ClusterSpec(name="a", locality=Locality()), name="t"))["a"]
    assert yaml.safe_load(found.config)["nodes"][0]["labels"] == {}


def test_a_name_that_is_no_host_name() -> None:
    with pytest.raises(InvalidInput, match="too long a name for a kind cluster"):
        wanted(Topology.full_mesh("t.isthmus", EAST, name="x" * 40))
