"""What is written on a ground of datacenters, as registrations of Consul."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters import manifests
from clusters.consulground import WithConsul, registrations
from clusters.ground import Folders
from clusters.testbed.components import COMPONENTS

COPY = manifests.Copy(address="127.20.0.1", port=8001)
DOCUMENTS: list[dict[str, Any]] = manifests.exported("shop", "stock", port=8080, app="http", copy=COPY)


def test_each_endpoint_is_an_instance_with_a_check() -> None:
    copies = [COPY, manifests.Copy(address="127.20.0.2", port=8001, ready=False)]
    sliced: dict[str, Any] = manifests.slice_("shop", "stock", app="http", copies=copies)
    first, second = registrations([*DOCUMENTS[:2], sliced])
    assert (first["Name"], first["ID"], first["Address"]) == ("stock", "stock-0", "127.20.0.1")
    assert first["Ports"] == [{"Name": "http", "Port": 8001, "Default": True}]
    assert first["Meta"] == {"isthmus-export": "true", "isthmus-protocol": "http", "isthmus-service-port": "8080"}
    assert (first["Check"]["CheckID"], first["Check"]["Status"]) == ("stock-0-up", "passing")
    assert (second["ID"], second["Check"]["Status"]) == ("stock-1", "critical")


def test_what_is_not_exported_does_not_say_so() -> None:
    service, _, sliced = DOCUMENTS
    (one,) = registrations([service, sliced])
    assert "isthmus-export" not in one["Meta"]


def test_a_service_without_endpoints_is_not_there_yet() -> None:
    assert registrations(DOCUMENTS[:2]) == []


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WithConsul:
    program = tmp_path / "consul"
    program.write_text(f"#!/bin/sh\necho Consul {COMPONENTS['consul'].version}\n")
    program.chmod(0o755)
    monkeypatch.setenv("ISTHMUS_CONSUL", str(program))
    return WithConsul(Folders(lambda cluster: tmp_path / cluster), tmp_path / "consuls", ["dc1"], namespace="shop")


async def test_other_clusters_stand_on_the_ground_below(ground: WithConsul, tmp_path: Path) -> None:
    await ground.write("east", *DOCUMENTS)
    assert (tmp_path / "east" / "stock.yaml").exists()


def test_an_agent_is_told_of_consul_instead_of_a_folder(ground: WithConsul, tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    text = yaml.safe_dump({"cluster": "x", "files": {"directory": "m"}})
    for cluster in ("dc1", "east"):
        settings.write_text(text)
        ground.tell(cluster, settings, dns="127.0.0.1:53")
        tree = yaml.safe_load(settings.read_text())
        if cluster == "dc1":
            assert "files" not in tree
            assert tree["consul"] == {"address": ground.datacenters["dc1"].url(), "datacenters": {"dc1": "shop"}}
        else:
            assert "consul" not in tree
