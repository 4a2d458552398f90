"""Keeps what a source offers: the newest record of every key, in the order of the changes. No I/O.

Arrives: records and origins from whoever owns the log (the registry's intake, an agent's merge). Leaves: revisions; the
sessions of consumers (federation.catalog.source) read on from the revision that they reached, so a slow consumer
costs nothing and skips what was overwritten meanwhile. docs/protocol.md tells the rules.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol
from weakref import WeakSet

from federation.aio.latest import Latest
from federation.catalog.frames import fingerprint, record_bytes
from federation.errors import InvalidInput
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version

MAX_RECORD_BYTES = 1 << 20
"""The largest payload; a frame must stay far below gRPC's limit for one message."""

NAMED = Kind.IMPORT
"""The kind whose records consumers may subscribe to by name."""


class Entry:
    """The newest record of one key, and what is kept to send it."""

    __slots__ = ("digest", "record", "revision", "shown", "slot", "wire")

    def __init__(self, slot: int) -> None:
        self.slot = slot  # a small number, for the bitmaps of the audiences
        self.revision = 0
        self.record: Record
        self.wire = b""
        self.digest = 0
        self.shown: Record | None = None  # the last record that was no tombstone: who could see it may see it go

    @property
    def live(self) -> bool:
        return self.record.payload is not None


NEVER = Version(0, 0)
NOBODY = Origin("", NEVER, OriginState.UNKNOWN)


@dataclass(slots=True)
class OriginEntry:
    """What the log knows of one origin."""

    origin: Origin
    stated: int = 0  # revision of the last change of state
    completed: int = 0  # revision at which the log first held all of it; 0: it never did
    floor: Version = NEVER  # the newest tombstone that is kept no longer
    entries: dict[Key, Entry] = field(default_factory=dict)

    @property
    def gone(self) -> bool:
        return self.origin.state is OriginState.GONE


class Watcher(Protocol):
    """Who must know of each change at once (federation.catalog.audience)."""

    def changed(self, entry: Entry, old: Record | None, old_digest: int) -> None: ...
    def dropped(self, entry: Entry) -> None: ...


