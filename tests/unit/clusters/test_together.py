"""All start, or none stays."""

from __future__ import annotations

import asyncio

import pytest

from clusters.together import finish_together, start_together
from federation.errors import Unavailable


async def test_all_start_at_once() -> None:
    begun: list[str] = []
    both = asyncio.Event()

    async def start(name: str) -> None:
        begun.append(name)
        if len(begun) == 2:
            both.set()
        await both.wait()

    await asyncio.wait_for(start_together({"a": start("a"), "b": start("b")}, stop=begun.clear), 5)
    assert begun == ["a", "b"]


async def test_one_that_fails_ends_the_others() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waits")

    async def fails() -> None:
        raise Unavailable("no port")

    with pytest.raises(Unavailable, match="no port"):
        await start_together({"a": waits(), "b": fails()}, stop=lambda: ended.append("stop"))
    assert ended == ["waits", "stop"]


async def test_each_is_finished_before_an_error_is_raised() -> None:
    ended: list[str] = []
    failed = asyncio.Event()

    async def fails() -> None:
        failed.set()
        raise Unavailable("no port")

    async def goes_on() -> None:
        await failed.wait()
        ended.append("goes on")

    with pytest.raises(Unavailable, match="no port"):
        await finish_together({"a": fails(), "b": goes_on()})
    assert ended == ["goes on"]


async def test_so_many_at_once() -> None:
    running, most = 0, 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await finish_together({str(n): work() for n in range(9)}, at_once=3)
    assert most == 3
