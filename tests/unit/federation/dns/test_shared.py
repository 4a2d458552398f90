from __future__ import annotations

import asyncio

from federation.dns.shared import Shared


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_piece_of_work_for_all_who_wait() -> None:
    gate = asyncio.Event()
    worked: list[str] = []
    got: list[str] = []

    async def work(key: str) -> str:
        worked.append(key)
        await gate.wait()
        return key.upper()

    shared = Shared(work, name="test", most=2, waiting=10)
    assert all(shared.join("a", got.append) for _ in range(3))
    assert shared.join("b", got.append)
    assert not shared.join("c", got.append)  # two are in flight
    assert shared.in_flight == 2
    gate.set()
    await _settle()
    assert sorted(worked) == ["a", "b"]
    assert sorted(got) == ["A", "A", "A", "B"]
    assert shared.join("c", got.append)  # there is room again
    await _settle()
    assert got[-1] == "C"
    assert shared.in_flight == 0


async def test_those_who_wait_are_bounded() -> None:
    gate = asyncio.Event()

    async def work(key: str) -> str:
        await gate.wait()
        return key

    got: list[str] = []
    shared = Shared(work, name="test", most=5, waiting=2)
    assert shared.join("a", got.append)
    assert shared.join("a", got.append)
    assert not shared.join("a", got.append)
    gate.set()
    await _settle()
    assert got == ["a", "a"]
    assert shared.join("a", got.append)
    await shared.close()


async def test_close_ends_the_work_and_calls_nobody() -> None:
    async def work(key: str) -> str:
        await asyncio.Event().wait()
        return key

    got: list[str] = []
    shared = Shared(work, name="test", most=5, waiting=5)
    shared.join("a", got.append)
    await asyncio.sleep(0)
    await shared.close()
    assert got == []
    assert shared.in_flight == 0
