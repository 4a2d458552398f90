"""All start, or none stays."""

from __future__ import annotations

import asyncio

import pytest

from clusters.together import start_together
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
