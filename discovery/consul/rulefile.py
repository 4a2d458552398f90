"""The file of rules on disk: followed, and written for `fedctl export`.

A file that is bad, missing or suddenly empty changes nothing: its last good content counts, and a Problem says so. What
changed is read when two looks find it equal, as nobody says when an editor has finished.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from discovery.consul import rules
from discovery.consul.rules import Rule, Rules
from federation.aio.clock import Clock
from federation.aio.files import write_atomic
from federation.errors import Conflict, IsthmusError, StorageFailed
from federation.log import Logger
from federation.model.cluster import Problem

_POLL_SECONDS, _SETTLE_SECONDS = 1.0, 0.25

_Fingerprint: TypeAlias = tuple[int, int, int]


class RuleFile:
    """`run` until cancelled. `on_rules` gets the rules whenever they are others."""

    def __init__(
        self,
        path: Path,
        on_rules: Callable[[Rules], None],
        *,
        on_problem: Callable[[], None],
        clock: Clock,
        log: Logger,
    ) -> None:
        self.path = path
        self.problem: Problem | None = None
        self.good = b""
        """The text of the rules that count."""
        self._rules = Rules()
        self._on_rules, self._on_problem, self._clock, self._log = on_rules, on_problem, clock, log
        self._seen: _Fingerprint | None = None
        self._lock = asyncio.Lock()

    def remember(self, text: bytes) -> None:
        """What counted before the agent started."""
        try:
            found = rules.parse(text, where=str(self.path))
        except IsthmusError as error:
            self._log.warning("rules of another version", error=str(error))
            return
        self._count(text, found)

    async def run(self) -> None:
        """Follow the file."""
        unsettled: _Fingerprint | None = None
        while True:
            now = _fingerprint(self.path)
            if now == self._seen and (now is not None or self.problem is not None or not self.good):
                unsettled = None
                await self._clock.sleep(_POLL_SECONDS)
            elif now is not None and now != unsettled:
                unsettled = now
                await self._clock.sleep(_SETTLE_SECONDS)
            else:
                await self.look()
                unsettled = None
                await self._clock.sleep(_SETTLE_SECONDS)

    async def look(self) -> None:
        """Read the file."""
        async with self._lock:
            await self._look()

    async def replace(self, old: Rule | None, new: Rule | None) -> str:
        """Take out `old`, put in `new`; where that is, as FILE:LINE. Raises Conflict, StorageFailed, and
        InvalidSettings for a file that cannot be read as it is now."""
        async with self._lock:
            data = await self._now()
            where = str(self.path)
            before = rules.parse(data, where=where)  # somebody may just have edited it
            line = 1
            if old in before.rules:
                index = before.rules.index(old)
                line = before.lines[index]
                data = rules.remove(data, index, where=where)
            elif old is not None:
                raise Conflict(f"{where} has changed", hint="try again")
            if new is not None:
                data = rules.add(data, new, where=where)
                line = rules.parse(data, where=where).lines[0]
            await asyncio.to_thread(write_atomic, self.path, data, mode=0o644)
            self._take(data)
            self._seen = _fingerprint(self.path)
            return f"{where}:{line}"

    def where(self, rule: Rule) -> str:
        """Where a rule is, as FILE:LINE."""
        return f"{self.path}:{self._rules.lines[self._rules.rules.index(rule)]}"

    async def _now(self) -> bytes:
        try:
            return await asyncio.to_thread(self.path.read_bytes)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StorageFailed(f"cannot read {self.path}: {error.strerror}") from error

    async def _look(self) -> None:
        self._seen = _fingerprint(self.path)
        try:
            data = await asyncio.to_thread(_read, self.path)
        except FileNotFoundError:
            self._bad("rules_gone", "does not exist") if self.good else self._tell(None)
            return
        except OSError as error:
            self._bad("rules_unreadable", f"cannot be read: {error.strerror}")
            return
        if self._rules.rules and not data.strip():
            self._bad("rules_gone", 'is empty; write "exports: []" to export nothing')
            return
        try:
            self._take(data)
        except IsthmusError as error:
            self._bad("rules_invalid", error.message.removeprefix(f"{self.path}: "))

    def _take(self, data: bytes) -> None:
        found = rules.parse(data, where=str(self.path))
        self._tell(None)
        if data != self.good:
            self._count(data, found)

    def _count(self, data: bytes, found: Rules) -> None:
        self.good, self._rules = data, found
        self._on_rules(found)

    def _bad(self, code: str, detail: str) -> None:
        rest = "; its last good content counts" if self._rules.rules else ""
        self._tell(Problem(code, str(self.path), detail + rest))

    def _tell(self, problem: Problem | None) -> None:
        if problem != self.problem:
            if problem is not None:
                self._log.warning("rules refused", code=problem.code, detail=problem.detail)
            self.problem = problem
            self._on_problem()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(rules.MAX_BYTES + 1)


def _fingerprint(path: Path) -> _Fingerprint | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
