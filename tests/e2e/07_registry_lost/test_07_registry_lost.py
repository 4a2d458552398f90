"""The story of a registry whose pod and volume are lost, and come back from a backup, while pods call all the while.

Nothing that works depends on the registry: requests are counted from before the loss until after the repair.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clusters.kind.operator import Operator
from clusters.kind.shop import MCS, Shop
from clusters.kubeclient import KubeClient
from clusters.pytest_plugin import Clusters
from clusters.waiting import START, until
from federation.errors import NotFound
from federation.model.ids import SYSTEM_NAMESPACE

pytestmark = [pytest.mark.e2e, pytest.mark.clusters("nat-kind", installed=True)]

HOME, AWAY = "east", "edge"
POD, CLAIM = "isthmus-registry-0", "state-isthmus-registry-0"
LONG = 4 * START
"""Seconds for what takes several calls of fedctl, each of which asks pods."""


async def test_the_registry_is_lost_and_restored(
    clusters: Clusters, shop: Shop, operator: Operator, tmp_path: Path
) -> None:
    home, backup = clusters.topology.home, tmp_path / "registry.tar"
    async with clusters.connect(home) as client:
        # 1. a service beside the registry is called from another cluster; somebody makes a backup
        await operator.serve_names(AWAY)
        await shop.offer(HOME, "echo")
        async with shop.calling(AWAY, shop.name("echo"), way="redirect") as calls:
            await calls.answered_by(HOME)
            await until(operator.finds, seconds=LONG, what="a whole federation")
            began = time.monotonic()
            assert (await operator.ok("backup", str(backup)))["kind"] == "registry"

            # 2. the registry's pod and its volume are deleted: all is gone, and calls go on
            await _lose(client)
            await until(lambda: _finds_at_least(operator, "registry_unreachable", "registry_lost"), seconds=LONG)
            await calls.answered_by(HOME)

            # 3. what changes inside a cluster still counts there, and a pod that is new calls, too
            await shop.scale(HOME, "echo", 2)
            async with shop.calling(AWAY, shop.clusterset("echo"), way="gateway") as late:
                await late.answered_by(HOME)

            # 4. a new disk: an empty registry with another CA takes its place. Nobody believes it, nothing is removed
            await clusters.harness.disk(home)
            await client.until(lambda: _ready(client), timeout=LONG, what="the new registry")
            await operator.ok("registry", "use", *await operator.place(home))
            assert await operator.ok("get", "clusters") == []
            await calls.answered_by(HOME)
            async with clusters.connect(AWAY) as away:
                await away.get(MCS, "ServiceImport", "echo", shop.namespace)

            # 5. from the backup it is the one that all know; it says so until it starts again
            await operator.ok("restore", str(backup))
            await until(lambda: operator.finds("store_restored"), seconds=LONG, what="store_restored alone")
            assert len(await operator.ok("get", "links")) == len(clusters.topology.links)
            before = (await client.get("v1", "Pod", POD, SYSTEM_NAMESPACE))["metadata"]["uid"]
            await client.delete("v1", "Pod", POD, SYSTEM_NAMESPACE)
            await client.until(lambda: _ready(client, other_than=before), timeout=LONG, what="the registry")
            await until(operator.finds, seconds=LONG, what="a whole federation")

            # 6. what is new is replicated again: a service that comes, and one that goes
            await shop.offer(HOME, "late")
            async with shop.calling(AWAY, shop.name("late"), way="redirect") as new:
                await new.answered_by(HOME)
            await shop.unexport(HOME, "late")
            async with clusters.connect(AWAY) as away:
                await away.gone(MCS, "ServiceImport", "late", shop.namespace)

            # 7. of all requests since the backup none has failed
            sent = await calls.since(began)
            lost = [o for o in sent if o.error]
            print(f"{len(sent)} requests in {time.monotonic() - began:.0f} s, {len(lost)} failed")
            assert len(sent) > 100
            assert lost == [], lost[:3]


async def _lose(client: KubeClient) -> None:
    """A claim that a pod uses goes when the pod does; the next pod gets a claim that nothing fulfils."""
    before = (await client.get("v1", "PersistentVolumeClaim", CLAIM, SYSTEM_NAMESPACE))["metadata"]["uid"]
    await client.delete("v1", "PersistentVolumeClaim", CLAIM, SYSTEM_NAMESPACE)
    await client.delete("v1", "Pod", POD, SYSTEM_NAMESPACE)

    async def gone() -> bool:
        try:
            claim = await client.get("v1", "PersistentVolumeClaim", CLAIM, SYSTEM_NAMESPACE)
        except NotFound:
            return True
        return bool(claim["metadata"]["uid"] != before)

    await until(gone, seconds=LONG, what="the end of the registry's claim")


async def _ready(client: KubeClient, *, other_than: str = "") -> bool:
    pod = await client.get("v1", "Pod", POD, SYSTEM_NAMESPACE)
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", ())}
    return bool(pod["metadata"]["uid"] != other_than and conditions.get("Ready") == "True")


async def _finds_at_least(operator: Operator, *codes: str) -> bool:
    return set(codes) <= await operator.codes()
