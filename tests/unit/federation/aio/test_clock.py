import asyncio

from federation.aio.clock import FakeClock, SystemClock


async def test_sleepers_wake_in_order_of_their_deadlines_and_not_before():
    clock = FakeClock()
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("late", 2))
        group.create_task(sleeper("early", 1))
        await asyncio.sleep(0)
        clock.advance(0.5)
        await asyncio.sleep(0)
        assert woken == []
        clock.advance(1.5)
    assert woken == ["early", "late"]


def test_wall_and_monotonic_time_advance_together():
    clock = FakeClock(monotonic=1.0, wall_ns=5)
    clock.advance(2.0)
    assert (clock.monotonic(), clock.wall_ns()) == (3.0, 2_000_000_005)


async def test_the_system_clock_moves():
    clock = SystemClock()
    before = clock.monotonic(), clock.wall_ns()
    await clock.sleep(0.001)
    assert clock.monotonic() > before[0]
    assert clock.wall_ns() > before[1]
