"""What reading a Consul datacenter costs: requests while nothing changes, memory and CPU while much does.

The catalog has `--services` services with `--instances` instances, all exported; a real agent reads them and reports to
a registry. First nothing changes, and Consul's own counters say what it was asked; then `--rate` changes a second are
made, and in the end the agent must have exactly what is there. Budgets, with 5,000 services and 20,000 instances: less
than 1 request a second for each watch, 300 MB, 25 % of a core at 50 changes a second.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from pathlib import Path
from typing import Any

from clusters.consulchurn import Churn
from clusters.consulendurance import META, endurance, start
from clusters.usage import cpu, resident
from discovery.consul.settings import BOARD, ConsulSettings


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--services", type=int, default=5000)
    parser.add_argument("--instances", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=50.0, help="changes a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="of changes; 300 for the full figure")
    parser.add_argument("--away", type=float, default=1.0, help="%% of the instances that fail, or are gone, at most")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds in which nothing changes")


def run(parsed: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table, return the figures."""
    figures = asyncio.run(_measure(parsed))
    print(f"{parsed.services} services, all exported, {parsed.instances} instances; one agent, one server of Consul")
    for what, key, unit, budget in (
        ("start of the agent to all that is there", "start_s", "s", ""),
        ("  CPU of that", "start_cpu_s", "s", ""),
        ("idle: requests to Consul, each second", "idle_requests", "/s", ""),
        ("  for each watch", "idle_requests_per_watch", "/s", "< 1"),
        ("  CPU", "idle_core", "% of a core", ""),
        ("memory before the changes", "before_mb", "MB", "300"),
        ("changes", "changes", "", ""),
        ("  each second", "rate", "/s", ""),
        ("  CPU meanwhile", "core", "% of a core", "25"),
        ("  memory, highest", "peak_mb", "MB", "300"),
        ("  memory afterwards", "after_mb", "MB", "300"),
        ("  last change to the agent having all", "settled_s", "s", ""),
    ):
        print(f"  {what:<45} {figures[key]:>9.2f} {unit:<12} {budget and 'budget ' + budget}")
    print("  requests while nothing changes, by path:", figures["idle_paths"])
    return figures


async def _measure(parsed: argparse.Namespace) -> dict[str, Any]:
    churn = Churn(
        random.Random(1),
        services=parsed.services,
        instances=parsed.instances,
        away=parsed.away / 100,
        meta=META,
    )
    with tempfile.TemporaryDirectory(prefix="isthmus-") as directory:
        async with endurance(Path(directory), churn) as one:
            started = await start(one)
            start_cpu = cpu(one.pid)
            # What a start leaves to be done is done, and no keep-alive of ours is counted.
            await asyncio.sleep(5)
            before = cpu(one.pid)
            paths, seconds = await one.requests(seconds=parsed.idle)
            idle, requests = cpu(one.pid) - before, sum(paths.values())
            idle_rss = resident(one.pid)
            endured = await one.endure(rate=parsed.rate, seconds=parsed.seconds)
    settings = ConsulSettings(datacenters={"dc1": "shop"})
    watches = min(parsed.services, settings.watches) + BOARD
    return {
        "services": parsed.services,
        "instances": parsed.instances,
        "start_s": started,
        "start_cpu_s": start_cpu,
        "idle_seconds": seconds,
        "idle_requests": requests / seconds,
        "idle_requests_per_watch": requests / seconds / watches,
        "idle_core": 100 * idle / (seconds or 1),
        "idle_paths": dict(paths),
        "watches": watches,
        "before_mb": idle_rss / 1e6,
        "changes": endured.changes,
        "seconds": endured.seconds,
        "rate": endured.changes / endured.seconds,
        "core": 100 * endured.core,
        "peak_mb": endured.peak / 1e6,
        "after_mb": endured.after / 1e6,
        "settled_s": endured.settled,
    }
