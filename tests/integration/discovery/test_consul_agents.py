"""Two processes of one agent that writes imports to a real Consul: the one that leads is killed, then stands still."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from clusters.network import free_port
from clusters.processes import copy_state
from clusters.program import Program, events
from clusters.waiting import START
from discovery.client import AgentClient
from federation.errors import IsthmusError

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
NODE = "isthmus-dc1"
TAKEOVER = 2 * START
"""A lock whose holder says nothing is free after 10 to 20 s, and a second."""


class Agent:
    """One process of dc1's agent, with a state folder of its own."""

    def __init__(self, name: str, state: Path, consul: dict[str, Any]) -> None:
        self.name, self.state = name, state
        settings = state / "settings.yaml"
        tree = yaml.safe_load(settings.read_text())
        tree.pop("files", None)
        tree |= {
            "consul": consul,
            "listen": f"127.0.0.1:{free_port()}",
            "metrics": f"127.0.0.1:{free_port()}",
            "log": {"level": "debug", "json": True},
            "save": 0.05,
        }
        settings.write_text(yaml.safe_dump(tree))
        self.log = state.parent / f"{name}.log"
        self.program = Program(name, [sys.executable, "-m", "discovery", "--settings", str(settings)], self.log)

    async def ready(self) -> bool:
        port = yaml.safe_load((self.state / "settings.yaml").read_text())["metrics"]
        with contextlib.suppress(OSError, ValueError, urllib.error.HTTPError):
            await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{port}/readyz", timeout=2).close())
            return True
        return not self.program.alive

    async def codes(self) -> set[str]:
        with contextlib.suppress(IsthmusError):
            async with AgentClient.open(self.state) as client:
                return {p.code for p in (await client.status()).problems}
        return set()

    async def stands_by(self) -> bool:
        return "consul_standby" in await self.codes()

    def events(self) -> list[dict[str, Any]]:
        return events(self.log)


class World:
    """East offers services to dc1, whose agent has two processes, each with a stream of the gateway."""

    def __init__(self, datacenter: Any) -> None:
        self.datacenter = datacenter
        self.dips: list[str] = []

    async def where(self, service: str) -> list[str]:
        """What is passing, as Consul's DNS has it."""
        async with self.datacenter.connect() as client:
            found = await client.get(f"/v1/health/service/{service}", passing="")
        return sorted(one["Service"]["Address"] for one in found)

    async def written(self) -> dict[str, int]:
        """What is under our node, and at which index each was last written."""
        async with self.datacenter.connect() as client:
            found = await client.get(f"/v1/catalog/node-services/{NODE}")
        return {one["ID"]: one["ModifyIndex"] for one in found["Services"]}

    async def watch(self, service: str) -> None:
        while True:
            if not await self.where(service):
                self.dips.append(f"{service} is not callable")
            await asyncio.sleep(0.1)


@pytest.fixture
async def agents() -> AsyncIterator[list[Agent]]:
    made: list[Agent] = []
    yield made
    for one in made:
        with contextlib.suppress(IsthmusError):
            one.program.resume()
        one.program.end()


async def test_a_writer_that_is_killed_is_followed_and_one_that_stood_still_writes_nothing_stale(
    federation: Any,
    start_consul: Any,
    connect: Any,
    gateway: Any,
    manifest: Any,
    until: Until,
    agents: list[Agent],
    tmp_path: Path,
) -> None:
    """1. one leads and writes, the other stands by  2. kill -9: the other writes what changes  3. that one is stopped,
    and the first leads again  4. it goes on, and not one of its writes is done"""
    (datacenter,) = await start_consul("dc1")
    world = World(datacenter)
    consul = {
        "address": datacenter.url(),
        "datacenters": {"dc1": "shop"},
        "lock_ttl": 10,
        "write": {"enabled": True, "ttl": 20},
    }
    east = await federation.cluster("east", start=False)
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    await east.start()
    home = await federation.cluster("dc1", start=False)
    one = Agent("one", home.state, consul)
    agents.append(one)
    one.program.start()
    await until(one.ready, seconds=START)
    await federation.link("east", "dc1")
    async with contextlib.AsyncExitStack() as stack:
        here = gateway("10.1.0.1", name="gw-1")
        await stack.enter_async_context(connect(home, "isthmus-system/gateway", presence=here))
        await until(lambda: world.where("echo"), seconds=START)

        copied = tmp_path / "two" / "state"
        copy_state(home.state, copied)
        two = Agent("two", copied, consul)
        agents.append(two)
        two.program.start()
        await until(two.ready, seconds=START)
        await stack.enter_async_context(connect(SimpleNamespace(state=copied), "isthmus-system/gateway", presence=here))
        await until(two.stands_by)

        watching = asyncio.create_task(world.watch("echo"), name="watch")
        one.program.kill()
        east.write("late.yaml", manifest("late", "127.0.0.1"))
        await until(lambda: world.where("late"), seconds=TAKEOVER)
        one.program.start()
        await until(one.ready, seconds=START)
        await until(one.stands_by)

        two.program.pause()
        (east.folder / "late.yaml").unlink()
        east.write("newer.yaml", manifest("newer", "127.0.0.1"))
        await until(lambda: world.where("newer"), seconds=TAKEOVER)

        async def late_is_gone() -> bool:
            return not [id_ for id_ in await world.written() if ":late:" in id_]

        await until(late_is_gone, seconds=TAKEOVER)
        before, stood = await world.written(), len(two.events())
        two.program.resume()
        await until(two.stands_by)
        assert await world.written() == before
        assert not [e for e in two.events()[stood:] if e["event"] == "wrote"]
        east.write("last.yaml", manifest("last", "127.0.0.1"))
        await until(lambda: world.where("last"))
        after = await world.written()
        assert {id_: after[id_] for id_ in before} == before
        watching.cancel()
        assert not world.dips
