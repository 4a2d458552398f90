"""The story of two clusters with the same pod and service ranges: they call each other, and no address crosses.

Requests are sent by pods all the while, and counted. On one flat network the same ranges are a mistake, which is named.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from clusters.kind.operator import Operator
from clusters.kind.shop import Shop
from clusters.pytest_plugin import Clusters
from clusters.waiting import START, until
from federation.errors import Unavailable

pytestmark = [pytest.mark.e2e, pytest.mark.clusters("two-kind", installed=True)]

EAST, WEST = "east", "west"
OTHER: Mapping[str, str] = {EAST: WEST, WEST: EAST}
NETWORK = "agent.settings.network"
LONG = 4 * START
"""Seconds for what takes several calls of fedctl, each of which asks pods."""


async def test_equal_ranges(clusters: Clusters, shop: Shop, operator: Operator, tmp_path: Path) -> None:
    # 1. the ranges of pods and of services are the same
    wants = await clusters.harness.wanted()
    assert wants[EAST].ranges == wants[WEST].ranges

    # 2. each offers a service of its own, and one that both have
    await operator.serve_names(WEST)
    await asyncio.gather(
        *(shop.offer(cluster, service) for cluster in OTHER for service in (f"only-{cluster}", "both"))
    )
    for cluster, other in OTHER.items():
        for service in (f"only-{other}", "both"):
            await shop.imported(cluster, service)
    there = {cluster: await shop.addresses(cluster, f"only-{cluster}") for cluster in OTHER}

    # 3. each calls the other's, by a sidecar and by its gateway; of what both have, its own
    async with (
        shop.calling(EAST, shop.name("only-west"), way="redirect") as east,
        shop.calling(WEST, shop.clusterset("only-east"), way="gateway") as west,
        shop.calling(EAST, shop.name("both"), way="redirect") as near,
    ):
        await east.answered_by(WEST, number=40)
        await west.answered_by(EAST, number=40)
        await near.answered_by(EAST, number=40)
        assert [await calls.lost() for calls in (east, west, near)] == [[], [], []]

        # 4. what a cluster holds of the other one are numbers of copies by zone, not their addresses
        for cluster, other in OTHER.items():
            service = f"only-{other}"
            rows = await operator.ok("get", "endpoints", "--from", cluster, "--service", f"{shop.namespace}/{service}")
            assert rows
            assert there[other]
            assert not [row for row in rows if there[other] & mentioned(row)]
            led = await shop.imported_addresses(cluster, service)
            assert led
            assert led <= await shop.gateways(cluster)

        # 5. its own copies go, and come back: the other's answer meanwhile
        await shop.scale(EAST, "both", 0)
        await near.answered_by(WEST)
        await shop.scale(EAST, "both", 1)
        await near.answered_by(EAST)

        # 6. somebody says that both are on one flat network: it is named before and after, and calls go on
        contexts = [word for cluster in OTHER for word in ("--context", wants[cluster].context)]
        kubeconfig = merged([clusters.kubeconfig(cluster) for cluster in OTHER], tmp_path / "kubeconfig")
        before = await operator.check("--pre", "--flat", "--kubeconfig", str(kubeconfig), *contexts)
        assert [one["level"] for one in before if one["code"] == "ranges"] == ["error"]
        try:
            await _say_network(operator, "flat")
            await until(lambda: _named(operator), seconds=LONG, what="the same addresses in fedctl status")
            found = [one for one in await operator.check() if one["code"] == "ranges"]
            assert [(one["level"], one["subject"]) for one in found] == [("error", f"{EAST}, {WEST}")]
            await east.answered_by(WEST)
            await west.answered_by(EAST)
        finally:
            await _say_network(operator, '""')

        # 7. it is taken back: nothing is wrong any more, and no request has failed
        await until(operator.finds, seconds=LONG, what="a whole federation")
        assert [one for one in await operator.check() if one["code"] == "ranges"] == []
        sent = sum([len(await calls.outcomes()) for calls in (east, west, near)])
        lost = [await calls.lost() for calls in (east, west, near)]
        print(f"{sent} requests, {sum(map(len, lost))} failed")
        assert lost == [[], [], []]


def mentioned(row: Mapping[str, object]) -> set[str]:
    """Every IPv4 address in a row."""
    return set(re.findall(r"(?<![\d.])\d+(?:\.\d+){3}(?![\d.])", str(row)))


def merged(paths: list[Path], into: Path) -> Path:
    """One kubeconfig of several."""
    trees = [yaml.safe_load(path.read_text()) for path in paths]
    lists = {key: [one for tree in trees for one in tree[key]] for key in ("clusters", "contexts", "users")}
    into.write_text(yaml.safe_dump({**trees[0], **lists}))
    return into


async def _say_network(operator: Operator, network: str) -> None:
    await asyncio.gather(*(_say(operator, cluster, network) for cluster in OTHER))


async def _say(operator: Operator, cluster: str, network: str) -> None:
    place = await operator.place(cluster)
    await operator.ok("install", "agent", *place, "--set", f"{NETWORK}={network}", "--wait", seconds=LONG)


async def _named(operator: Operator) -> bool:
    """The status names the link and the reason, and nothing else."""
    try:
        (found,) = await operator.status()
    except (Unavailable, ValueError):
        return False
    wanted = ("link_not_live", f"{EAST}/{WEST}")
    return (found["code"], found["subject"]) == wanted and "have the same addresses" in found["detail"]
