"""Changes to files of the host that can be taken back: what is to be done, and undone, as pure functions.

Arrive: what should stand at each path, what stands there, and the journal of what we did before. Leaves: a Plan, which
sidecar.vm.host carries out. The journal is written before the first step, so a run that was cut off is finished, or
undone, by the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from federation.errors import Conflict


class Content(msgspec.Struct, frozen=True):
    """What stands at a path: a file (`data`, `mode`), a symbolic link (`link`, its text as it is), or nothing."""

    data: bytes | None = None
    mode: int = 0o644
    link: str = ""

    @classmethod
    def text(cls, text: str, mode: int = 0o644) -> Content:
        return cls(data=text.encode(), mode=mode)

    @property
    def absent(self) -> bool:
        return self.data is None and not self.link

    @property
    def digest(self) -> str:
        """Tells two contents apart; the mode does not count, since others may tighten it."""
        if self.absent:
            return "absent"
        return hashlib.sha256(b"link\0" + self.link.encode() if self.link else self.data or b"").hexdigest()


ABSENT = Content()
_REMEMBERED = 15
"""Versions of one file that are known for ours, besides the newest: a DHCP client may make many."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One path: what stood there before us, and the digests of all that we have put there."""

    path: str
    before: Content
    written: tuple[str, ...]


class Journal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What we changed, in order; `folders` are those that we made.

    `stop` and `undo`: the commands before it is taken back, and after. `finished`: all of it was done, commands too.
    """

    version: int = 1
    entries: tuple[Entry, ...] = ()
    folders: tuple[str, ...] = ()
    stop: tuple[tuple[str, ...], ...] = ()
    undo: tuple[tuple[str, ...], ...] = ()
    finished: bool = False

    def entry(self, path: str) -> Entry | None:
        return next((e for e in self.entries if e.path == path), None)


@dataclass(frozen=True, slots=True)
class Step:
    """Make `path` what `content` says."""

    path: str
    content: Content


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`journal` as it is to be written before the steps; `kept`: paths that others changed, which we leave alone."""

    journal: Journal
    steps: tuple[Step, ...] = ()
    kept: tuple[str, ...] = ()


def plan(
    wanted: Mapping[str, Content],
    actual: Mapping[str, Content],
    journal: Journal,
    *,
    adopt: Collection[str] = (),
    replace: bool = False,
) -> Plan:
    """Make each path of `wanted` what it says, and put back what an earlier run had changed and this one does not want.

    `adopt`: paths that others may rewrite (a DHCP client): what they wrote is from now on what stood there before.
    `replace`: so for all. Raises Conflict for a path that was changed by others since we wrote it.
    """
    entries = {e.path: e for e in journal.entries}
    steps: list[Step] = []
    for path, content in wanted.items():
        there, entry = actual[path], entries.get(path)
        if entry is None:
            if there.digest == content.digest:
                continue  # somebody else put the very same there: not ours to remove
            entries[path] = Entry(path=path, before=there, written=(content.digest,))
        elif there.digest not in (*entry.written, entry.before.digest):
            if path not in adopt and not replace:
                raise _changed(path)
            entries[path] = Entry(path=path, before=there, written=(content.digest,))
        elif content.digest not in entry.written:
            entries[path] = msgspec.structs.replace(entry, written=(*entry.written[-_REMEMBERED:], content.digest))
        if there.digest != content.digest or (content.data is not None and there.mode != content.mode):
            steps.append(Step(path, content))
    dropped, kept = _undo([e for p, e in entries.items() if p not in wanted], actual)
    left = tuple(e for p, e in entries.items() if p in wanted or p in kept)
    return Plan(
        journal=msgspec.structs.replace(journal, entries=left), steps=(*dropped, *steps), kept=tuple(sorted(kept))
    )


def plan_removal(journal: Journal, actual: Mapping[str, Content], *, keep_changed: bool = False) -> Plan:
    """Put back everything that stood there before, the last change first.

    What others changed since is left as it is, and stays in the journal unless `keep_changed` says to forget it.
    """
    steps, kept = _undo(journal.entries, actual)
    left = () if keep_changed else tuple(e for e in journal.entries if e.path in kept)
    return Plan(journal=msgspec.structs.replace(journal, entries=left), steps=tuple(steps), kept=tuple(sorted(kept)))


def _undo(entries: Collection[Entry], actual: Mapping[str, Content]) -> tuple[list[Step], set[str]]:
    steps: list[Step] = []
    kept: set[str] = set()
    for entry in reversed(list(entries)):
        there = actual[entry.path]
        if there.digest == entry.before.digest:
            continue
        if there.digest in entry.written or there.absent:
            steps.append(Step(entry.path, entry.before))
        else:
            kept.add(entry.path)
    return steps, kept


def _changed(path: str) -> Conflict:
    return Conflict(
        f"{path} was changed by somebody else since it was written for isthmus",
        hint="keep a copy, then run this again with --replace, or put the file back as it was",
        code="file_changed",
    )
