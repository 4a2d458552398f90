"""Clusters of processes that no longer run: a demo or a session of tests that was killed before it removed them."""

from __future__ import annotations

import os
import re

from clusters.kind import engine
from clusters.kind.harness import remove_marked
from clusters.progress import Say, silent


def prefix(purpose: str) -> str:
    """What the names of clusters begin with that end with this process."""
    return f"{purpose}-{os.getpid()}"


async def sweep(purpose: str, *, say: Say = silent) -> None:
    """Remove the clusters of that purpose whose process has ended."""
    marks = {mark for node in await engine.nodes() for mark in node.marks}
    for mark in sorted(marks):
        found = re.fullmatch(rf"{re.escape(purpose)}-(\d+)\..+", mark)
        if found and not os.path.exists(f"/proc/{found[1]}"):  # noqa: ASYNC240 - it is no disk
            await remove_marked(mark, say=say)
