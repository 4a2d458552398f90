"""The story of a cluster behind NAT: it calls the others, nobody calls it, and everybody who looks is told so.

The edge opens connections and takes none from outside. Requests are sent by pods all the while, and counted.
"""

from __future__ import annotations

import pytest

from clusters.kind.calls import Calls
from clusters.kind.operator import Operator
from clusters.kind.shop import Shop
from clusters.waiting import START, until

pytestmark = [pytest.mark.e2e, pytest.mark.clusters("nat-kind", installed=True)]

EAST, EDGE = "east", "edge"
PROMPT = 10.0
"""Seconds that a caller waits; a request that is let hang ends by this, with another error than a refusal."""
LONG = 4 * START
"""Seconds for what takes several calls of fedctl, each of which asks pods."""


async def test_an_edge_behind_nat(shop: Shop, operator: Operator) -> None:
    # 1. nobody reaches the edge, which exports nothing: nothing is wrong with that
    await until(operator.finds, seconds=LONG, what="a whole federation")
    assert [link["state"] for link in await operator.ok("get", "links")] == ["live"]
    assert "error" not in {one["level"] for one in await operator.check()}

    # 2. its pods call what east offers, by a sidecar and by the gateway of the edge
    await operator.serve_names(EDGE)
    await shop.offer(EAST, "echo")
    for cluster in (EAST, EDGE):
        await shop.imported(cluster, "echo")
    async with (
        shop.calling(EDGE, shop.name("echo"), way="redirect") as calls,
        shop.calling(EDGE, shop.clusterset("echo"), way="gateway") as plain,
    ):
        await calls.answered_by(EAST)
        await plain.answered_by(EAST)

        # 3. it exports a service of its own: its owner is told that nobody can call it, wherever they look
        await shop.offer(EDGE, "db")
        await until(lambda: _refused(shop), seconds=LONG, what="the condition NoGateway")
        await until(lambda: operator.finds("no_inbound"), seconds=LONG, what="no_inbound in fedctl status")
        (told,) = [one for one in await operator.check() if "no_inbound" in one["detail"]]
        assert told["level"] == "warning"
        assert "outside" in told["detail"]
        (link,) = await operator.ok("get", "links")
        assert (link["state"], link["detail"]) == ("degraded", "no gateway of edge can be reached from outside")

        # 4. who calls it from outside is refused at once, and does not hang; its own pods call it
        async with (
            shop.calling(EAST, shop.name("db"), way="redirect", timeout=PROMPT) as outside,
            shop.calling(EDGE, shop.name("db"), way="redirect") as inside,
        ):
            await inside.answered_by(EDGE)
            await until(lambda: _count(outside), seconds=START, what="attempts from outside")
            sent = await outside.outcomes()
            assert [o for o in sent if not o.error] == []
            assert [o.error for o in sent if "timed out" in o.error] == []

        # 5. a service of both is answered by east alone for pods of east, by its own copy for pods of the edge
        await shop.offer(EDGE, "echo")
        async with shop.calling(EAST, shop.name("echo"), way="redirect") as outside:
            await outside.answered_by(EAST)
            assert await outside.lost() == []
            assert {o.cluster for o in await outside.outcomes() if not o.error} == {EAST}
        await calls.answered_by(EDGE)

        # 6. its own copies go: its pods are answered by east, and no request is lost
        await shop.unexport(EDGE, "db")
        await shop.unexport(EDGE, "echo")
        await calls.answered_by(EAST)
        assert (await calls.lost(), await plain.lost()) == ([], [])

        # 7. it exports nothing any more: nothing is wrong
        await until(operator.finds, seconds=LONG, what="a whole federation")


async def _refused(shop: Shop) -> bool:
    return (await shop.condition(EDGE, "db", "Ready"))[:2] == ("False", "NoGateway")


async def _count(calls: Calls, number: int = 20) -> bool:
    return len(await calls.outcomes()) >= number
