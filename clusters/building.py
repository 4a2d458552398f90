"""Builds a federation of processes the way its operator would: registry, agents that join, gateways, links."""

from __future__ import annotations

import asyncio
import time

from clusters.processes import ProcessFederation
from clusters.progress import Say, silent
from clusters.waiting import START
from federation.cli.link import link_clusters
from federation.cli.status import assess, look
from federation.errors import TimedOut


async def build(federation: ProcessFederation, say: Say = silent, *, timeout: float = START) -> None:
    """Start a registry and every cluster of the topology, join them, and link them; returns when all is whole."""
    names = federation.topology.names
    say("starting the registry and the workloads")
    federation.init_registry()
    federation.start_registry()
    for spec in federation.topology.clusters:
        for kind in dict.fromkeys(offer.app for offer in spec.offers):
            federation.start_workload(spec.name, kind)
    await federation.ground.start()
    await asyncio.gather(*map(federation.write_manifests, names))
    await federation.wait_ready("registry", timeout=timeout)
    say(f"joining {', '.join(names)}")
    for name in names:
        await federation.join(name)
        federation.start_agent(name)
    await federation.wait_ready(*(f"{name}-agent" for name in names), timeout=timeout)
    say("starting a gateway and a sidecar in each cluster")
    for name in names:
        federation.start_gateway(name)
        federation.start_sidecar(name)
    for a, b in federation.topology.links:
        await link_clusters(federation.home, a, b)
    await federation.wait_ready(*federation.running, timeout=timeout)
    say("waiting until every cluster has taken up the links")
    await wait_whole(federation, timeout=timeout)


async def wait_whole(federation: ProcessFederation, *, timeout: float = START) -> None:
    """Wait until `fedctl status` would say that everything is as it should be; raises TimedOut naming what is not."""
    deadline = time.monotonic() + timeout
    while findings := assess(await look(federation.home)):
        if time.monotonic() > deadline:
            raise TimedOut(f"not whole: {findings[0].subject}: {findings[0].detail} [{findings[0].code}]")
        await asyncio.sleep(0.05)
