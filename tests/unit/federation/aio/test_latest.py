import asyncio

from federation.aio.latest import Latest


async def test_a_slow_reader_sees_only_the_newest():
    latest = Latest("a")
    latest.set("b")
    latest.set("c")
    assert await latest.newer(0) == (2, "c")


async def test_every_reader_is_woken():
    latest = Latest(0)

    async def read() -> tuple[int, int]:
        return await latest.newer(latest.version)

    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read()) for _ in range(3)]
        await asyncio.sleep(0)
        latest.set(7)
    assert [r.result() for r in readers] == [(1, 7)] * 3


async def test_a_cancelled_reader_leaves_nothing_behind():
    latest = Latest(0)
    task = asyncio.ensure_future(latest.newer(0))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not latest._waiters
