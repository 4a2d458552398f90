"""Checks begin one name at a time, out of the way of look-ups, and not never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from federation.aio.clock import FakeClock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.registry.edge.checking import BUSY_PAUSE, PATIENCE, PAUSE, POLL, QUIET, SHARE, TOGETHER, Checking


class Rig:
    """`waiting` names have no checks yet; Envoy acknowledges when told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.waiting = 0
        self.begun: list[float] = []
        self.published = 0
        self.hurried = -1000.0
        self.acknowledging = asyncio.Event()
        self.acknowledging.set()
        self.news: Latest[int] = Latest(0)
        self.looks = 0
        self.together: list[int] = []
        self.checking = Checking(
            begin=self.begin,
            publish=self.publish,
            acknowledged=self.acknowledged,
            hurried=lambda: self.hurried,
            news=self.news,
            clock=self.clock,
        )

    def begin(self, most: int) -> bool:
        self.looks += 1
        if not self.waiting:
            return False
        self.together.append(min(most, self.waiting))
        self.waiting -= self.together[-1]
        self.begun.append(self.clock.monotonic())
        return True

    def publish(self) -> int:
        self.published += 1
        return self.published

    async def acknowledged(self, ticket: int, limit: float) -> bool:
        assert ticket == self.published
        await self.acknowledging.wait()
        return True

    def wait(self, names: int) -> None:
        """So many were brought to Envoy, which has acknowledged them."""
        self.waiting = names
        self.news.set(self.news.value + 1)

    def look_up(self) -> None:
        self.hurried = self.clock.monotonic()

    async def pass_(self, seconds: float, step: float = 0.01) -> None:
        await turns()
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            await turns()


async def turns() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    task = asyncio.create_task(rig.checking.run(), name="checking")
    yield rig
    await cancel(task)


async def test_a_few_together_and_the_rest_after_them(rig: Rig) -> None:
    rig.wait(2 * TOGETHER + 1)
    await rig.pass_(4 * PAUSE)
    assert (rig.published, rig.together) == (3, [TOGETHER, TOGETHER, 1])
    assert all(b - a >= PAUSE - 1e-6 for a, b in zip(rig.begun, rig.begun[1:], strict=False))


async def test_nothing_to_begin_publishes_nothing(rig: Rig) -> None:
    await rig.pass_(10 * POLL)
    assert rig.published == 0
    assert rig.looks <= 11, "and hardly wakes anybody up"


async def test_what_envoy_has_just_acknowledged_is_looked_at_at_once(rig: Rig) -> None:
    await rig.pass_(POLL / 4)
    rig.wait(1)
    await turns()
    assert rig.published == 1


async def test_the_next_waits_for_the_acknowledgement_and_longer_where_it_took_long(rig: Rig) -> None:
    rig.wait(TOGETHER + 1)
    rig.acknowledging.clear()
    await rig.pass_(0.5)
    assert len(rig.begun) == 1
    rig.acknowledging.set()
    await rig.pass_(SHARE * 0.4 - 0.1)
    assert len(rig.begun) == 1, "an Envoy that is slow is given time"
    await rig.pass_(0.5 * SHARE)
    assert len(rig.begun) == 2


async def test_a_look_up_holds_them_back_for_a_moment(rig: Rig) -> None:
    rig.wait(1)
    rig.look_up()
    await rig.pass_(QUIET - 0.05)
    assert not rig.begun
    await rig.pass_(POLL + 0.1)
    assert len(rig.begun) == 1


async def test_look_ups_without_end_do_not_hold_them_back_for_ever(rig: Rig) -> None:
    rig.wait(1000)
    for _ in range(round((PATIENCE - 0.1) / 0.1)):
        rig.look_up()
        await rig.pass_(0.1)
    assert not rig.begun
    for _ in range(30):
        rig.look_up()
        await rig.pass_(0.1)
    assert 3 <= len(rig.begun) <= 3.0 / BUSY_PAUSE + 1, "from then on, but seldom"
    assert set(rig.together) == {1}
    rig.clock.advance(QUIET)
    await rig.pass_(0.2)
    begun = len(rig.begun)
    rig.look_up()
    await rig.pass_(PATIENCE - 1.0)
    assert len(rig.begun) > begun, "nobody is in a hurry any more"
