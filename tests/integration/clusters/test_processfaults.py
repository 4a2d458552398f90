"""Faults of API servers by the vocabulary that all grounds share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clusters.ground import ApiServers
from clusters.processes import ProcessFederation
from clusters.processfaults import ProcessFaults
from clusters.topology import EAST, WEST, Topology
from federation.errors import IsthmusError, Unavailable

pytestmark = pytest.mark.integration


async def test_parts_of_an_api_server(kube_clusters: Any, tmp_path: Path) -> None:
    """What is killed or paused does not answer until a heal, and the other cluster does all the while."""
    try:
        ground = ApiServers(tmp_path, (), clusters=kube_clusters)
    except Unavailable as error:
        pytest.skip(str(error))
    federation = ProcessFederation(Topology.full_mesh("t.isthmus", EAST, WEST), tmp_path, ground=ground)
    faults, (east, west) = ProcessFaults(federation), kube_clusters
    try:
        await faults.kill("east", "apiserver")
        await faults.pause("east", "etcd")
        assert not east.parts["apiserver"].alive
        with pytest.raises(IsthmusError):
            await east.wait_ready("etcd", timeout=1)
        await west.wait_ready()
        await faults.heal()
        for part in east.parts:
            await east.wait_ready(part)
    finally:
        federation.stop()
