"""Patience with an API server that is busy."""

from __future__ import annotations

from typing import Any, cast

import pytest

from discovery.kube.errors import TooMany
from federation.aio.clock import FakeClock
from federation.cli.installation.work import Worker


class Clock(FakeClock):
    """Time passes when somebody sleeps."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


class Server:
    """Busy for the first `times` calls."""

    def __init__(self, times: int, retry_after: float = 0.0) -> None:
        self.calls, self._times, self._retry_after = 0, times, retry_after

    async def read(self) -> str:
        self.calls += 1
        if self.calls <= self._times:
            raise TooMany("busy", retry_after=self._retry_after)
        return "read"


def worker(clock: Clock) -> Worker:
    return Worker(client=cast(Any, None), namespace="isthmus-system", clock=clock, say=lambda _line: None)


async def test_a_busy_server_is_asked_again_when_it_says() -> None:
    clock, server = Clock(), Server(2, retry_after=4.0)
    began = clock.monotonic()
    assert await worker(clock).patiently(server.read) == "read"
    assert (server.calls, clock.monotonic() - began) == (3, 8.0)


async def test_it_is_not_asked_for_ever() -> None:
    server = Server(10**6)
    with pytest.raises(TooMany):
        await worker(Clock()).patiently(server.read)
    assert 1 < server.calls < 100
