import asyncio
import gc
import os
import signal

import pytest

from federation.aio import tasks
from federation.aio.tasks import cancel, first_of, on_signals, run, wait_for_signal


async def test_cancel_waits_for_the_end():
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            ended = True

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    await cancel(task)
    assert ended
    await cancel(None)


async def test_cancel_raises_what_had_failed():
    async def broken() -> None:
        raise RuntimeError("lost")

    task = asyncio.ensure_future(broken())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="lost"):
        await cancel(task)


async def test_the_first_of_several_ends_the_others():
    event, ended = asyncio.Event(), []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    async def raise_it() -> None:
        await event.wait()

    waiting = asyncio.ensure_future(first_of(raise_it(), work()))
    await asyncio.sleep(0)
    assert not waiting.done()
    event.set()
    await waiting
    assert ended == ["work"]

    event.clear()
    waiting = asyncio.ensure_future(first_of(raise_it(), work()))
    await asyncio.sleep(0)
    await cancel(waiting)
    assert ended == ["work", "work"], "nor do they outlive who waits"


def test_sigterm_ends_a_process_in_order():
    async def main() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5):
            await wait_for_signal()
        return "orderly"

    async def armed() -> str:
        with on_signals(lambda: None):
            return await main()

    thresholds = gc.get_threshold()
    try:
        # The inner wait installs its own handlers before the loop runs the pending signal's callback.
        assert run(armed()) == "orderly"
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def test_what_a_process_holds_once_it_is_up_is_out_of_the_collector_s_sight(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tasks, "FREEZE_AFTER", 0.0)
    thresholds = gc.get_threshold()

    async def main() -> int:
        before = gc.get_freeze_count()
        held = [[] for _ in range(1000)]
        async with asyncio.timeout(5):
            while gc.get_freeze_count() < before + 1000:
                await asyncio.sleep(0.001)
        return len(held)

    try:
        assert run(main()) == 1000
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
