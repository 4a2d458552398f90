"""fedctl's way to pods through real kubelets, and the registry's disk lost and restored, on kind clusters.

What needs no kubelet is in tests/integration/pods.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from clusters.kind import engine
from clusters.kind.installation import DISK
from clusters.kind.operator import Operator
from clusters.pytest_plugin import Clusters
from clusters.waiting import START, until
from federation.model.ids import SYSTEM_NAMESPACE

pytestmark = pytest.mark.e2e
POD = "isthmus-registry-0"


@pytest.mark.clusters("two-kind", installed=True)
async def test_the_registrys_disk_is_lost_and_restored_from_a_laptop(
    clusters: Clusters, operator: Operator, tmp_path: Path
) -> None:
    home = clusters.topology.home
    names = sorted(clusters.topology.names)
    registry, cluster = tmp_path / "registry.tar", tmp_path / "cluster.tar"
    # 1. everything that fedctl asks of agents and registry goes by their pods
    assert [c["name"] for c in await operator.ok("get", "clusters")] == names
    assert await operator.codes() == set()
    # 2. a backup while it serves, and one of a cluster's identity
    assert (await operator.ok("backup", str(registry)))["kind"] == "registry"
    assert "secret-identity.json" in (await operator.ok("backup", str(cluster), "--cluster", names[0]))["files"]
    # 3. the disk is lost: a registry with another CA takes its place, whom nobody believes
    node = (await clusters.harness.wanted())[home].nodes[-1]
    await engine.execute(node, "sh", "-c", f"rm -rf {DISK}/*")
    await restart(clusters)
    await operator.ok("registry", "use", *await operator.place(home))
    assert await operator.ok("get", "clusters") == []
    # 4. restored, it is the one that all agents know
    await operator.ok("restore", str(registry))
    await until(lambda: operator.finds("store_restored"), seconds=START)
    assert len(await operator.ok("get", "links")) == len(clusters.topology.links)
    # 5. it says so until it is started again
    await restart(clusters)
    await until(operator.finds, seconds=START)


async def restart(clusters: Clusters) -> None:
    """The registry's pod is deleted; returns when the next one is ready."""
    async with clusters.connect(clusters.topology.home) as client:
        before = (await client.get("v1", "Pod", POD, SYSTEM_NAMESPACE))["metadata"]["uid"]
        await client.delete("v1", "Pod", POD, SYSTEM_NAMESPACE)

        async def ready() -> bool:
            found = await client.list("v1", "Pod", SYSTEM_NAMESPACE)
            return any(
                pod["metadata"]["name"] == POD
                and pod["metadata"]["uid"] != before
                and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
                for pod in found
            )

        await until(ready, seconds=START)
