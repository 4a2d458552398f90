"""A cluster in Consul that imports from another one: what its agent writes, does not read again, and takes along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from discovery.consul.imports.settings import WriteSettings
from discovery.consul.settings import ConsulSettings
from discovery.departure import retire

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
NODE = "isthmus-dc1"
ECHO, ADMIN = "isthmus:shop:echo:80:gw-1", "isthmus:shop:echo:81:gw-1"


class Home:
    """The cluster dc1: its datacenter, its agent, and a gateway at 10.1.0.1 for its VMs."""

    def __init__(self, running: Any, datacenter: Any, ttl: float) -> None:
        self.running, self.datacenter = running, datacenter
        # Everything that carries our own tag is to be exported: of what is written here nothing may be.
        self.settings = ConsulSettings(
            address=datacenter.url(),
            datacenters={"dc1": "shop"},
            tag="isthmus",
            lock_ttl=10.0,
            write=WriteSettings(enabled=True, ttl=ttl),
        )

    async def start(self) -> None:
        await self.running.start(files=None, consul=self.settings)

    async def where(self, service: str) -> list[tuple[str, int]]:
        """What is passing, as Consul's DNS has it."""
        async with self.datacenter.connect() as client:
            found = await client.get(f"/v1/health/service/{service}", passing="")
        return sorted((one["Service"]["Address"], one["Service"]["Port"]) for one in found)

    async def sessions(self) -> list[Any]:
        """By which our node lives."""
        async with self.datacenter.connect() as client:
            found: list[Any] = await client.get(f"/v1/session/node/{NODE}")
        return found

    async def node(self) -> set[str]:
        """The ids of what is registered under our node."""
        async with self.datacenter.connect() as client:
            found = await client.get(f"/v1/catalog/node-services/{NODE}")
        return {one["ID"] for one in found["Services"] or ()} if found and found["Node"] else set()


@pytest.fixture
def ttl() -> float:
    """Seconds: nothing turns critical by itself while a test lasts."""
    return 60.0


@pytest.fixture
async def home(
    federation: Any, start_consul: Any, connect: Any, gateway: Any, manifest: Any, ttl: float
) -> AsyncIterator[Home]:
    (datacenter,) = await start_consul("dc1")
    made = Home(await federation.cluster("dc1", start=False), datacenter, ttl)
    east = await federation.cluster("east", start=False)
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    await east.start()
    await made.start()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            connect(made.running, "isthmus-system/gateway", presence=gateway("10.1.0.1", name="gw-1"))
        )
        await federation.link("east", "dc1")
        yield made


async def test_imports_are_written_and_not_read_again(home: Home, federation: Any, manifest: Any, until: Until) -> None:
    east, agent = federation.agents["east"], home.running.agent
    await until(lambda: home.where("echo"))
    imported = agent.view.imports[next(iter(agent.view.imports))]
    assert await home.where("echo") == [("10.1.0.1", imported.gateway_ports[80])]
    await until(lambda: home.where("echo-admin"))
    assert await home.where("echo-admin") == [("10.1.0.1", imported.gateway_ports[81])]
    assert imported.aliases[:2] == ("echo.service.consul", "echo.service.dc1.consul")
    record = home.running.seen("shop/echo")
    assert record is not None
    assert record.aliases == imported.aliases

    async with home.datacenter.connect() as client:
        await client.register("own", port=80, Tags=["isthmus"], Address="127.0.0.9")
    await until(lambda: "own" in {name.name for name in agent.source.state.value.exports})
    assert {name.name for name in agent.source.state.value.exports} == {"own"}
    assert home.running.codes() == set()

    east.write("echo.yaml", manifest("echo"))  # no endpoint left
    await until(lambda: nothing(home, "echo"))
    assert await home.node() == {ECHO, ADMIN}
    (east.folder / "echo.yaml").unlink()
    await until(lambda: empty(home), seconds=40)


async def nothing(home: Home, service: str) -> bool:
    return await home.where(service) == []


async def empty(home: Home) -> bool:
    return await home.node() == set()


@pytest.mark.parametrize("ttl", [2.0])
async def test_an_agent_that_ends_and_begins_again(home: Home, until: Until) -> None:
    await until(lambda: home.where("echo"))
    await until(lambda: home.where("echo-admin"))
    await home.running.stop()
    found = await home.where("echo")
    assert found or not await home.sessions(), "a restart costs nobody anything"
    await until(lambda: nothing(home, "echo"))  # after twice the TTL of 2 s
    assert await home.node() == {ECHO, ADMIN}
    await home.start()
    await until(lambda: home.where("echo"))


async def test_a_cluster_that_leaves_takes_all_of_it_along(home: Home, federation: Any, until: Until) -> None:
    await until(lambda: home.where("echo"))
    settings = home.running.agent.settings
    async with federation.operator() as registry:
        await registry.leave("dc1")
    await retire(settings)

    async def gone() -> bool:
        async with home.datacenter.connect() as client:
            return NODE not in {one["Node"] for one in await client.get("/v1/catalog/nodes")}

    await until(gone)
    await until(lambda: not home.running.agent.membership.lasts)
    await asyncio.sleep(0.5)  # proves an absence: the agent runs on, and writes nothing again
    await until(gone)


async def test_a_stopped_agents_cluster_leaves_by_command(home: Home, federation: Any, until: Until) -> None:
    await until(lambda: home.where("echo"))
    settings = home.running.agent.settings
    await home.running.stop()
    ours = (f"Consul dc1: echo ({ECHO})", f"Consul dc1: echo-admin ({ADMIN})", f"Consul dc1: node {NODE}")
    assert (await retire(settings, dry_run=True)).removed == ours
    assert await home.node() == {ECHO, ADMIN}
    assert (await retire(settings)).removed == ours
    assert await home.node() == set()