class Log:
    """Records by key, versioned by their origins, numbered by revision.

    `history` names this numbering: a log that lost its state must be made with another. `keep` is the number of
    tombstones kept for consumers that resume; who comes from before them gets a snapshot.
    """

    def __init__(self, *, history: str, keep: int = 20_000) -> None:
        self.history = history
        self.revision = 0
        self.floor = 0  # revisions up to here cannot be resumed from
        self.changed: Latest[int] = Latest(0)
        self.watchers: WeakSet[Watcher] = WeakSet()
        self._keep = keep
        self._origins: dict[str, OriginEntry] = {}  # in the order of their last change of state
        self._arriving: dict[str, OriginEntry] = {}  # what `stage` was given of origins that nobody has heard of
        self._named: dict[str, dict[Key, Entry]] = {}
        self._revisions: list[int] = []  # rising; with _order: who changed when, stale where the entry moved on
        self._order: list[Entry] = []
        self._live = 0
        self._tombstones: deque[tuple[int, Entry]] = deque()
        self._dead = 0
        self._slots = 0
        self._free: list[int] = []
        self._listeners: dict[object, Callable[[], None]] = {}

    # --- writing -----------------------------------------------------------------------------------------------------

    def put(self, records: Iterable[Record]) -> bool:
        """Take over what is newer than what is held; older or equal versions, and old epochs, are ignored.

        A payload of None is a tombstone. True if anything changed. Raises InvalidInput for a payload that is too large.
        """
        before = self.revision
        for record in records:
            self._check(record)
            entry = self._origins.get(record.key.origin)
            if entry is None:
                entry = OriginEntry(Origin(record.key.origin, record.version, OriginState.LIVE))
                self._origins[record.key.origin] = entry
            elif entry.gone or record.version.epoch < entry.origin.version.epoch:
                continue
            held = entry.entries.get(record.key)
            if record.version <= (entry.floor if held is None else held.record.version):
                continue
            self._set(entry, record)
            self._raise(entry, record.version)
        return self._notify(before)

    def delete(self, key: Key, version: Version) -> bool:
        """Leave a tombstone as of `version`, or of what is held if that is newer. False if there is no such record."""
        before = self.revision
        entry = self._origins.get(key.origin)
        held = None if entry is None else entry.entries.get(key)
        if entry is None or held is None or not held.live:
            return False
        self._set(entry, Record(key, max(version, held.record.version), None))
        self._raise(entry, version)
        return self._notify(before)

    def set_origin(self, origin: Origin) -> bool:
        """State that an origin is LIVE or STALE; GONE drops its records. True if that is news."""
        before = self.revision
        entry = self._origins.get(origin.name)
        if entry is None:
            entry = OriginEntry(origin)
        elif entry.origin.state is origin.state:
            self._raise(entry, origin.version)
            return False
        self.revision += 1
        version = max(entry.origin.version, origin.version)
        if origin.state is OriginState.GONE:
            self.unstage(origin.name)
            for key in list(entry.entries):
                self._drop(entry, key)
            entry.completed = 0
        entry.origin = Origin(origin.name, version, origin.state)
        self._restate(entry)
        return self._notify(before)

    def reset_origin(self, name: str, version: Version, records: Iterable[Record]) -> bool:
        """Replace everything of an origin by a complete snapshot as of `version`; it is LIVE then.

        False, and nothing changes, when the origin is known to be newer already. What keeps its payload keeps its
        older version, so a restart of the origin is no change for its consumers. Raises InvalidInput for a record of
        another origin.
        """
        before = self.revision
        wanted: dict[Key, Record] = {}
        for record in records:
            self._check(record)
            if record.key.origin != name:
                raise InvalidInput(
                    f"a record of {record.key.origin!r} in a snapshot of {name!r}", code="foreign_origin"
                )
            if record.payload is not None:
                wanted[record.key] = record
        entry = self._origins.get(name)
        if entry is None:
            self._origins[name] = entry = self._arrived(name, version, wanted)
        else:
            self.unstage(name)
        if entry.gone:
            self._origins[name] = entry = OriginEntry(Origin(name, version, OriginState.UNKNOWN))
        elif version < entry.origin.version:
            return False
        for key, held in list(entry.entries.items()):
            if key not in wanted and held.live:
                self._set(entry, Record(key, version, None))
        for key, record in wanted.items():
            old = entry.entries.get(key)
            if old is None or old.record.payload != record.payload:
                self._set(entry, record)
            elif not entry.completed:
                self._touch(old)  # who has not been told of the whole origin yet must be sent all of it
        self._raise(entry, version)
        if not entry.completed or entry.origin.state is not OriginState.LIVE:
            self.revision += 1
            entry.origin = Origin(name, entry.origin.version, OriginState.LIVE)
            entry.completed = entry.completed or self.revision
            self._restate(entry)
        return self._notify(before)

    def stage(self, record: Record) -> None:
        """Take in ahead what `reset_origin` is going to bring of an origin that nobody has heard of yet.

        It is not seen before: nor counted, listed or sent. The end of a large snapshot has less to do then.
        """
        key = record.key
        if key.origin in self._origins or key.kind is NAMED or record.payload is None:
            return
        self._check(record)
        origin = self._arriving.get(key.origin)
        if origin is None:
            origin = self._arriving[key.origin] = OriginEntry(NOBODY)
        entry, old, old_digest = self._write(origin, record)
        for watcher in self.watchers:
            watcher.changed(entry, old, old_digest)

    def unstage(self, name: str) -> None:
        """Forget what was staged of an origin."""
        entry = self._arriving.pop(name, None)
        for held in entry.entries.values() if entry is not None else ():
            self._release(held)

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Record | None:
        """The record of `key`, unless there is none or it was deleted."""
        entry = self.entry(key)
        return entry.record if entry is not None and entry.live else None

    def records(self, *, kind: Kind | None = None, origin: str | None = None) -> Iterator[Record]:
        """All live records, or those of one kind and/or origin."""
        origins = self._origins.values() if origin is None else filter(None, [self._origins.get(origin)])
        for one in origins:
            for key, entry in one.entries.items():
                if (kind is None or key.kind is kind) and entry.live:
                    yield entry.record

    def origins(self) -> Mapping[str, Origin]:
        return MappingProxyType({name: entry.origin for name, entry in self._origins.items()})

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each change; the returned function ends that."""
        token = object()
        self._listeners[token] = listener

        def end() -> None:
            self._listeners.pop(token, None)

        return end

    def __len__(self) -> int:
        return self._live

    # --- for the sessions (federation.catalog.source, .audience) -----------------------------------------------------

    def entry(self, key: Key) -> Entry | None:
        origin = self._origins.get(key.origin)
        return None if origin is None else origin.entries.get(key)

    def origin(self, name: str) -> OriginEntry | None:
        return self._origins.get(name)

    def restated(self, since: int) -> Iterator[OriginEntry]:
        """Origins whose state changed after revision `since`."""
        for entry in reversed(self._origins.values()):
            if entry.stated <= since:
                return
            yield entry

    def entries(self, since: int = 0) -> Iterator[Entry]:
        """Entries that changed after revision `since`, in that order. Not to be kept across a change."""
        start = bisect_right(self._revisions, since)
        for index in range(start, len(self._order)):
            entry = self._order[index]
            if entry.revision == self._revisions[index]:
                yield entry

    def newest(self, since: int = 0) -> Iterator[Entry]:
        """As `entries`, the newest first: for who looks for one."""
        for index in range(len(self._order) - 1, bisect_right(self._revisions, since) - 1, -1):
            entry = self._order[index]
            if entry.revision == self._revisions[index]:
                yield entry

    def named(self, name: str) -> Iterable[Entry]:
        """Entries of the kind that is subscribed to by name."""
        found = self._named.get(name)
        return () if found is None else found.values()

    def staged(self) -> Iterator[Entry]:
        """Entries that nobody sees yet."""
        for origin in self._arriving.values():
            yield from origin.entries.values()

    @property
    def slots(self) -> int:
        """One more than the largest slot of any entry."""
        return self._slots

    # --- inside ------------------------------------------------------------------------------------------------------

    def _check(self, record: Record) -> None:
        if record.payload is not None and len(record.payload) > MAX_RECORD_BYTES:
            raise InvalidInput(
                f"the record {record.key.name[:80]!r} has {len(record.payload)} bytes; at most {MAX_RECORD_BYTES}",
                code="record_too_large",
            )

    def _raise(self, entry: OriginEntry, version: Version) -> None:
        if version > entry.origin.version:
            entry.origin = Origin(entry.origin.name, version, entry.origin.state)

    def _restate(self, entry: OriginEntry) -> None:
        entry.stated = self.revision
        self._origins.pop(entry.origin.name, None)
        self._origins[entry.origin.name] = entry

    def _set(self, origin: OriginEntry, record: Record) -> None:
        entry, old, old_digest = self._write(origin, record)
        was_live, is_live = old is not None and old.payload is not None, record.payload is not None
        self._live += is_live - was_live
        self._dead += (not is_live) - (old is not None and not was_live)
        self._touch(entry)
        for watcher in self.watchers:
            watcher.changed(entry, old, old_digest)
        if not is_live:
            self._tombstones.append((entry.revision, entry))
            self._prune()

    def _write(self, origin: OriginEntry, record: Record) -> tuple[Entry, Record | None, int]:
        """Put `record` into its entry; returns that, with the record and the digest that it had before."""
        entry = origin.entries.get(record.key)
        old: Record | None = None
        old_digest = 0
        if entry is None:
            entry = Entry(self._free.pop() if self._free else self._slots)
            self._slots = max(self._slots, entry.slot + 1)
            origin.entries[record.key] = entry
            if record.key.kind is NAMED:
                self._named.setdefault(record.key.name, {})[record.key] = entry
        else:
            old, old_digest = entry.record, entry.digest
        entry.record = record
        entry.wire = record_bytes(record)
        entry.digest = fingerprint(record)
        if record.payload is not None:
            entry.shown = None
        elif old is not None and old.payload is not None:
            entry.shown = old
        return entry, old, old_digest

    def _arrived(self, name: str, version: Version, wanted: Mapping[Key, Record]) -> OriginEntry:
        """The entry of an origin that nobody has heard of, with those of its staged records that are `wanted`."""
        entry = self._arriving.pop(name, None) or OriginEntry(NOBODY)
        entry.origin = Origin(name, version, OriginState.UNKNOWN)
        for key, held in list(entry.entries.items()):
            record = wanted.get(key)
            if record is None or record.version != held.record.version:
                self._release(entry.entries.pop(key))
        self._live += len(entry.entries)
        return entry

    def _touch(self, entry: Entry) -> None:
        self.revision += 1
        entry.revision = self.revision
        self._revisions.append(self.revision)
        self._order.append(entry)
        if len(self._order) > 2 * (self._live + self._dead) + 256:
            kept = [(r, e) for r, e in zip(self._revisions, self._order, strict=True) if e.revision == r]
            self._revisions = [r for r, _ in kept]
            self._order = [e for _, e in kept]

    def _prune(self) -> None:
        while self._dead > self._keep or len(self._tombstones) > 2 * self._keep + 256:
            revision, entry = self._tombstones.popleft()
            if entry.revision != revision:
                continue  # it lives again, or has a newer tombstone
            key = entry.record.key
            origin = self._origins[key.origin]
            origin.floor = max(origin.floor, entry.record.version)
            self.floor = revision
            self._drop(origin, key)

    def _drop(self, origin: OriginEntry, key: Key) -> None:
        entry = origin.entries.pop(key)
        if entry.live:
            self._live -= 1
        else:
            self._dead -= 1
        self._release(entry)
        named = self._named.get(key.name) if key.kind is NAMED else None
        if named is not None:
            named.pop(key, None)
            if not named:
                del self._named[key.name]

    def _release(self, entry: Entry) -> None:
        for watcher in self.watchers:
            watcher.dropped(entry)
        entry.revision = 0
        self._free.append(entry.slot)

    def _notify(self, before: int) -> bool:
        if self.revision == before:
            return False
        self.changed.set(self.revision)
        for listener in list(self._listeners.values()):
            listener()
        return True
