"""An HTTP server that answers as it is told, and a clock that never waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from discovery.consul.client import ConsulClient
from discovery.consul.settings import ConsulSettings
from federation import log
from federation.aio.clock import FakeClock, SystemClock


class QuickClock(FakeClock):
    """Sleeps pass at once and are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)
        await asyncio.sleep(0)


class Server:
    """`answer` gets every request; `seen` keeps them."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.answer: Callable[[web.Request], Any] = lambda _: web.json_response({})
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        found = self.answer(request)
        if asyncio.iscoroutine(found):
            found = await found
        assert isinstance(found, web.StreamResponse)
        return found

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
async def connect(server: Server) -> AsyncIterator[Callable[..., ConsulClient]]:
    """Makes clients of the server; further settings as keywords."""
    made: list[ConsulClient] = []

    def client(**settings: Any) -> ConsulClient:
        given = ConsulSettings(**{"address": server.address, "datacenters": {"dc1": "shop"}, **settings})
        made.append(ConsulClient(given, clock=SystemClock(), log=log.get("test")))
        return made[-1]

    yield client
    for one in made:
        await one.close()


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()
