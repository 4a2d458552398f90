"""Starts what the harness runs, so that nothing of it outlives the harness, be that killed with -9."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from federation.aio.launch import die_with_parent

# To the kernel a child's parent is the thread that started it, and threads of asyncio.to_thread end with their loop.
# This one ends with the interpreter, and takes along whatever was not stopped until then.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clusters-starter")


def start_child(command: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, with `log` appended to; it is killed when this process is gone.

    Raises OSError when the log cannot be written.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    return _STARTER.submit(_start, die_with_parent(command), log).result()


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
