"""One agent that reads a large datacenter which changes all the time: what it costs, and whether it missed anything.

There is a registry, to which it reports, and nobody else; every service is exported.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from clusters.consulchurn import Churn, Seen, imported
from clusters.consulclient import ConsulClient
from clusters.consulground import EXPORT, WithConsul
from clusters.ground import Folders
from clusters.processes import NAMESPACE, ProcessFederation
from clusters.topology import ClusterSpec, Topology
from clusters.usage import cpu, resident
from clusters.waiting import START, until
from discovery.client import AgentClient
from federation.errors import Unavailable
from federation.model import wire
from federation.model.service import Locality

NAME = "dc1"
META = {**EXPORT, "isthmus-protocol": "http", "isthmus-service-port": "80"}
"""What every instance says of itself."""
SETTLING = 240.0
"""Seconds after which nobody believes any more that a change will be seen."""
_INTERVAL = 10.0
"""Seconds over which Consul counts (`/v1/agent/metrics`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endured:
    """What changes cost the agent: shares of one core, bytes, seconds."""

    changes: int
    seconds: float
    core: float
    before: int
    peak: int
    after: int
    settled: float
    """From the last change to the moment at which the agent has them all."""


class Endurance:
    """The agent, and the datacenter that it reads; see `endurance`."""

    def __init__(self, federation: ProcessFederation, client: ConsulClient, churn: Churn) -> None:
        self.federation, self.client, self.churn = federation, client, churn

    @property
    def pid(self) -> int:
        """Of the agent."""
        running = self.federation.running[f"{NAME}-agent"]
        if running.process is None or not running.alive:
            raise Unavailable(f"{running.name} does not run", hint=f"see {running.log}")
        return running.process.pid

    async def seen(self) -> Seen:
        """What the agent has of its own cluster."""
        async with AgentClient.open(self.federation.places[NAME].agent) as agent:
            return imported(map(wire.import_from_pb, await agent.imports()), NAME)

    async def settled(self, *, timeout: float = SETTLING) -> float:
        """Wait until the agent has what is there; how long that took (s). Raises TimedOut."""
        began, expected = time.monotonic(), self.churn.expected()

        async def same() -> bool:
            if await self.seen() == expected:
                return True
            await asyncio.sleep(0.5)  # to ask costs the agent time, which is measured
            return False

        await until(same, seconds=timeout, what="an agent that has missed nothing")
        return time.monotonic() - began

    async def endure(self, *, rate: float, seconds: float) -> Endured:
        """Changes at `rate` a second, and what they cost."""
        before, worked, began = resident(self.pid), cpu(self.pid), time.monotonic()
        peak = before

        async def look() -> None:
            nonlocal peak
            while True:
                peak = max(peak, resident(self.pid))
                await asyncio.sleep(0.25)

        looking = asyncio.create_task(look(), name="look")
        try:
            changes = await self.churn.run(self.client, rate=rate, seconds=seconds)
        finally:
            looking.cancel()
        took, used = time.monotonic() - began, cpu(self.pid) - worked
        settled = await self.settled()
        return Endured(
            changes=changes,
            seconds=took,
            core=used / took,
            before=before,
            peak=max(peak, resident(self.pid)),
            after=resident(self.pid),
            settled=settled,
        )

    async def requests(self, *, seconds: float) -> tuple[Counter[str], float]:
        """What Consul itself counts of requests to its API, by path, and over how many seconds."""
        found: Counter[str] = Counter()
        counted: set[str] = set()
        deadline = time.monotonic() + seconds + _INTERVAL
        while time.monotonic() < deadline:
            told = await self.client.get("/v1/agent/metrics")
            if told["Timestamp"] not in counted:
                counted.add(told["Timestamp"])
                if len(counted) > 1:  # the first may have begun before
                    for sample in told["Samples"]:
                        if sample["Name"].endswith("api.http"):
                            found[sample["Labels"]["path"]] += sample["Count"]
            await asyncio.sleep(1)
        found.pop("v1_agent_metrics", None)
        return found, _INTERVAL * (len(counted) - 1)


@asynccontextmanager
async def endurance(directory: Path, churn: Churn) -> AsyncIterator[Endurance]:
    """A registry, and a datacenter that is filled; `start` lets an agent read it."""
    spec = ClusterSpec(name=NAME, locality=Locality("eu", "eu-1"), offers=(), consul=True)
    topology = Topology.full_mesh("bench.isthmus", spec)
    folders = Folders(lambda cluster: federation.places[cluster].manifests)
    ground = WithConsul(folders, directory / "consul", [NAME], namespace=NAMESPACE)
    federation = ProcessFederation(topology, directory, ground=ground)
    try:
        federation.init_registry()
        federation.start_registry()
        await ground.start()
        async with ground.datacenters[NAME].connect() as client:
            await churn.fill(client)
            await federation.wait_ready("registry")
            await federation.join(NAME)
            yield Endurance(federation, client, churn)
    finally:
        await asyncio.to_thread(federation.stop)


async def start(one: Endurance) -> float:
    """Start the agent; the seconds after which it has all that is there. Raises Unavailable, TimedOut."""
    began = time.monotonic()
    one.federation.start_agent(NAME)
    await one.federation.wait_ready(f"{NAME}-agent", timeout=START)
    await one.settled(timeout=START)
    return time.monotonic() - began
