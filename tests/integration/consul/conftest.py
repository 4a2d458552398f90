"""A Consul source on a real datacenter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from clusters.consul import Datacenter
from clusters.waiting import until
from discovery.consul.cache import NEW
from discovery.consul.settings import ConsulSettings
from discovery.sources.base import SourceState
from discovery.sources.consul import ConsulSource
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.tasks import cancel
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Endpoint, Locality, Service

HOME = Locality("home", "home-1")


class Running:
    """A source that follows Consul."""

    def __init__(self, source: ConsulSource, task: asyncio.Task[None]) -> None:
        self.source, self.task = source, task

    @property
    def state(self) -> SourceState:
        return self.source.state.value

    def claim(self, name: str, namespace: str = "shop") -> Service | None:
        return self.state.exports.get(ServiceName(namespace, name))

    def problem(self, code: str, about: str = "") -> Problem | None:
        return next((p for p in self.state.problems if p.code == code and about in p.subject), None)

    async def exported(
        self, name: str, good: Callable[[Service], Any] = lambda _: True, namespace: str = "shop"
    ) -> Service:
        """The claim, once it is there and `good`."""

        def found() -> Service | None:
            claim = self.claim(name, namespace)
            return claim if claim is not None and good(claim) else None

        result: Service = await until(found, what=f"{name} as it should be; it is {self.claim(name, namespace)}")
        return result

    async def told(self, code: str, about: str = "") -> Problem:
        """A problem, once it is there."""
        result: Problem = await until(lambda: self.problem(code, about), what=f"the problem {code}")
        return result

    async def untold(self, code: str, about: str = "") -> None:
        """The problem has gone."""
        await until(lambda: self.problem(code, about) is None, what=f"the end of the problem {code}")


Follow = Callable[..., contextlib.AbstractAsyncContextManager[Running]]


@pytest.fixture
def follow(tmp_path: Path) -> Follow:
    """`async with follow(dc1, watches=3) as running:` a source that reads a datacenter, and has read it."""

    @contextlib.asynccontextmanager
    async def following(
        datacenter: Datacenter,
        *,
        complete: bool = True,
        live: bool = True,
        cache: str = "consul.state",
        single_machine: bool = False,
        **settings: Any,
    ) -> AsyncIterator[Running]:
        given: dict[str, Any] = {
            "address": datacenter.url(),
            "datacenters": {datacenter.name: "shop"},
            "wait": 3.0,
            "confirm": 0.5,
            **settings,
        }
        if datacenter.guard.management and "token_file" not in given:
            token = tmp_path / "management.token"
            token.write_text(datacenter.guard.management)
            given["token_file"] = str(token)
        if datacenter.guard.tls and "ca_file" not in given:
            certificate, key = datacenter.client_files()
            given |= {"ca_file": str(datacenter.authority_file()), "cert_file": str(certificate), "key_file": str(key)}
        checked = ConsulSettings(**given)
        checked.check()
        source = ConsulSource(
            checked,
            cache_path=tmp_path / cache,
            locality=HOME,
            single_machine=single_machine,
            clock=SystemClock(),
            log=log.get("test"),
            cache_seconds=0.1,
            first=tmp_path / NEW,
        )
        task = asyncio.create_task(source.run(), name="source")
        try:
            if complete:
                await until(lambda: task.done() or (source.state.value.complete and (source.live.value or not live)))
            yield Running(source, task)
        finally:
            await cancel(task)

    return following


def ready(service: Service | None) -> list[str]:
    """Addresses of the endpoints that are ready."""
    return [e.address for e in endpoints(service) if e.ready]


def endpoints(service: Service | None) -> tuple[Endpoint, ...]:
    return service.endpoints if service is not None else ()
