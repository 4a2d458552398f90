"""The lock of a datacenter, held in a real Consul."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clusters.waiting import until
from discovery.consul.client import ConsulClient
from discovery.consul.leader import LeaderLock, lock_key
from discovery.consul.settings import ConsulSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.tasks import cancel
from federation.model.cluster import Problem

pytestmark = pytest.mark.integration

KEY = lock_key("isthmus", "east")


class Agent:
    def __init__(self, url: str, name: str, **settings: Any) -> None:
        self.problem: Problem | None = None
        given = ConsulSettings(address=url, datacenters={"dc1": "shop"}, **settings)
        self.client = ConsulClient(given, clock=SystemClock(), log=log.get("test"))
        self.lock = LeaderLock(
            self.client,
            "dc1",
            key=KEY,
            name=name,
            ttl=2.0,
            on_problem=self._told,
            clock=SystemClock(),
            log=log.get("test"),
        )
        self.task = asyncio.create_task(self.lock.run())

    def _told(self, problem: Problem | None) -> None:
        self.problem = problem

    @property
    def leads(self) -> bool:
        return self.lock.leader.value is not None

    async def end(self) -> None:
        await cancel(self.task)
        await self.client.close()


@contextlib.asynccontextmanager
async def agents(url: str, *names: str, **settings: Any) -> AsyncIterator[list[Agent]]:
    made = [Agent(url, name, **settings) for name in names]
    try:
        yield made
    finally:
        for one in made:
            await one.end()


async def test_one_leads_and_the_other_follows_when_it_ends_or_is_not_heard_of(start_consul: Any) -> None:
    (dc1,) = await start_consul("dc1")
    async with agents(dc1.url(), "a", "b") as those, dc1.connect() as client:
        await until(lambda: sum(one.leads for one in those) == 1)
        first, second = sorted(those, key=lambda one: not one.leads)
        assert first.lock.leader.value is not None
        (entry,) = await client.get(f"/v1/kv/{KEY}")
        assert first.lock.leader.value == (KEY, entry["Session"])
        await first.end()  # in order: the lock is given back
        await until(lambda: second.leads)
        (entry,) = await client.get(f"/v1/kv/{KEY}")
        await client.put(f"/v1/session/destroy/{entry['Session']}")  # it was not heard of
        await until(lambda: not second.leads)
        await until(lambda: second.leads)  # with a new session
        assert second.lock.leader.value != (KEY, entry["Session"])


async def test_a_holder_without_consul_does_not_believe_for_ever_and_a_missing_right_is_said(start_consul: Any) -> None:
    (dc1,) = await start_consul("dc1", acl=True)
    async with dc1.connect() as client:
        rules = 'key "isthmus/east/leader" { policy = "write" }\nsession_prefix "" { policy = "write" }'
        enough = (await client.token(rules, name="enough"))["SecretID"]
    async with agents(dc1.url(), "a") as (one,):
        await until(lambda: one.problem)
        assert one.problem is not None
        assert one.problem.code == "consul_forbidden"
        assert 'key "isthmus/east/leader"' in one.problem.detail
    file = dc1.directory / "token"
    file.write_text(enough)
    async with agents(dc1.url(), "a", token_file=str(file)) as (one,):
        await until(lambda: one.leads)
        assert one.problem is None
        dc1.pause()
        await until(lambda: not one.leads)
        dc1.resume()
        await until(lambda: one.leads)
