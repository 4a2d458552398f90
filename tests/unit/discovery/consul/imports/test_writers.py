"""All datacenters of an agent: who writes, when, and when all of it is taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from clusters.waiting import until
from discovery.consul.client import Answer
from discovery.consul.imports.settings import WriteSettings
from discovery.consul.imports.writers import Fenced, Writers
from discovery.consul.settings import ConsulSettings
from discovery.sources.base import SourceState
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.model.cluster import Gateway, Problem

AT = ("10.0.0.1", 10_432)


class Client:
    """ConsulClient of several datacenters."""

    def __init__(self, datacenters: Mapping[str, Any]) -> None:
        self.datacenters = datacenters

    async def read(
        self, path: str, query: Mapping[str, str], datacenter: str, *, what: str, needs: str, index: int, wait: float
    ) -> Answer:
        found: Answer = await self.datacenters[datacenter].get(
            path, query, what=what, needs=needs, index=index, wait=wait
        )
        return found

    async def close(self) -> None:
        self.closed = True

    async def follow_token(self) -> None:
        """It has none."""

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        body: bytes | None,
        what: str,
        needs: str,
        passes: Any,
    ) -> tuple[int, Mapping[str, str], bytes]:
        status, answer = await self.datacenters[query["dc"]].put(path, body or b"", what=what, needs=needs)
        return status, {}, answer


class Lock:
    """The lock of a datacenter, as the test wants it."""

    def __init__(self, fence: Any) -> None:
        self.key, self.session = fence
        self.leader: Latest[int | None] = Latest(1)


class Agent:
    """The writers and all around them."""

    def __init__(self, make: Any, datacenters: Mapping[str, Any], **settings: Any) -> None:
        self.imports: dict[Any, Any] = {}
        self.problems: list[Problem] = []
        self.locks = {name: Lock(make.FENCE) for name in datacenters}
        self.source = Latest(SourceState(complete=True))
        self.tells: list[Callable[[Any], None]] = []
        client: Any = Client(datacenters)
        view: Any = SimpleNamespace(
            imports=self.imports, linked=[], listen=self.tells.append, settled=lambda cluster: True
        )
        self.writers = Writers(
            ConsulSettings(
                datacenters={name: "shop" if name == "dc1" else name for name in datacenters},
                write=WriteSettings(**{"enabled": True, **settings}),
            ),
            client,
            view,
            self.locks,
            cluster="east",
            single_machine=False,
            gateways=Latest({"gw-1": Gateway(name="gw-1", address="10.0.0.1", port=1)}),
            source=self.source,
            on_problems=self._told,
            clock=SystemClock(),
            log=log.get("test"),
        )
        self.task: asyncio.Task[None] | None = None

    def _told(self, found: list[Problem]) -> None:
        self.problems = found

    def put(self, one: Any) -> None:
        self.imports[one.name] = one
        for tell in self.tells:
            tell([one.name])

    def start(self) -> None:
        self.writers.view_known()
        self.task = asyncio.create_task(self.writers.run())


@pytest.fixture
def datacenters(make) -> dict[str, Any]:
    first = make.World().consul
    return {"dc1": first, "dc2": type(first)()}


@pytest.fixture
async def agent(make, datacenters) -> AsyncIterator[Agent]:
    made = Agent(make, datacenters)
    yield made
    await cancel(made.task)


async def test_each_datacenter_has_the_imports_under_its_own_names(agent, datacenters, make):
    agent.put(make.imported())
    agent.start()
    await until(lambda: datacenters["dc1"].resolve("db") == [AT])
    await until(lambda: datacenters["dc2"].resolve("db-shop") == [AT])


async def test_nothing_is_written_before_the_source_was_read(agent, datacenters, make):
    agent.source = agent.writers._source = Latest(SourceState())
    agent.put(make.imported())
    agent.start()
    await asyncio.sleep(0.05)
    assert datacenters["dc1"].nodes == {}
    agent.source.set(SourceState(complete=True))
    await until(lambda: datacenters["dc1"].resolve("db") == [AT])


async def test_problems_of_all_datacenters_are_told_together(agent, datacenters, make):
    datacenters["dc1"].register("vm", "db")
    datacenters["dc2"].register(make.NODE, "theirs")
    agent.put(make.imported())
    agent.start()
    await until(lambda: {p.code for p in agent.problems} == {"import_not_ours", "node_not_ours"})


async def test_a_cluster_that_is_no_member_takes_everything_back(agent, datacenters, make):
    agent.put(make.imported())
    agent.start()
    await until(lambda: datacenters["dc1"].resolve("db") == [AT])
    await until(lambda: datacenters["dc2"].resolve("db-shop") == [AT])
    agent.writers.membership(False)
    await until(lambda: not datacenters["dc1"].nodes and not datacenters["dc2"].nodes)
    agent.put(make.imported(gateway_ports={5432: 12_000}))
    await asyncio.sleep(0.05)
    assert not datacenters["dc1"].nodes
    agent.writers.membership(True)
    await until(lambda: datacenters["dc1"].resolve("db") == [("10.0.0.1", 12_000)])


async def test_an_agent_that_does_not_lead_takes_nothing_back(agent, datacenters, make):
    agent.put(make.imported())
    agent.start()
    await until(lambda: datacenters["dc1"].resolve("db") == [AT])
    agent.locks["dc1"].leader.set(None)
    await until(lambda: not agent.writers.leads("dc1"))
    agent.writers.membership(False)
    await until(lambda: not datacenters["dc2"].nodes)
    assert datacenters["dc1"].resolve("db") == [AT]


async def test_writing_that_was_switched_off_takes_back_what_it_wrote(agent, datacenters, make):
    agent.put(make.imported())
    agent.start()
    await until(lambda: datacenters["dc1"].resolve("db") == [AT])
    await cancel(agent.task)
    datacenters["dc2"].denied = {"db-shop"}
    off = Agent(make, datacenters, enabled=False)
    assert not off.writers.addressed
    off.put(make.imported())
    off.start()
    await until(lambda: not datacenters["dc1"].nodes)
    await asyncio.sleep(0.05)
    assert datacenters["dc2"].ours(), "without the right it stays"
    assert off.problems == []
    await cancel(off.task)


async def test_the_fence_is_the_session_that_holds_the_lock_now(make):
    lock = Lock(make.FENCE)
    fenced = Fenced(lock)
    task = asyncio.create_task(fenced.run())
    await until(lambda: fenced.leader.value == make.FENCE)
    lock.leader.set(None)
    await until(lambda: fenced.leader.value is None)
    lock.session = "another"
    lock.leader.set(2)
    await until(lambda: fenced.leader.value == (lock.key, "another"))
    await cancel(task)
