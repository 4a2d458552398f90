"""Several parts of a harness that start at the same time, all or none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from federation.errors import IsthmusError


async def start_together(starts: Mapping[str, Coroutine[Any, Any, None]], *, stop: Callable[[], None]) -> None:
    """Run `starts` (by name) at once; when one fails, `stop` ends them all, and what it failed with is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for name, start in starts.items():
                group.create_task(start, name=f"start {name}")
    except BaseException as error:
        stop()
        if isinstance(error, BaseExceptionGroup) and isinstance(error.exceptions[0], IsthmusError):
            raise error.exceptions[0] from error
        raise
