"""A catalogue server on loopback, and clients of it. Plaintext: the channels are injected, here only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import grpc
import pytest

from clusters.network import free_port
from clusters.waiting import until
from federation.aio.backoff import Backoff
from federation.catalog.replica import Log
from federation.model.record import Key, Kind, Record, Version
from federation.registry.client import CHANNEL_OPTIONS
from federation.registry.watch import SERVER_OPTIONS, CatalogServicer, Offer


def make_record(origin: str, name: str, version: tuple[int, int], payload: bytes | None = b"x", kind=Kind.SERVICE):
    return Record(Key(origin, kind, name), Version(*version), payload)


@pytest.fixture
def record() -> Callable[..., Record]:
    return make_record


@pytest.fixture(name="until")
def _until() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture
async def started() -> AsyncIterator[Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]]:
    """Runs coroutines until the end of the test."""
    tasks: list[asyncio.Task[Any]] = []

    def start(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        tasks.append(asyncio.create_task(coroutine, name="of-the-test"))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


class Catalog:
    """A server that can be stopped and started again on its port."""

    def __init__(self) -> None:
        self.log = Log(history="h1")
        self.port = free_port()
        self.heartbeat = 5.0
        self.write_timeout = 30.0
        self.offered: list[Offer] = []
        self.make_offer: Callable[[], Offer] = lambda: Offer(log=self.log)
        self.accept: Any = None
        self.servicer: CatalogServicer
        self.server: Any = None
        self.dialled = 0

    async def start(self) -> None:
        async def offer(_: Any) -> Offer:
            self.offered.append(self.make_offer())
            return self.offered[-1]

        self.servicer = CatalogServicer(
            offer=offer,
            accept=self.accept,
            heartbeat=self.heartbeat,
            write_timeout=self.write_timeout,
            spread=0.1,
        )
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        self.servicer.add_to(self.server)
        self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    def patience_from_now(self, write_timeout: float) -> None:
        """Of streams that begin from now on: those that run keep theirs."""
        self.servicer._write_timeout = write_timeout

    async def stop(self) -> None:
        await self.server.stop(0)
        self.server = None

    async def connect(self) -> Any:
        self.dialled += 1
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=CHANNEL_OPTIONS)


@pytest.fixture
async def catalog() -> AsyncIterator[Catalog]:
    it = Catalog()
    yield it
    if it.server is not None:
        await it.stop()


@pytest.fixture
def quick() -> Callable[[], Backoff]:
    return lambda: Backoff(base=0.02, cap=0.1)
