"""What everyone with one filter sees of a log: one bit per key, and the digest, shared by all of their sessions.

Arrives: each change of the log, at once. Leaves: whether a key is visible now, and since when it is no longer; so a
session (federation.catalog.source) needs no memory per record. A `Visible` predicate must not change its mind: whoever
changes what a consumer may see gives its session a new predicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from federation.catalog.frames import DIGEST_MASK
from federation.catalog.log import NAMED, Entry, Log
from federation.model.record import Key, Kind, Record

Visible = Callable[[Record], bool]


def everything(record: Record) -> bool:
    """The filter that hides nothing."""
    return True


class Audience:
    """One (predicate, kinds) over one log. `by_name`: the kind subscribed to by name is left to the sessions."""

    def __init__(self, log: Log, visible: Visible, kinds: frozenset[Kind], *, by_name: bool) -> None:
        self.log, self.visible, self.kinds, self.by_name = log, visible, kinds, by_name
        self.removed: dict[Key, int] = {}  # when a key that was visible went away
        self.memo: dict[Any, Any] = {}  # steps of sessions at the present revision
        self.memo_revision = -1
        self.last: tuple[Any, int, int, Any] | None = None  # the newest of them: (cursor, revision, frame size, step)
        self._bits = bytearray(log.slots // 8 + 1)
        self._sums: dict[str, list[int]] = {}  # origin -> [digest, count]
        self._total: tuple[int, int, int] = (-1, 0, 0)
        for entry in log.entries():
            if entry.live:
                if self.wants(entry.record):
                    self._add(entry)
            elif entry.shown is not None and self.wants(entry.shown):
                self.removed[entry.record.key] = entry.revision
        for entry in log.staged():
            if self.wants(entry.record):
                self._add(entry)
        log.watchers.add(self)

    @classmethod
    def of(cls, log: Log, visible: Visible, kinds: frozenset[Kind], *, by_name: bool) -> Audience:
        """The audience with this filter, shared while any session uses it."""
        for known in log.watchers:
            if (
                isinstance(known, Audience)
                and known.visible == visible
                and known.kinds == kinds
                and known.by_name == by_name
            ):
                return known
        return cls(log, visible, kinds, by_name=by_name)

    def wants(self, record: Record) -> bool:
        kind = record.key.kind
        if self.by_name and kind is NAMED:
            return False
        return kind in self.kinds and self.visible(record)

    def holds(self, entry: Entry) -> bool:
        """Whether the entry is visible now."""
        index = entry.slot >> 3
        return index < len(self._bits) and bool(self._bits[index] & (1 << (entry.slot & 7)))

    def shows(self, origin: str) -> bool:
        """Whether anything of the origin is visible now."""
        return origin in self._sums

    def origins(self) -> Iterator[str]:
        return iter(self._sums)

    def total(self) -> tuple[int, int]:
        """(digest, count) over what is visible of complete origins."""
        revision, digest, count = self._total
        if revision != self.log.revision:
            digest = count = 0
            for name, (part, number) in self._sums.items():
                origin = self.log.origin(name)
                if origin is not None and origin.completed:
                    digest += part
                    count += number
            digest &= DIGEST_MASK
            self._total = (self.log.revision, digest, count)
        return digest, count

    # --- told by the log ---------------------------------------------------------------------------------------------

    def changed(self, entry: Entry, old: Record | None, old_digest: int) -> None:
        key = entry.record.key
        if self.holds(entry):
            self._subtract(entry, key.origin, old_digest)
            held = True
        else:
            held = False
        if entry.live and self.wants(entry.record):
            self._add(entry)
            self.removed.pop(key, None)
        elif held:
            self.removed[key] = entry.revision

    def dropped(self, entry: Entry) -> None:
        if self.holds(entry):
            self._subtract(entry, entry.record.key.origin, entry.digest)
        self.removed.pop(entry.record.key, None)

    def _add(self, entry: Entry) -> None:
        index = entry.slot >> 3
        if index >= len(self._bits):
            self._bits.extend(bytes(max(index + 1 - len(self._bits), len(self._bits) // 2)))
        self._bits[index] |= 1 << (entry.slot & 7)
        name = entry.record.key.origin
        sums = self._sums.get(name)
        if sums is None:
            self._sums[name] = [entry.digest, 1]
        else:
            sums[0] = (sums[0] + entry.digest) & DIGEST_MASK
            sums[1] += 1

    def _subtract(self, entry: Entry, origin: str, digest: int) -> None:
        self._bits[entry.slot >> 3] &= ~(1 << (entry.slot & 7)) & 0xFF
        sums = self._sums[origin]
        sums[0] = (sums[0] - digest) & DIGEST_MASK
        sums[1] -= 1
        if not sums[1]:
            del self._sums[origin]
