"""What the demo shows on a machine, by whether it has a Consul."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusters.demo import choose
from clusters.testbed.components import COMPONENTS
from federation.errors import InvalidInput


@pytest.fixture(autouse=True)
def _nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ISTHMUS_CONSUL", raising=False)


def install(path: Path, version: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho Consul {version}\n")
    path.chmod(0o755)
    return path


def test_without_consul_three_clusters_and_the_line_that_helps() -> None:
    topology, (line,) = choose()
    assert topology.names == ["east", "west", "edge"]
    assert "stock" not in {offer.name for spec in topology.clusters for offer in spec.offers}
    assert line.startswith("dc1, the cluster with Consul, is left out: ")
    assert "`scripts/testbed consul` builds it once" in line


def test_with_consul_a_datacenter_whose_service_a_far_cluster_has_too(tmp_path: Path) -> None:
    install(tmp_path / "bin" / "consul", COMPONENTS["consul"].version)
    topology, left_out = choose()
    assert (topology.names, topology.datacenters, left_out) == (["east", "west", "edge", "dc1"], ["dc1"], [])
    having = [spec.name for spec in topology.clusters if "stock" in {offer.name for offer in spec.offers}]
    assert having == ["edge", "dc1"]
    assert len(topology.links) == 6


def test_a_consul_that_is_named_and_too_old_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_CONSUL", str(install(tmp_path / "old" / "consul", "v1.9.0")))
    with pytest.raises(InvalidInput, match=r"which is v1\.9"):
        choose()
