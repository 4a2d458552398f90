"""A program of the harness that is no Python of ours: started, broken, healed and ended by its process id.

It dies with this process however this process ends: see `clusters.children`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusters.children import start_child
from federation.errors import Unavailable


class Program:
    """One program with its command line and its log, which is appended to by each start."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name, self.command, self.log = name, tuple(command), log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether it has been started and has not ended; a paused program is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Raises Unavailable when it does not run."""
        if self._process is None or not self.alive:
            raise Unavailable(f"{self.name} does not run")
        return self._process.pid

    def start(self) -> None:
        """Start it without waiting for anything; raises Unavailable when it runs already or is no program."""
        if self.alive:
            raise Unavailable(f"{self.name} runs already")
        if shutil.which(self.command[0]) is None:
            raise Unavailable(f"{self.name} cannot be started: there is no program {self.command[0]}")
        try:
            self._process = start_child(self.command, self.log)
        except OSError as error:
            raise Unavailable(f"{self.name} cannot be started: {error}") from error

    def kill(self) -> float:
        """SIGKILL; returns the monotonic time of it (s). Raises Unavailable when it does not run."""
        pid, moment = self.pid, time.monotonic()
        os.kill(pid, signal.SIGKILL)
        assert self._process is not None  # noqa: S101 - `pid` has seen it
        self._process.wait(timeout=30)
        return moment

    def pause(self) -> float:
        """Stop it where it stands (SIGSTOP): its connections stay open and nothing answers. Returns the time (s)."""
        moment = time.monotonic()
        os.kill(self.pid, signal.SIGSTOP)
        return moment

    def resume(self) -> float:
        """Let it go on after `pause`; returns the monotonic time of it (s)."""
        os.kill(self.pid, signal.SIGCONT)
        return time.monotonic()

    def end(self) -> None:
        """End it in whatever state it is, paused too; does nothing when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)

    def resident(self) -> int:
        """Bytes of memory that it holds now (RSS)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def whole_lines(log: Path) -> list[str]:
    """The lines of a log that may be being written, each of which has ended; none where there is no log yet."""
    try:
        *lines, _unfinished = log.read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return []
    return lines


def events(log: Path) -> list[dict[str, Any]]:
    """What a program has logged so far as JSON, an object a line; what else is in its log is left out."""
    found = []
    for line in whole_lines(log):
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [event for event in found if isinstance(event, dict)]


def last_line(log: Path) -> str:
    """The last line of a log, for an error message."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        if lines:
            return lines[-1][:300]
    return f"nothing in {log}"
