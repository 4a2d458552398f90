"""Waiting for what happens elsewhere: asked again and again until a deadline, never for a fixed time.

The deadline only ends what would hang. It is long because a machine that is shared can stand still for seconds.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

from federation.errors import TimedOut

DEADLINE = 30.0
"""Seconds after which nobody believes any more that it will come."""

START = 90.0
"""Seconds for what begins with new processes: many at once share few cores, and each imports for seconds then."""

ANSWER = 15.0
"""Seconds for one answer from a process that runs; ordinary clients wait as long or longer."""

_PAUSE = 0.01


async def until(condition: Callable[[], Any], *, seconds: float = DEADLINE, what: str = "") -> Any:
    """The first true value of `condition`, which may return an awaitable. Raises TimedOut, naming `what`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        _check(deadline, seconds, what)
        await asyncio.sleep(_PAUSE)


def until_now(condition: Callable[[], Any], *, seconds: float = DEADLINE, what: str = "") -> Any:
    """As `until`, where there is no event loop: the thread waits."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        _check(deadline, seconds, what)
        time.sleep(_PAUSE)
    return value


def _check(deadline: float, seconds: float, what: str) -> None:
    if time.monotonic() >= deadline:
        raise TimedOut(f"{what or 'what was waited for'} did not come within {seconds:g} s")
