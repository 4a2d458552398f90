"""The story of a cluster that is lost: its machines stand still in the midst of requests, and the other one goes on.

A pod of east without a sidecar calls a service of both clusters: by its ClusterSetIP, to the gateway of east, and on.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from clusters.kind.calls import failed
from clusters.kind.operator import Operator
from clusters.kind.shop import PODS, Shop
from clusters.pytest_plugin import Clusters
from clusters.waiting import START, until
from federation.errors import Unavailable

pytestmark = [pytest.mark.e2e, pytest.mark.clusters("two-kind", installed=True)]

EAST, WEST = "east", "west"
SILENT = 60.0
"""Seconds that a peer may be taken for a live one while it stands still; a caller waits longer."""


async def test_copies_go_and_a_whole_cluster_stands_still(
    clusters: Clusters, shop: Shop, operator: Operator, record_property: pytest.RecordProperty
) -> None:
    await operator.serve_names(EAST)
    await asyncio.gather(*(shop.offer(cluster, "echo") for cluster in (WEST, EAST)))
    async with shop.calling(EAST, shop.clusterset("echo"), timeout=SILENT + 30) as calls:
        # 1. the nearest copy answers
        await calls.answered_by(EAST)
        steady = time.monotonic()
        # 2. east's own copies go, in an orderly way: west answers, and no request fails
        await shop.scale(EAST, "echo", 0)
        await calls.answered_by(WEST)
        await shop.scaled(EAST, "echo", 0)
        # 3. they are back: east answers itself
        await shop.offer(EAST, "echo")
        await calls.answered_by(EAST)
        assert failed(await calls.since(steady)) == []
        # 4. the machines of west stand still: calls of east go on, and the status tells it
        paused = time.monotonic()
        await clusters.faults.pause(WEST)
        await calls.answered_by(EAST)
        await until(lambda: _told(operator, "agent_unreachable", WEST), seconds=PODS, what="the truth about west")
        await calls.answered_by(EAST)
        assert failed(await calls.since(paused)) == []
        # 5. west goes on where it stood, and all is whole
        await clusters.faults.heal()
        await until(operator.finds, seconds=PODS, what="a whole federation")
        # 6. west answers for both, and stands still with requests under way: they are sent anew to a copy of east
        await shop.scale(EAST, "echo", 0)
        await calls.answered_by(WEST)
        await shop.scaled(EAST, "echo", 0)
        lost = time.monotonic()
        await clusters.faults.pause(WEST)
        await shop.offer(EAST, "echo")
        await calls.answered_by(EAST, seconds=SILENT + START)
        back = time.monotonic()
        await clusters.faults.heal()
        await until(operator.finds, seconds=PODS, what="a whole federation")
        # 7. everything returns, the calls to west too
        await shop.scale(EAST, "echo", 0)
        await calls.answered_by(WEST)
        sent = await calls.since(lost)
        slowest = max(one.end - one.begin for one in sent)
        record_property("seconds_until_east_answered_again", round(back - lost, 1))
        record_property("slowest_request_seconds", round(slowest, 1))
        print(f"{len(sent)} requests around the pause, {len(failed(sent))} failed, the slowest took {slowest:.1f} s")
        assert failed(sent) == []


async def _told(operator: Operator, code: str, subject: str) -> bool:
    try:
        return any((one["code"], one["subject"]) == (code, subject) for one in await operator.status())
    except Unavailable:
        return False
