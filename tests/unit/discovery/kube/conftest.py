"""A scripted API server for reflectors, a clock that never waits, and objects as JSON."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest

from discovery.kube.client import Page
from discovery.kube.resources import NAMESPACES, Resource
from discovery.kube.types import Namespace
from discovery.kube.watch import Reflector, Store
from federation import log
from federation.aio.clock import FakeClock


class QuickClock(FakeClock):
    """Sleeps pass at once and are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)
        await asyncio.sleep(0)


def thing(name: str, version: int, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version), **metadata}}


def event(kind: str, obj: object) -> bytes:
    return msgspec.json.encode({"type": kind, "object": obj})


class Script:
    """Answers `lists` and `watches` in order; an exception in them is raised. At the end of the script it hangs."""

    def __init__(
        self,
        lists: Sequence[tuple[Sequence[Any], int] | Exception],
        watches: Sequence[Sequence[bytes | Exception] | Exception],
    ) -> None:
        self.lists, self.watches = list(lists), list(watches)
        self.asked: list[str] = []
        self.done = asyncio.Event()
        self.listing, self.most_listing = 0, 0

    async def pages(self, resource: Resource, **_: Any) -> AsyncIterator[Page]:
        self.asked.append("list")
        if not self.lists:
            await self._end()
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        pages, version = answer
        self.listing += 1
        self.most_listing = max(self.most_listing, self.listing)
        try:
            for page in pages if pages and isinstance(pages[0], list | Exception) else [pages]:
                await asyncio.sleep(0)
                if isinstance(page, Exception):
                    raise page
                yield Page([msgspec.Raw(msgspec.json.encode(one)) for one in page], str(version))
        finally:
            self.listing -= 1

    async def watch(self, resource: Resource, *, resource_version: str, **_: Any) -> AsyncIterator[bytes]:
        self.asked.append(f"watch {resource_version}")
        if not self.watches:
            await self._end()
        answer = self.watches.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield b""
        for line in answer:
            if isinstance(line, Exception):
                raise line
            yield line

    async def _end(self) -> None:
        self.done.set()
        await asyncio.Event().wait()


class Followed:
    """A reflector on a script, run to its end."""

    def __init__(self, script: Script, held: Sequence[dict[str, Any]] = (), **more: Any) -> None:
        self.script, self.clock = script, QuickClock()
        self.changes: list[set[str]] = []
        self.problems: list[str | None] = []
        self.store: Store[Namespace] = Store(lambda keys: self.changes.append({name for _, name in keys}))
        self.store.replace([msgspec.convert(one, Namespace) for one in held], "1")
        self.changes.clear()
        self.reflector: Reflector[Namespace] = Reflector(
            script,
            more.pop("resource", NAMESPACES),
            msgspec.json.Decoder(Namespace),
            self.store,
            clock=self.clock,
            rng=random.Random(1),
            log=log.get("test"),
            lists=more.pop("semaphore", None) or asyncio.Semaphore(1),
            **more,
        )
        tell = self.reflector.problem.set
        self.reflector.problem.set = lambda p: (self.problems.append(p.code if p else None), tell(p))[1]  # type: ignore[method-assign]

    async def run(self) -> Followed:
        running = asyncio.create_task(self.reflector.run(), name="reflector")
        ended = asyncio.create_task(self.script.done.wait(), name="script")
        await asyncio.wait({running, ended}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, ended):
            task.cancel()
        for result in await asyncio.gather(running, ended, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        assert self.script.done.is_set()
        return self

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.store.objects}


@pytest.fixture(name="thing")
def _thing() -> Callable[..., dict[str, Any]]:
    return thing


@pytest.fixture(name="event")
def _event() -> Callable[..., bytes]:
    return event


@pytest.fixture(name="follow")
def _follow() -> Callable[..., Any]:
    """`await follow(lists, watches, held=…)`: what a reflector made of it."""

    async def follow(lists: Sequence[Any], watches: Sequence[Any], **more: Any) -> Followed:
        return await Followed(Script(lists, watches), **more).run()

    return follow


@pytest.fixture(name="followed")
def _followed() -> Callable[..., Followed]:
    """The same, not run yet."""
    return lambda lists, watches, **more: Followed(Script(lists, watches), **more)
