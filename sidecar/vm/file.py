"""The services file as it is followed: read when it changes, and believed when it is whole.

A file that is broken or gone changes nothing but the problems: what was read last counts, also after a restart.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from federation.aio.clock import Clock
from federation.aio.files import read_state
from federation.aio.saver import Saver
from federation.errors import CorruptState, IsthmusError, StorageFailed
from federation.log import Logger
from federation.registry.edge.problems import Problems
from sidecar.vm.definition import Definition
from sidecar.vm.services import MAX_BYTES, ServicesError, parse

LOOK = 0.5
"""Seconds between two looks. A change is read when two of them find it equal: it could be half written."""
MALFORMED, UNREADABLE = ServicesError.code, "services_unreadable"

_Seen: TypeAlias = tuple[int, int, int, int]


class ServicesFile:
    """`content` is None until the file, or what is kept of it, could once be read; `on_change` tells of a new one."""

    def __init__(
        self,
        path: Path,
        *,
        kept: Path,
        problems: Problems,
        on_change: Callable[[], None],
        clock: Clock,
        log: Logger,
    ) -> None:
        """`kept`: the last good content, in the state directory."""
        self.content: tuple[Definition, ...] | None = None
        self._path, self._kept, self._problems = path, kept, problems
        self._on_change, self._clock, self._log = on_change, clock, log
        self._seen: _Seen | None = None
        self._before: _Seen | None = None
        self._wrong: tuple[str, str] | None = None
        self._data = b""
        self._saver = Saver(kept, lambda: self._data, interval=1.0, clock=clock, on_result=self._saved)

    def load(self) -> None:
        """Read it for the first time, or what is kept of it."""
        self._seen = self._before = self._look()
        if self._seen is not None:
            self._read()
        if self.content is None:
            self._load_kept()

    async def run(self) -> None:
        """Follow the file, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._saver.run(), name="services-kept")
            while True:
                await self._clock.sleep(LOOK)
                self.look()

    def look(self) -> None:
        """One look: read what has changed since the last but one, and not since the last."""
        seen = self._look()
        if seen is not None and seen != self._seen and seen == self._before:
            self._seen, before = seen, self.content
            self._read()
            if self.content != before:
                self._on_change()
        self._before = seen

    async def close(self) -> None:
        """Write what is to be kept."""
        await self._saver.flush()

    def _look(self) -> _Seen | None:
        try:
            found = os.stat(self._path)
        except OSError as error:
            self._note(UNREADABLE, str(self._path), f"cannot be read: {error.strerror}")
            self._seen = None  # whatever comes there next is looked at
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns

    def _read(self) -> None:
        """Take its content, if it is good."""
        try:
            with open(self._path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
            self.content = parse(data)
        except OSError as error:
            self._note(UNREADABLE, str(self._path), f"cannot be read: {error.strerror}")
        except ServicesError as error:
            self._note(MALFORMED, f"{self._path}:{error.line}", error.message)
        else:
            self._data = data
            self._saver.touch()
            self._note()
            self._log.info("services file read", file=str(self._path), services=len(self.content))

    def _load_kept(self) -> None:
        try:
            data = read_state(self._kept)
            self.content = parse(data) if data is not None else None
        except (CorruptState, StorageFailed, ServicesError) as error:
            self._log.warning("kept services cannot be used", error=str(error))
        if self.content is not None:
            self._log.warning("services as they were before the start", services=len(self.content))

    def _saved(self, error: IsthmusError | None) -> None:
        if error is None:
            self._problems.clear("storage_failed", str(self._kept))
        else:
            self._problems.set("storage_failed", str(self._kept), str(error))

    def _note(self, code: str = "", subject: str = "", detail: str = "") -> None:
        """What is wrong with the file now; nothing, where there is no code."""
        wrong = (code, subject) if code else None
        if self._wrong is not None and self._wrong != wrong:
            self._problems.clear(*self._wrong)
        if wrong is not None:
            rest = "what was read before counts" if self.content is not None else "nothing is offered"
            self._problems.set(code, subject, f"{detail}; {rest}")
        self._wrong = wrong
