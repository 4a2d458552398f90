"""Churn on two real clusters, round after round, each of which ends as it began: nothing may grow.

`pytest -m soak` runs a minute of it, `pytest -m soak --soak-seconds 600` ten.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import statistics
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from clusters import manifests
from clusters.ground import ApiServers
from clusters.processes import HTTP_PORT, NAMESPACE, ProcessFederation, children
from clusters.waiting import until
from federation.errors import NotFound

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

MCS = "multicluster.x-k8s.io/v1beta1"
NAMES = tuple(f"churn-{number}" for number in range(20))
WARM = 0.4
"""The share of the time after which nothing may grow any more: caches, pools and arenas are full then."""


@pytest.fixture(scope="module")
def federation(kube_federation: ProcessFederation) -> ProcessFederation:
    return kube_federation


class Churn:
    """Changes of `cluster`'s services, and their return to what they were."""

    def __init__(self, federation: ProcessFederation, cluster: str, client: Any, rng: random.Random) -> None:
        self.place, self.client, self.rng = federation.places[cluster], client, rng

    def objects(self, name: str, copies: int) -> list[dict[str, object]]:
        net, port, zone = self.place.address.rsplit(".", 1)[0], self.place.http_port, self.place.spec.locality.zone
        listed = [manifests.Copy(address=f"{net}.{n}", port=port, zone=zone) for n in range(200, 200 + copies)]
        return [
            manifests.service(NAMESPACE, name, port=HTTP_PORT, app="http"),
            manifests.slice_(NAMESPACE, name, app="http", copies=listed),
            manifests.export(NAMESPACE, name),
        ]

    async def step(self) -> None:
        """One change: other endpoints, an export or a Service that ends."""
        name, what = self.rng.choice(NAMES), self.rng.random()
        if what < 0.7:
            await self.client.apply(self.objects(name, self.rng.randrange(5))[1])
        else:
            with contextlib.suppress(NotFound):
                await self.client.delete(
                    *((MCS, "ServiceExport") if what < 0.85 else ("v1", "Service")), name, NAMESPACE
                )

    async def restore(self) -> None:
        for name in NAMES:
            await self.client.apply(*self.objects(name, 1))


async def test_nothing_grows_under_churn(running: ProcessFederation, east: Any, request: pytest.FixtureRequest):
    seconds, rng = request.config.getoption("--soak-seconds"), random.Random(1)
    ground = running.ground
    assert isinstance(ground, ApiServers)
    measured: list[tuple[float, dict[str, dict[str, float]]]] = []
    async with contextlib.AsyncExitStack() as stack:
        clients = {n: await stack.enter_async_context(c.connect()) for n, c in ground.clusters.items()}
        churns = [Churn(running, name, client, rng) for name, client in clients.items()]
        began, failed = time.monotonic(), 0
        while time.monotonic() < began + seconds or len(measured) < 3:
            for _ in range(100):
                await rng.choice(churns).step()
                name = f"{rng.choice(NAMES)}.{NAMESPACE}.global"
                with contextlib.suppress(ValueError):  # it may not exist at this moment
                    await asyncio.to_thread(east.address, name)
                if rng.random() < 0.2:
                    failed += await asyncio.to_thread(east.get, f"echo.{NAMESPACE}.global") != "east"
            await asyncio.gather(*(churn.restore() for churn in churns))
            for client in clients.values():
                await until(lambda client=client: whole(client), seconds=90, what="every import of both clusters")
            measured.append((time.monotonic() - began, await asyncio.to_thread(census, running)))
    assert not failed
    after = [found for moment, found in measured if moment >= WARM * measured[-1][0]]
    assert not (grown := growth(after)), grown
    for log in (running.directory / "logs").iterdir():
        assert "Traceback" not in log.read_text(errors="replace"), log


def growth(after: list[dict[str, dict[str, float]]]) -> list[str]:
    """What has grown from the first half of the rounds to the second, with its values by round.

    Medians: pools of connections breathe, and a census now and then finds one of them full or empty.
    """
    half, found = (len(after) + 1) // 2, []
    for process in after[-1]:
        for what, few in (("fds", 8), ("threads", 8), ("tasks", 8), ("rss", 6 << 20)):
            series = [one[process].get(what, 0.0) for one in after]
            before, now = statistics.median(series[:half]), statistics.median(series[-half:])
            if now > before * (1.1 if what == "rss" else 1) + few:
                found.append(f"{what} of {process} by round: {series}")
    return found


async def whole(client: Any) -> bool:
    """Whether every name is imported from both clusters, with its address."""
    found = {one["metadata"]["name"]: one for one in await client.list(MCS, "ServiceImport", NAMESPACE)}
    return all(
        name in found and found[name]["spec"].get("ips") and len(found[name].get("status", {}).get("clusters", ())) == 2
        for name in NAMES
    )


def census(federation: ProcessFederation) -> dict[str, dict[str, float]]:
    """Bytes of memory, descriptors, threads and tasks of each process and its Envoy."""
    found = {}
    for name, one in federation.running.items():
        assert one.process is not None
        for pid in (one.process.pid, *children(one.process.pid)):
            proc = Path(f"/proc/{pid}")
            kind = name if pid == one.process.pid else f"{name} {(proc / 'comm').read_text().strip()}"
            found[kind] = {
                "rss": float(int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")),
                "fds": float(len(list((proc / "fd").iterdir()))),
                "threads": float(len(list((proc / "task").iterdir()))),
            }
        if name.endswith("-agent"):
            port = federation.places[name.removesuffix("-agent")].metrics["agent"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=15) as reply:
                lines = reply.read().decode().splitlines()
            found[name]["tasks"] = next(float(x.split()[1]) for x in lines if x.startswith("isthmus_agent_tasks "))
    return found
