"""Checks begin one name at a time, out of the way of look-ups, and not never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from federation.aio.clock import FakeClock
from federation.aio.tasks import cancel
from federation.registry.edge.checking import BUSY_PAUSE, PATIENCE, PAUSE, POLL, QUIET, SHARE, Checking


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
        self.checking = Checking(
            begin=self.begin,
            publish=self.publish,
            acknowledged=self.acknowledged,
            hurried=lambda: self.hurried,
            clock=self.clock,
        )

    def begin(self, most: int) -> bool:
        assert most == 1
        if not self.waiting:
            return False
        self.waiting -= 1
        self.begun.append(self.clock.monotonic())
        return True

    def publish(self) -> int:
        self.published += 1
        return self.published

    async def acknowledged(self, ticket: int, limit: float) -> bool:
        assert ticket == self.published
        await self.acknowledging.wait()
        return True

    def look_up(self) -> None:
        self.hurried = self.clock.monotonic()

    async def pass_(self, seconds: float, step: float = 0.01) -> None:
        await turns()
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            await turns()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    task = asyncio.create_task(rig.checking.run(), name="checking")
    yield rig
    await cancel(task)


async def test_one_after_the_other_each_is_published(rig: Rig) -> None:
    rig.waiting = 3
    await rig.pass_(POLL + 4 * PAUSE)
    assert rig.published == 3
    assert all(b - a >= PAUSE - 1e-6 for a, b in zip(rig.begun, rig.begun[1:], strict=False))


async def test_nothing_to_begin_publishes_nothing(rig: Rig) -> None:
    await rig.pass_(1.0)
    assert rig.published == 0


async def test_the_next_waits_for_the_acknowledgement_and_longer_where_it_took_long(rig: Rig) -> None:
    rig.waiting = 2
    rig.acknowledging.clear()
    await rig.pass_(0.5)
    assert len(rig.begun) == 1
    rig.acknowledging.set()
    await rig.pass_(SHARE * 0.4 - 0.1)
    assert len(rig.begun) == 1, "an Envoy that is slow is given time"
    await rig.pass_(0.5 * SHARE)
    assert len(rig.begun) == 2


async def test_a_look_up_holds_them_back_for_a_moment(rig: Rig) -> None:
    rig.waiting = 1
    rig.look_up()
    await rig.pass_(QUIET - 0.05)
    assert not rig.begun
    await rig.pass_(POLL + 0.1)
    assert len(rig.begun) == 1


async def test_look_ups_without_end_do_not_hold_them_back_for_ever(rig: Rig) -> None:
    rig.waiting = 1000
    for _ in range(round((PATIENCE - 0.1) / 0.1)):
        rig.look_up()
        await rig.pass_(0.1)
    assert not rig.begun
    for _ in range(30):
        rig.look_up()
        await rig.pass_(0.1)
    assert 3 <= len(rig.begun) <= 3.0 / BUSY_PAUSE + 1, "from then on, but seldom"
    rig.clock.advance(QUIET)
    await rig.pass_(0.2)
    begun = len(rig.begun)
    rig.look_up()
    await rig.pass_(PATIENCE - 1.0)
    assert len(rig.begun) > begun, "nobody is in a hurry any more"
