"""Several parts of a harness at the same time: all or none, or each as far as it comes."""

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


async def finish_together(works: Mapping[str, Coroutine[Any, Any, None]], *, at_once: int = 0) -> None:
    """Run `works` (by name) at once, or `at_once` of them; each is finished before the first error of one is raised."""
    errors: list[IsthmusError] = []
    limit = asyncio.Semaphore(at_once or max(1, len(works)))

    async def finish(work: Coroutine[Any, Any, None]) -> None:
        try:
            async with limit:
                await work
        except IsthmusError as error:
            errors.append(error)

    async with asyncio.TaskGroup() as group:
        for name, work in works.items():
            group.create_task(finish(work), name=name)
    if errors:
        raise errors[0]
