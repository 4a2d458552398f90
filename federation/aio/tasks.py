"""Named tasks under an owner, and an orderly end of a process on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

FREEZE_AFTER = 10.0
"""Seconds after the start at which a process has read what it serves."""


async def cancel(task: asyncio.Task[Any] | None) -> None:
    """Cancel `task` and wait for its end; its own cancellation is not an error, another failure is raised."""
    if task is None:
        return
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def first_of(*waits: Awaitable[Any]) -> None:
    """Wait until one of them has happened; the others are cancelled, and none of them outlives this."""
    tasks = [asyncio.ensure_future(one) for one in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def unless(stop: asyncio.Event, opening: Coroutine[Any, Any, T]) -> T | None:
    """The result of `opening`, or None when `stop` is set first: it is then cancelled."""
    task = asyncio.create_task(opening, name="opening")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await cancel(stopping)
        if not task.done():
            await cancel(task)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a process's main coroutine on uvloop.

    What was imported, and what the process holds once it is up, is hardly ever garbage: it is taken out of the
    collector's sight, and full collections become rare, because one of them stops a process with 10,000 services for
    hundreds of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)

    async def begun() -> T:
        asyncio.get_running_loop().call_later(FREEZE_AFTER, gc.freeze)
        return await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(begun())


@contextlib.contextmanager
def on_signals(callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback` on the first SIGTERM or SIGINT; the second one ends the process as usual."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def first(number: int) -> None:
        for n in numbers:
            loop.remove_signal_handler(n)
        callback()

    for n in numbers:
        loop.add_signal_handler(n, first, n)
    try:
        yield
    finally:
        for n in numbers:
            loop.remove_signal_handler(n)


async def wait_for_signal() -> None:
    """Return on the first SIGTERM or SIGINT."""
    stop = asyncio.Event()
    with on_signals(stop.set):
        await stop.wait()
