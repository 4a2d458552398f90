"""The writer's queue: each name once, what hurries first, failures later."""

from __future__ import annotations

import asyncio

import pytest

from discovery.mcs.queue import WorkQueue
from federation.aio.clock import FakeClock
from federation.aio.tasks import cancel
from federation.model.ids import ServiceName

A, B, C = (ServiceName("shop", name) for name in "abc")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> WorkQueue:
    return WorkQueue(clock)


async def empty(queue: WorkQueue) -> bool:
    taking = asyncio.ensure_future(queue.take())
    for _ in range(3):
        await asyncio.sleep(0)
    waits = not taking.done()
    await cancel(taking) if waits else queue.done(taking.result())
    return waits


async def test_each_name_once_and_what_changed_before_the_slow_round(queue: WorkQueue) -> None:
    queue.add([A, B], slow=True)
    queue.add([C, B])
    queue.add([C])
    assert [await queue.take() for _ in range(3)] == [C, B, A]
    assert len(queue) == 3
    for name in (A, B, C):
        queue.done(name)
    assert await empty(queue)
    assert len(queue) == 0


async def test_a_name_is_not_worked_on_twice_at_once_and_nothing_is_lost(queue: WorkQueue) -> None:
    queue.add([A])
    assert await queue.take() == A
    queue.add([A])
    assert await empty(queue)
    queue.done(A)
    assert await queue.take() == A


async def test_a_name_that_failed_waits_unless_something_else_is_wanted_of_it(
    queue: WorkQueue, clock: FakeClock
) -> None:
    running = asyncio.ensure_future(queue.run())
    try:
        queue.add([A])
        queue.later(await queue.take(), 5.0)
        queue.done(A)
        queue.add([A], hurry=False)
        assert await empty(queue)
        clock.advance(5.1)
        assert await asyncio.wait_for(queue.take(), 5) == A
        queue.later(A, 5.0)
        queue.done(A)
        queue.add([A])
        assert await asyncio.wait_for(queue.take(), 5) == A
    finally:
        await cancel(running)


async def test_what_happens_to_a_name_while_it_fails_does_not_bring_it_back_early(
    queue: WorkQueue, clock: FakeClock
) -> None:
    running = asyncio.ensure_future(queue.run())
    try:
        queue.add([A])
        await queue.take()
        queue.add([A], hurry=False)
        queue.later(A, 5.0)
        queue.done(A)
        assert await empty(queue)
        assert len(queue) == 1
    finally:
        await cancel(running)
