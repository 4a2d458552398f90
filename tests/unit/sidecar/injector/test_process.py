"""Which certificate the injector shows while its root changes, and how often it looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from clusters.network import free_port
from clusters.waiting import until
from federation.aio.clock import FakeClock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.errors import Conflict, Denied, IsthmusError, NotFound, Unavailable
from federation.log import get
from federation.model.ids import SpiffeId
from federation.registry.edge.problems import Problems
from federation.registry.edge.state import StateDirectory
from federation.trust.authority import Authority
from federation.trust.renewal import Renewer
from federation.trust.workload import Grant
from sidecar.injector.api import Api
from sidecar.injector.options import ClusterDns
from sidecar.injector.process import LOOK, SETTLE, SOON, Injector
from sidecar.injector.registration import roots_of
from sidecar.injector.settings import parse

SETTINGS = """
image: isthmus:0.1.0
state_directory: /nowhere
webhook: isthmus-injector
agent: {enrolment: ["127.0.0.1:7446"], anchors: /nowhere/root.pem, service_account_token: /nowhere/token}
"""
DOMAIN = "east.test.isthmus"


class Clock(FakeClock):
    """Knows how long who sleeps now wants to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await super().sleep(seconds)


class FakeApi:
    """Our webhook's configuration; `failure` is what each PATCH meets."""

    def __init__(self) -> None:
        self.found: dict[str, Any] | None = {"webhooks": [{"name": "a", "clientConfig": {}}]}
        self.failure: IsthmusError | None = None

    async def ask(self, method: str, path: str, body: Any = None, **_: Any) -> Any:
        if self.found is None:
            raise NotFound(path)
        if method == "PATCH":
            if self.failure is not None:
                raise self.failure
            self.found["webhooks"][0]["clientConfig"]["caBundle"] = body[1]["value"]
        return self.found

    def roots(self) -> tuple[bytes, ...]:
        assert self.found is not None
        return roots_of(self.found["webhooks"][0]["clientConfig"].get("caBundle", ""))


class FakeRenewer:
    failures = 0

    def __init__(self, grant: Grant) -> None:
        self.latest = Latest(grant)

    @property
    def current(self) -> Grant:
        return self.latest.value

    def expires_in(self) -> float:
        return 1.0


class World:
    """An injector that follows, and what is around it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.api = folder, Clock(), FakeApi()
        self.old = Authority.open(folder / "old", trust_domain=DOMAIN, clock=self.clock)
        self.new = Authority.open(folder / "new", trust_domain=DOMAIN, clock=self.clock)
        self.renewer = FakeRenewer(self.grant(self.old))
        self.state = StateDirectory(folder / "state")
        log = get("test")
        self.injector = Injector(
            parse(f"{SETTINGS}\nlisten: 127.0.0.1:{free_port()}\n", where="test"),
            self.state,
            cast(Renewer[Grant], self.renewer),
            cast(Api, self.api),
            ClusterDns(servers=("10.96.0.10",)),
            problems=Problems(clock=self.clock, log=log, on_change=lambda: None),
            registry=CollectorRegistry(),
            clock=self.clock,
            log=log,
        )

    def grant(self, authority: Authority) -> Grant:
        account = SpiffeId.parse(f"spiffe://{DOMAIN}/ns/isthmus-system/sa/injector")
        svid = authority.issue_with_key(spiffe_id=account, ttl=timedelta(hours=1))
        return Grant(
            svid=svid,
            bundle=authority.bundle,
            agent_address="127.0.0.1:7445",
            federation="test.isthmus",
            cluster="east",
        )

    def shown(self) -> bool:
        """Whether new connections see the newest certificate."""
        svid = self.renewer.current.svid
        return (self.state.path / "tls.pem").read_bytes() == svid.key_pem + svid.chain_pem

    async def sleeps(self, before: int) -> float:
        """How long it sleeps, once it sleeps again."""
        await until(lambda: len(self.clock.asked) > before)
        return self.clock.asked[-1]

    async def renewed(self, authority: Authority) -> float:
        before = len(self.clock.asked)
        self.renewer.latest.set(self.grant(authority))
        return await self.sleeps(before)

    async def passed(self, seconds: float) -> float:
        before = len(self.clock.asked)
        self.clock.advance(seconds)
        return await self.sleeps(before)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.injector.start()
    following = asyncio.create_task(made.injector.follow(), name="follow")
    try:
        await made.sleeps(0)
        yield made
    finally:
        await cancel(following)
        await made.injector.close()
        made.state.close()


async def test_a_certificate_of_another_root_waits_until_the_api_servers_know_it(world: World) -> None:
    assert await world.passed(SOON) == LOOK
    assert await world.renewed(world.new) == SOON
    assert world.api.roots() == (*world.new.bundle.roots, *world.old.bundle.roots)
    assert not world.shown()
    assert await world.passed(SETTLE - 1) == SOON
    assert not world.shown()
    assert await world.passed(1) == LOOK
    assert world.shown()


@pytest.mark.parametrize("failure", [Conflict("changed"), Denied("no rule"), Unavailable("timeout")])
async def test_a_caBundle_that_cannot_be_written_leaves_the_former_certificate(
    world: World, failure: IsthmusError
) -> None:
    await world.passed(SOON)
    world.api.failure = failure
    assert await world.renewed(world.new) == SOON
    for _ in range(3):
        assert await world.passed(SETTLE) == SOON  # soon again, not at the usual pace
        assert not world.shown()
    world.api.failure = None
    assert await world.passed(SOON) == SOON
    assert not world.shown()
    await world.passed(SETTLE)
    assert world.shown()


async def test_when_the_former_certificate_has_expired_there_is_nothing_to_lose(world: World) -> None:
    await world.passed(SOON)
    world.api.failure = Denied("no rule")
    await world.renewed(world.new)
    await world.passed(3500)
    assert not world.shown()
    await world.passed(101)
    assert world.shown()


async def test_a_certificate_of_the_same_root_is_shown_at_once(world: World) -> None:
    await world.passed(SOON)
    world.api.failure, world.api.found = Denied("no rule"), {"webhooks": [{"name": "a", "clientConfig": {}}]}
    world.clock.advance(1)  # so that it is another one
    await world.renewed(world.old)
    assert world.shown()


async def test_it_looks_sooner_until_the_configuration_was_there_once(tmp_path: Path) -> None:
    """An installer makes it when the injector is ready, and pods come right after."""
    world = World(tmp_path)
    world.api.found = None
    await world.injector.start()
    following = asyncio.create_task(world.injector.follow(), name="follow")
    try:
        paces = [await world.sleeps(0), await world.passed(SOON), await world.passed(SOON)]
        world.api.found = {"webhooks": [{"name": "a", "clientConfig": {}}]}
        paces.append(await world.passed(SOON))
        world.api.found = None  # once seen, it is looked at as others are
        paces.append(await world.passed(LOOK))
    finally:
        await cancel(following)
        await world.injector.close()
        world.state.close()
    assert paces == [SOON, SOON, SOON, LOOK, LOOK]
