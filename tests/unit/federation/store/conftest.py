"""Both stores behind one fixture, and makers of what is kept in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from federation.aio.clock import FakeClock
from federation.model.cluster import Bundle, Link, LinkGrant
from federation.model.service import Locality
from federation.store.base import LinkEntry, Member, Store, Token
from federation.store.memory import MemoryStore
from federation.store.sqlite import SqliteStore


class Make:
    """Values with sensible contents."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def member(self, name: str = "east", *, root: bytes = b"", epoch: int = 0) -> Member:
        domain = f"{name}.demo.test"
        return Member(
            name=name,
            trust_domain=domain,
            bundle=Bundle(trust_domain=domain, sequence=1, roots=(root or f"root of {name}".encode(),)),
            joined_ns=self.clock.wall_ns(),
            locality=Locality("eu", "a"),
            epoch=epoch,
        )

    def token(self, cluster: str = "east", *, secret: bytes = b"1", seconds: float = 900) -> Token:
        now = self.clock.wall_ns()
        return Token(
            hash=secret.rjust(32, b"0"), cluster=cluster, issued_ns=now, expires_ns=now + int(seconds * 1_000_000_000)
        )

    def link(self, a: str = "east", b: str = "west", **more: Any) -> LinkEntry:
        grants = more.pop("grants", (LinkGrant(origin=a, consumer=b, namespace="shop", ports=(80,)),))
        return LinkEntry(
            link=Link(a=a, b=b, created_ns=self.clock.wall_ns(), grants=grants), fingerprint_a="x", fingerprint_b="y"
        )

    async def joined(self, store: Store, *names: str) -> None:
        """Let clusters join by a token each."""
        for name in names:
            token = self.token(name, secret=f"{name} {len(store.tokens.all())}".encode())
            await store.tokens.issue(token)
            await store.clusters.enrol(token.hash, self.member(name), "print of " + name)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(clock: FakeClock) -> Make:
    return Make(clock)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = (
        MemoryStore(clock=clock) if request.param == "memory" else SqliteStore.open(tmp_path / "s.db", clock=clock)
    )
    yield made
    await made.close()
