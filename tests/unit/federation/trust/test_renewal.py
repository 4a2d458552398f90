"""The renewer on a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
import structlog

from federation.aio.backoff import Backoff
from federation.aio.clock import FakeClock
from federation.aio.tasks import cancel
from federation.errors import Unavailable
from federation.trust.renewal import Renewer, obtain
from federation.trust.svid import utc


@dataclass(frozen=True)
class Card:
    """The least that can be renewed."""

    number: int
    issued_at: datetime
    not_after: datetime


class Office:
    def __init__(self, clock: FakeClock, life: float) -> None:
        self.clock, self.life = clock, timedelta(seconds=life)
        self.asked = 0
        self.open = True

    def card(self) -> Card:
        now = utc(self.clock)
        return Card(self.asked, now, now + self.life)

    async def renew(self) -> Card:
        self.asked += 1
        if not self.open:
            raise Unavailable("closed")
        return self.card()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def advance(clock: FakeClock, seconds: float, *, step: float = 1.0) -> None:
    while seconds > 0:
        clock.advance(min(step, seconds))
        seconds -= step
        await settle()


@asynccontextmanager
async def running(
    office: Office, *, uniform: Callable[[float, float], float] = lambda low, high: (low + high) / 2
) -> AsyncIterator[Renewer[Card]]:
    renewer = Renewer(
        office.card(),
        office.renew,
        clock=office.clock,
        log=structlog.get_logger(),
        backoff=Backoff(base=1.0, cap=8.0, uniform=lambda low, high: high),
        uniform=uniform,
    )
    task = asyncio.create_task(renewer.run(), name="renewer")
    await settle()
    try:
        yield renewer
    finally:
        await cancel(task)


async def test_renewed_at_half_of_the_life(clock: FakeClock) -> None:
    office = Office(clock, 3600)
    async with running(office) as renewer:
        await advance(clock, 1799, step=10)
        assert renewer.current.number == 0
        await advance(clock, 2)
        assert renewer.current.number == 1
        assert renewer.latest.version == 1
        assert 3590 < renewer.expires_in() <= 3600
        await advance(clock, 1805, step=10)
        assert renewer.current.number == 2


@pytest.mark.parametrize(("pick", "at"), [(min, 1440), (max, 2160)])
async def test_jitter_spreads_around_the_middle(
    clock: FakeClock, pick: Callable[[float, float], float], at: int
) -> None:
    office = Office(clock, 3600)
    async with running(office, uniform=pick) as renewer:
        await advance(clock, at - 2, step=10)
        assert renewer.current.number == 0
        await advance(clock, 4)
        assert renewer.current.number == 1


@pytest.mark.parametrize(("life", "at"), [(30.0, 15.0), (16.0, 6.0), (8.0, 2.0)])
async def test_a_short_life_leaves_time_for_the_renewal(clock: FakeClock, life: float, at: float) -> None:
    office = Office(clock, life)
    async with running(office) as renewer:
        await advance(clock, at - 0.1, step=0.1)
        assert renewer.current.number == 0
        await advance(clock, 0.2, step=0.1)
        assert renewer.current.number == 1


async def test_failures_are_retried_without_end_and_the_old_one_stays(clock: FakeClock) -> None:
    office = Office(clock, 100)
    async with running(office) as renewer:
        office.open = False
        await advance(clock, 1000)
        assert renewer.current.number == 0
        assert renewer.failures > 50
        assert renewer.expires_in() < 0
        office.open = True
        await advance(clock, 9)
        assert renewer.failures == 0
        assert renewer.expires_in() > 80


async def test_a_suspended_machine_renews_when_it_wakes(clock: FakeClock) -> None:
    office = Office(clock, 36_000)
    async with running(office) as renewer:
        clock._wall += int(30_000 * 1e9)  # the monotonic clock stood still meanwhile
        await advance(clock, 61)
        assert renewer.current.number == 1


async def test_a_clock_that_is_set_back_does_not_stop_renewals(clock: FakeClock) -> None:
    office = Office(clock, 3600)
    async with running(office) as renewer:
        clock._wall -= int(86_400 * 1e9)
        await advance(clock, 1801, step=10)
        assert renewer.current.number == 1


async def test_what_signs_nothing_that_lasts_is_not_hammered(clock: FakeClock) -> None:
    office = Office(clock, 0)
    async with running(office):
        await advance(clock, 10, step=0.05)
        assert 10 <= office.asked <= 60


async def test_the_first_one_is_waited_for(clock: FakeClock) -> None:
    office = Office(clock, 100)
    office.open = False
    task = asyncio.create_task(obtain(office.renew, clock=clock, log=structlog.get_logger()), name="obtain")
    await settle()
    await advance(clock, 300)
    assert not task.done()
    office.open = True
    await advance(clock, 11)
    assert (await task).number == office.asked
