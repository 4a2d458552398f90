"""Two clusters of kind: how long they take to come up with Isthmus in them, and how long from there to a first answer.

Each round begins with nothing and ends with nothing. The layers of Isthmus's image are made before the first one, and
Docker has the node image; everything else is in the figures: nodes, the image's way into them, registry, agents,
gateways, webhooks, the link. Installed to answered: from the first `fedctl install` in clusters that stand and have
the image, through names (`fedctl install dns`), a service that west exports and a pod of east that nobody touched, to
the end of the first request that west answered.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from clusters.images.builder import Builder
from clusters.images.delivery import bring
from clusters.kind.harness import IMAGE, KindHarness
from clusters.kind.leftovers import prefix, sweep
from clusters.kind.operator import Operator
from clusters.kind.shop import Shop
from clusters.progress import Progress
from clusters.topologyfile import find
from clusters.waiting import until
from federation.errors import IsthmusError

PURPOSE, TOPOLOGY = "bench", "two-kind"
BUDGETS = {"up": 180.0, "answer": 60.0}
"""Seconds."""
NAMES = {
    "ready": "two clusters, from nothing to Ready",
    "image": "the image in all nodes",
    "install": "installed, joined and linked",
    "up": "up: the three together",
    "answer": "from `fedctl install registry` to the first answer",
}
_ANSWER = 300.0


def main(words: list[str]) -> dict[str, Any]:
    """Run with command-line arguments; prints a table, returns the figures."""
    parser = argparse.ArgumentParser(prog="scripts/bench kind", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="each makes two clusters, and removes them")
    parser.add_argument("--image", default=os.environ.get(IMAGE, ""), help=f"of the nodes (default: {IMAGE})")
    options = parser.parse_args(words)
    try:
        rounds = asyncio.run(_rounds(max(1, options.rounds), options.image))
    except IsthmusError as error:
        sys.exit(f"scripts/bench kind: {error}")
    figures = {name: _figure([one[name] for one in rounds], BUDGETS.get(name)) for name in NAMES}
    print(f"rounds: {len(rounds)}; load of the machine in the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, title in NAMES.items():
        row = figures[name]
        spread = f"{row['least']:.1f} to {row['most']:.1f}"
        held = f", budget {row['budget']:.0f} s: {'met' if row['met'] else 'MISSED'}" if "budget" in row else ""
        print(f"  {title:<52} median {row['median']:>6.1f} s ({spread}){held}")
    return {"rounds": rounds, **figures}


def _figure(seconds: list[float], budget: float | None) -> dict[str, Any]:
    median = statistics.median(seconds)
    row = {"median": median, "least": min(seconds), "most": max(seconds), "n": len(seconds)}
    return row if budget is None else {**row, "budget": budget, "met": median <= budget}


async def _rounds(count: int, image: str) -> list[dict[str, float]]:
    say = Progress()
    await asyncio.to_thread(Builder(say=say).image, "isthmus")
    await sweep(PURPOSE, say=say)
    found = []
    for number in range(count):
        with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
            harness = KindHarness(find(TOPOLOGY), image=image, prefix=prefix(PURPOSE), where=Path(folder), say=say)
            say(f"round {number + 1} of {count}")
            try:
                found.append(await _round(harness))
            finally:
                await harness.down()
    return found


async def _round(harness: KindHarness) -> dict[str, float]:
    moments = [time.monotonic()]
    await harness.up()
    moments.append(time.monotonic())
    wants = await harness.wanted()
    await asyncio.gather(*(asyncio.to_thread(bring, [want.name], "isthmus") for want in wants.values()))
    moments.append(time.monotonic())
    await harness.install()
    moments.append(time.monotonic())
    answered = await _answered(harness)
    ready, image, install = (b - a for a, b in itertools.pairwise(moments))
    return {
        "ready": ready,
        "image": image,
        "install": install,
        "up": moments[3] - moments[0],
        "answer": answered - moments[2],
    }


async def _answered(harness: KindHarness) -> float:
    """The moment at which the first request of east that west answers has its answer."""
    shop = Shop(harness, "bench")
    await asyncio.gather(Operator(harness).serve_names("east"), shop.open())
    await shop.offer("west", "echo")
    async with shop.calling("east", shop.clusterset("echo")) as calls:

        async def first() -> float:
            ends = [one.end for one in await calls.outcomes() if one.cluster == "west"]
            if not ends:
                await asyncio.sleep(0.2)
            return min(ends, default=0.0)

        return float(await until(first, seconds=_ANSWER, what="an answer of west"))
