"""A Reflector ends with what the server has, whatever happens on the way; lines are found however they are cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from discovery.kube.client import Page
from discovery.kube.errors import Gone, Unreachable
from discovery.kube.lines import Lines
from discovery.kube.resources import NAMESPACES, Resource
from discovery.kube.types import Namespace
from discovery.kube.watch import Reflector, Store
from federation import log
from federation.aio.clock import FakeClock


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 50)))
def test_lines_are_found_however_they_are_cut(lines: list[bytes], sizes: list[int]) -> None:
    lines = [line.replace(b"\n", b" ") for line in lines]
    data = b"".join(line + b"\n" for line in lines)
    cutter, found, at = Lines(), [], 0
    for size in [*sizes, len(data) + 1]:
        found += cutter.feed(data[at : at + size])
        at += size
    assert found == [line for line in lines if line]
    assert not cutter.partial


class QuickClock(FakeClock):
    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)


NAMES = [f"n{i}" for i in range(25)]
Step = tuple[str, Any]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES)),
        st.tuples(st.just("delete"), st.sampled_from(NAMES)),
        st.tuples(st.just("unseen put"), st.sampled_from(NAMES)),
        st.tuples(st.just("unseen delete"), st.sampled_from(NAMES)),
        st.tuples(st.sampled_from(["bookmark", "cut", "end", "forget", "break lists", "empty list"]), st.none()),
    ),
    max_size=60,
)


class Server:
    """The reference: a history of one resource. Takes one step after another while it is watched."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = list(reversed(steps))
        self.objects: dict[str, int] = {name: 1 for name in NAMES[:12]}
        self.history: list[tuple[int, str, str]] = []
        self.version, self.compacted = 1, 0
        self.broken, self.lying = 0, 0
        self.lists = 0
        self.done = asyncio.Event()

    def _obj(self, name: str, version: int) -> dict[str, Any]:
        return {"metadata": {"name": name, "resourceVersion": str(version)}}

    def _change(self, kind: str, name: str) -> None:
        if kind.endswith("delete") and name not in self.objects:
            return
        self.version += 1
        if kind.endswith("delete"):
            del self.objects[name]
            self.history.append((self.version, "DELETED", name))
        else:
            self.history.append((self.version, "MODIFIED" if name in self.objects else "ADDED", name))
            self.objects[name] = self.version

    async def pages(self, resource: Resource, **_: Any) -> AsyncIterator[Page]:
        self.lists += 1
        items = [msgspec.Raw(msgspec.json.encode(self._obj(n, v))) for n, v in sorted(self.objects.items())]
        if self.lying:
            self.lying -= 1
            items = []
        half = len(items) // 2
        yield Page(items[:half], str(self.version))
        if self.broken:
            self.broken -= 1
            raise Unreachable("cut in the midst of a list")
        yield Page(items[half:], str(self.version))

    async def watch(self, resource: Resource, *, resource_version: str, **_: Any) -> AsyncIterator[bytes]:
        seen = int(resource_version)
        if seen < self.compacted:
            raise Gone("too old")
        yield b""
        while True:
            for version, kind, name in [h for h in self.history if h[0] > seen]:
                yield msgspec.json.encode({"type": kind, "object": self._obj(name, version)})
                seen = version
            if not self.steps:
                self.done.set()
                await asyncio.Event().wait()
            kind, name = self.steps.pop()
            if kind in ("put", "delete"):
                self._change(kind, name)
            elif kind.startswith("unseen"):
                self._change(kind, name)
                raise Unreachable("cut before it was told")
            elif kind == "bookmark":
                yield msgspec.json.encode({"type": "BOOKMARK", "object": self._obj("", self.version)})
            elif kind == "cut":
                raise Unreachable("cut")
            elif kind == "end":
                return
            elif kind == "forget":
                self.version += 1
                self.compacted = self.version
                raise Gone("forgotten")
            elif kind == "break lists":
                self.broken = 2
            elif kind == "empty list":
                self.lying = 1


@given(STEPS, st.integers(0, 2**32))
def test_a_reflector_ends_with_what_the_server_has(steps: list[Step], seed: int) -> None:
    server = asyncio.run(_follow(steps, seed))
    assert server.lists <= 1 + sum(3 for kind, _ in steps if kind == "forget") + 2 * len(steps)


async def _follow(steps: list[Step], seed: int) -> Server:
    server, held = Server(steps), dict[str, int]()

    def changed(keys: Any) -> None:
        """What is told is what is held; nothing is lost on the word of a list that came back empty."""
        for key in keys:
            obj = store.objects.get(key)
            if obj is None:
                held.pop(key[1])
            else:
                held[key[1]] = int(obj.resource_version)
        assert held.keys() >= {n for n, v in server.objects.items() if v == 1} or not server.lists

    store: Store[Namespace] = Store(changed)
    reflector: Reflector[Namespace] = Reflector(
        server,
        NAMESPACES,
        msgspec.json.Decoder(Namespace),
        store,
        clock=QuickClock(),
        rng=random.Random(seed),
        log=log.get("test"),
        lists=asyncio.Semaphore(1),
    )
    running = asyncio.create_task(reflector.run(), name="reflector")
    ended = asyncio.create_task(server.done.wait(), name="server")
    await asyncio.wait({running, ended}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    assert not running.done(), running.exception()
    running.cancel()
    ended.cancel()
    await asyncio.wait({running, ended})
    assert held == server.objects
    assert {name: int(obj.resource_version) for (_, name), obj in store.objects.items()} == server.objects
    return server
