"""fedctl's way to pods through real kubelets, and the registry's disk lost and restored, on kind clusters.

What needs no kubelet is in tests/integration/pods.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from clusters.command import Done, attempt
from clusters.kind import engine
from clusters.kind.installation import DISK
from clusters.pytest_plugin import Clusters
from clusters.waiting import START, until
from federation.model.ids import SYSTEM_NAMESPACE

pytestmark = pytest.mark.e2e
POD = "isthmus-registry-0"


class Operator:
    """A person with the contexts that the harness has made, and a folder for backups."""

    def __init__(self, clusters: Clusters, folder: Path) -> None:
        self.clusters, self.folder = clusters, folder
        self.home = clusters.topology.home

    async def __call__(self, *words: str) -> Done:
        program = Path(sys.executable).with_name("fedctl")
        home = self.clusters.harness.folder.home
        return await attempt(program, "--home", home, *words, "-o", "json", seconds=START)

    async def ok(self, *words: str) -> Any:
        done = await self(*words)
        assert done.status == 0, (words, done.err)
        return json.loads(done.out)

    async def codes(self) -> set[str]:
        return {f["code"] for f in json.loads((await self("status")).out)["findings"]}

    async def use_registry(self) -> None:
        wants = await self.clusters.harness.wanted()
        place = ("--kubeconfig", str(self.clusters.kubeconfig(self.home)), "--context", wants[self.home].context)
        await self.ok("registry", "use", *place)

    async def lose(self) -> None:
        """The registry's pod and all that is on its disk."""
        node = (await self.clusters.harness.wanted())[self.home].nodes[-1]
        await engine.execute(node, "sh", "-c", f"rm -rf {DISK}/*")
        await self.restart()

    async def restart(self) -> None:
        async with self.clusters.connect(self.home) as client:
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


@pytest.mark.clusters("two-kind", installed=True)
async def test_the_registrys_disk_is_lost_and_restored_from_a_laptop(clusters: Clusters, tmp_path: Path) -> None:
    operator = Operator(clusters, tmp_path)
    names = sorted(clusters.topology.names)
    registry, cluster = tmp_path / "registry.tar", tmp_path / "cluster.tar"
    # 1. everything that fedctl asks of agents and registry goes by their pods
    assert [c["name"] for c in await operator.ok("get", "clusters")] == names
    assert await operator.codes() == set()
    # 2. a backup while it serves, and one of a cluster's identity
    assert (await operator.ok("backup", str(registry)))["kind"] == "registry"
    assert "secret-identity.json" in (await operator.ok("backup", str(cluster), "--cluster", names[0]))["files"]
    # 3. the disk is lost: a registry with another CA takes its place, whom nobody believes
    await operator.lose()
    await operator.use_registry()
    assert await operator.ok("get", "clusters") == []
    # 4. restored, it is the one that all agents know
    await operator.ok("restore", str(registry))
    await until(lambda: _only(operator, "store_restored"), seconds=START)
    assert len(await operator.ok("get", "links")) == len(clusters.topology.links)
    # 5. it says so until it is started again
    await operator.restart()
    await until(lambda: _only(operator), seconds=START)


async def _only(operator: Operator, *codes: str) -> bool:
    return await operator.codes() == set(codes)
