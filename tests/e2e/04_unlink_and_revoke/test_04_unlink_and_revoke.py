"""The story of two clusters that part: a link is cut and made again; then one of them is put out of the federation.

A pod of east without a sidecar calls a service of west all the while.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from clusters.kind.calls import failed
from clusters.kind.operator import Operator
from clusters.kind.shop import PODS, Shop
from clusters.pytest_plugin import Clusters
from clusters.waiting import START, until
from federation.model.ids import SYSTEM_NAMESPACE

pytestmark = [pytest.mark.e2e, pytest.mark.clusters("two-kind", installed=True)]

EAST, WEST = "east", "west"


@pytest.fixture
async def whole(clusters: Clusters, operator: Operator) -> AsyncIterator[None]:
    """Whatever comes of the story, west is a member again after it."""
    yield
    await operator("cluster", "leave", WEST, *await operator.place(WEST), seconds=PODS)  # a member gets no token
    await operator("uninstall", "all", *await operator.place(WEST), "--purge", seconds=PODS)
    async with clusters.connect(WEST) as client:
        await client.gone("v1", "Namespace", SYSTEM_NAMESPACE, timeout=PODS)
    await clusters.harness.install()


@pytest.mark.usefixtures("whole")
async def test_unlinked_linked_again_and_put_out(
    shop: Shop, operator: Operator, record_property: pytest.RecordProperty
) -> None:
    await operator.serve_names(EAST)
    await shop.offer(WEST, "echo")
    async with shop.calling(EAST, shop.clusterset("echo"), timeout=20.0) as calls:
        await calls.answered_by(WEST)
        # 1. unlinked: calls end, the import is gone, and whoever asks for the name is told why
        cut = time.monotonic()
        await operator.ok("unlink", EAST, WEST)
        await calls.refused()  # so many in so little time: none of them hangs until its client gives it up
        await shop.imported(EAST, "echo", wanted=False)
        first = next(one for one in await calls.since(cut) if one.error)
        record_property("seconds_until_a_call_is_refused", round(first.end - cut, 2))
        error = await operator.refused("resolve", shop.clusterset("echo"), "--from", EAST)
        assert error["code"] == "not_found"
        assert "not exported by this cluster or any that it is linked to" in error["message"]
        assert await operator.ok("get", "links") == []
        # 2. linked again: the same service is called
        await operator.ok("link", EAST, WEST)
        await shop.imported(EAST, "echo")
        again = await calls.answered_by(WEST)
        assert failed(again[-20:]) == []
        # 3. west is put out: it is no member, its agent says so and writes nothing more, nothing of it is left in east
        await operator.ok("cluster", "leave", WEST, *await operator.place(WEST), seconds=PODS)
        await calls.refused()
        await shop.imported(EAST, "echo", wanted=False)
        assert [one["name"] for one in await operator.ok("get", "clusters")] == [EAST]
        await until(lambda: _agent_says(shop, "has left the federation"), seconds=START, what="what its agent says")
        # 4. east is well without it
        await until(operator.finds, seconds=START, what="a whole federation of one")
        # 5. who was put out cannot be linked; it would have to join again, with a token
        assert (await operator.refused("link", EAST, WEST))["hint"]


async def _agent_says(shop: Shop, text: str) -> bool:
    async with shop.connect(WEST) as client:
        pods = await client.list("v1", "Pod", SYSTEM_NAMESPACE, labelSelector="app.kubernetes.io/component=agent")
        for pod in pods:
            path = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/pods/{pod['metadata']['name']}/log"
            if text in str(await client.request("GET", path)):
                return True
    return False
