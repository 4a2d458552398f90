"""Decides what to send to one consumer: the sending end of the replication protocol, without I/O.

Arrives: a log, a filter, and the consumer's demands. Leaves: serialised Updates, one at a time, whenever the driver
(federation.registry.watch, federation.registry.client) can write. The session is a cursor over the log; what it would
send next is computed when it is asked for, so a slow consumer skips what was overwritten meanwhile. Sessions with the
same filter at the same cursor share the same bytes. The receiving end is federation.catalog.sink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from federation.catalog.audience import Audience, Visible, everything
from federation.catalog.frames import (
    DIGEST_MASK,
    batch_frame,
    hello_frame,
    origin_bytes,
    progress_frame,
    tombstone_bytes,
)
from federation.catalog.log import NAMED, Entry, Log
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version
from federation.proto.v1 import catalog_pb2 as pb

FRAME_BYTES = 256 * 1024
"""Where a batch is cut: far below gRPC's limit of 4 MiB for a message, large enough to be cheap."""

ALL_KINDS = frozenset(Kind)
_NO_DEMAND = 2**64 - 1
"""Sinks count theirs from 0."""


def anything(_: str) -> bool:
    """Every name."""
    return True


class Cursor(NamedTuple):
    """Where a session stands. Equal cursors of one audience lead to equal frames."""

    told: int  # the revision that the sink has reached when it has everything sent so far
    pos: int  # the entries up to here have been looked at
    part: int  # frames already sent of the group that ends with `more` false
    snapshot: int  # the log's revision when the snapshot that is under way began; -1: none
    restate: bool  # state every origin at the end of this group, and send the group even when it is empty
    stated: frozenset[str]  # the origins of which the sink was told
    asked: frozenset[str]  # the origins that the sink asked about, and of which there was nothing to say yet


class Source:
    """The session of one consumer over `log`. Call `receive` for every Subscribe, then `next_update` until None.

    `visible` filters the records; `refilter` replaces it while the session runs. `heartbeat_ms` is told to the sink.
    `deniable`: whether it is known of a subscribed name that it does not exist where the log has no record of it. One
    of which that is not known is not answered; it is asked about again at each heartbeat.
    """

    def __init__(
        self,
        log: Log,
        *,
        visible: Visible = everything,
        deniable: Callable[[str], bool] = anything,
        heartbeat_ms: int = 10_000,
        frame_bytes: int = FRAME_BYTES,
    ) -> None:
        self._log = log
        self._visible, self._deniable = visible, deniable
        self._heartbeat_ms = heartbeat_ms
        self._frame_bytes = frame_bytes
        self._audience: Audience | None = None
        self._cursor: Cursor | None = None
        self._hello: bytes | None = None
        self._wildcard = True
        self._names: dict[str, tuple[Key, ...]] = {}  # subscribed name -> keys of it that the sink holds
        self._todo: dict[Key, None] = {}  # to be looked at whatever their revision
        self._unanswered: dict[str, None] = {}
        self._withheld: dict[str, None] = {}  # subscribed names without an answer that are not deniable
        self._demand = 0

    # --- what the consumer says --------------------------------------------------------------------------------------

    def receive(self, subscribe: pb.Subscribe) -> tuple[frozenset[str], frozenset[str]]:
        """Take a Subscribe: the first resumes, later ones add and drop names. Returns the names (added, dropped)."""
        self._demand = subscribe.demand
        if self._cursor is None:
            return self._open(subscribe), frozenset()
        if self._wildcard:
            return frozenset(), frozenset()
        dropped = {name for name in subscribe.dropped if self._names.pop(name, None) is not None}
        for name in dropped:
            self._unanswered.pop(name, None)
            self._withheld.pop(name, None)
        added = set()
        for name in subscribe.names:
            if name not in self._names:
                added.add(name)
            self._ask(name)
        return frozenset(added - dropped), frozenset(dropped - added)

    def refilter(self, visible: Visible) -> None:
        """From now on the consumer sees what `visible` admits: what is new is sent, what is no longer is deleted."""
        self._visible = visible
        if self._audience is None or self._cursor is None or visible == self._audience.visible:
            return
        old, told = self._audience, self._cursor.told
        self._audience = new = Audience.of(self._log, visible, old.kinds, by_name=old.by_name)
        for entry in self._log.entries():
            had, has = old.holds(entry), new.holds(entry)
            if had != has or (not has and old.removed.get(entry.record.key, 0) > told):
                self._todo[entry.record.key] = None
        for name in self._names:
            self._todo.update((entry.record.key, None) for entry in self._log.named(name))

    # --- what is to be sent ------------------------------------------------------------------------------------------

    def next_update(self) -> bytes | None:
        """The next frame, or None when the sink has been sent everything (or has not subscribed yet)."""
        cursor = self._cursor
        if cursor is None or self._audience is None:
            return None
        if self._withheld:
            self._reconsider()
        if self._hello is None and self._log.floor > max(cursor.pos, cursor.snapshot):
            self._begin_snapshot(cursor.stated | cursor.asked)  # what it would resume from is kept no longer
        if self._hello is not None:
            hello, self._hello = self._hello, None
            return hello
        if cursor.pos == self._log.revision and not (cursor.restate or self._todo or self._unanswered):
            return None
        if self._names or self._todo or self._unanswered:
            frame, self._cursor = self._step(self._audience, cursor)
            return frame
        audience = self._audience
        last = audience.last
        if last is not None and last[0] is cursor and last[1] == self._log.revision and last[2] == self._frame_bytes:
            found = last[3]  # the step that the session before has made, too
        else:
            memo = audience.memo
            if audience.memo_revision != self._log.revision:
                memo.clear()
                audience.memo_revision = self._log.revision
            key = (cursor, self._frame_bytes)
            found = memo.get(key)
            if found is None:
                found = memo[key] = self._step(audience, cursor)
            audience.last = (cursor, self._log.revision, self._frame_bytes, found)
        frame, self._cursor = found
        return frame

    def next_updates(self) -> list[bytes]:
        """All frames that are due now."""
        frames = []
        while (frame := self.next_update()) is not None:
            frames.append(frame)
        return frames

    @property
    def subscribed(self) -> bool:
        return self._cursor is not None

    @property
    def caught_up(self) -> bool:
        """Whether `next_update` has nothing to say at the log's present revision."""
        cursor = self._cursor
        return (
            cursor is not None
            and cursor.pos == self._log.revision
            and not (cursor.restate or self._hello or self._todo or self._unanswered or cursor.part)
        )

    @property
    def told(self) -> int:
        """The revision that the sink reaches with what it was sent."""
        return 0 if self._cursor is None else self._cursor.told

    @property
    def names(self) -> Iterable[str]:
        return self._names.keys()

    def progress(self) -> bytes | None:
        """The heartbeat, with the digest of what the sink should hold; None while there is something to send first."""
        cursor = self._cursor
        if cursor is None or self._audience is None or not self.caught_up:
            return None
        digest, count = self._audience.total()
        for keys in self._names.values():
            for key in keys:
                origin, entry = self._log.origin(key.origin), self._log.entry(key)
                if origin is not None and origin.completed and entry is not None:
                    digest += entry.digest
                    count += 1
        revision = self._log.revision
        # The sink compares, and looks for names without an answer, where all that it has asked for is answered.
        demand = _NO_DEMAND if self._withheld else self._demand
        frame = progress_frame(
            revision=revision, since=cursor.told, digest=digest & DIGEST_MASK, count=count, demand=demand
        )
        self._cursor = cursor._replace(told=revision)
        return frame

    # --- inside ------------------------------------------------------------------------------------------------------

    def _open(self, subscribe: pb.Subscribe) -> frozenset[str]:
        log = self._log
        kinds = frozenset(k for k in Kind if k.value in subscribe.kinds) if subscribe.kinds else ALL_KINDS
        self._wildcard = subscribe.wildcard or NAMED not in kinds
        self._audience = audience = Audience.of(log, self._visible, kinds, by_name=not self._wildcard)
        names = frozenset() if self._wildcard else frozenset(subscribe.names)
        origins = frozenset(subscribe.origins)
        if subscribe.history != log.history or not log.floor <= subscribe.revision <= log.revision:
            self._names = dict.fromkeys(names, ())
            self._begin_snapshot(origins)
            return names
        told = subscribe.revision
        known = names.intersection(subscribe.known)
        lost = any(origin.gone or origin.completed > told for origin in log.restated(told))
        for name in known:
            self._names[name] = tuple(
                entry.record.key
                for entry in log.named(name)
                if self._sees(entry.record)
                or (entry.revision > told and entry.shown is not None and self._sees(entry.shown))
            )
            if lost and not self._names[name]:
                self._unanswered[name] = None  # its records may have gone with their origin, of which nothing is left
        for name in names - known:
            self._ask(name)
        for name in audience.origins():
            if name not in origins:
                self._todo.update((r.key, None) for r in log.records(origin=name) if audience.wants(r))
        self._hello = hello_frame(history=log.history, resumed=True, heartbeat_ms=self._heartbeat_ms)
        self._cursor = Cursor(told, told, 0, -1, True, origins, frozenset())
        return names

    def _begin_snapshot(self, origins: frozenset[str]) -> None:
        self._todo.clear()
        self._unanswered = dict.fromkeys(self._names)
        self._withheld.clear()
        self._names = dict.fromkeys(self._names, ())
        self._hello = hello_frame(history=self._log.history, resumed=False, heartbeat_ms=self._heartbeat_ms)
        self._cursor = Cursor(0, 0, 0, self._log.revision, True, frozenset(), origins)

    def _ask(self, name: str) -> None:
        self._names.setdefault(name, ())
        self._unanswered[name] = None
        self._todo.update((entry.record.key, None) for entry in self._log.named(name))

    def _reconsider(self) -> None:
        answered = [name for name in self._withheld if self._names.get(name) or self._deniable(name)]
        for name in answered:
            del self._withheld[name]
            self._unanswered[name] = None

    def _sees(self, record: Record) -> bool:
        return record.payload is not None and self._visible(record)

    def _step(self, audience: Audience, cursor: Cursor) -> tuple[bytes | None, Cursor]:
        """One frame from `cursor` on, and where the session stands after it."""
        log = self._log
        records: list[bytes] = []
        touched: set[str] = set()
        room = self._frame_bytes
        while self._todo and room > 0:
            key = next(iter(self._todo))
            del self._todo[key]
            entry = log.entry(key)
            piece = self._ahead(audience, key, entry, cursor.pos)
            if piece:
                records.append(piece)
                touched.add(key.origin)
                room -= len(piece)
        pos = cursor.pos
        base = cursor.snapshot if cursor.snapshot >= 0 else cursor.told
        more = room <= 0 and bool(self._todo)
        if not more:
            for entry in log.entries(pos):
                if room <= 0:
                    more = True
                    break
                pos = entry.revision
                piece = self._piece(audience, entry, base)
                if piece:
                    records.append(piece)
                    touched.add(entry.record.key.origin)
                    room -= len(piece)
        if more:
            frame = batch_frame(since=cursor.told, revision=cursor.told, part=cursor.part, more=True, records=records)
            return frame, cursor._replace(pos=pos, part=cursor.part + 1)
        self._lose_gone_names(cursor.told)
        origins, stated, asked = self._statements(audience, cursor, touched)
        absent = []
        for name in self._unanswered:
            if not self._names.get(name):
                if self._deniable(name):
                    absent.append(name)
                else:
                    self._withheld[name] = None
        self._unanswered.clear()
        revision = log.revision
        if not (records or origins or absent or cursor.restate or cursor.part):
            return None, cursor._replace(pos=revision)
        frame = batch_frame(
            since=cursor.told,
            revision=revision,
            part=cursor.part,
            more=False,
            records=records,
            origins=origins,
            absent=absent,
        )
        return frame, Cursor(revision, revision, 0, -1, False, stated, asked)

    def _piece(self, audience: Audience, entry: Entry, base: int) -> bytes:
        """What to send of an entry that changed; empty where the sink neither has nor may have it."""
        key = entry.record.key
        if audience.holds(entry):
            return entry.wire
        if key.kind is NAMED and key.name in self._names:
            return self._named_piece(key, entry)
        if audience.removed.get(key, 0) > base:
            return tombstone_bytes(key, entry.record.version)
        return b""

    def _ahead(self, audience: Audience, key: Key, entry: Entry | None, pos: int) -> bytes:
        """The same for a key that is due whatever its revision."""
        if key.kind is NAMED and audience.by_name:
            return self._named_piece(key, entry) if key.name in self._names else b""
        if entry is not None and audience.holds(entry):
            return entry.wire if entry.revision <= pos else b""  # newer ones come in their turn
        return tombstone_bytes(key, self._version(key, entry))

    def _named_piece(self, key: Key, entry: Entry | None) -> bytes:
        held = self._names[key.name]
        if entry is not None and self._sees(entry.record):
            if key not in held:
                self._names[key.name] = (*held, key)
            return entry.wire
        if key not in held:
            return b""
        self._names[key.name] = rest = tuple(k for k in held if k != key)
        if not rest:
            self._unanswered[key.name] = None
        return tombstone_bytes(key, self._version(key, entry))

    def _lose_gone_names(self, told: int) -> None:
        """Names whose records went with their origin are absent; the origin's GONE says so of the records."""
        if not self._names:
            return
        for origin in self._log.restated(told):
            for name, held in self._names.items():
                rest = tuple(k for k in held if k.origin != origin.origin.name or k in origin.entries)
                if len(rest) != len(held):
                    self._names[name] = rest
                    if not rest:
                        self._unanswered[name] = None

    def _version(self, key: Key, entry: Entry | None) -> Version:
        if entry is not None:
            return entry.record.version
        origin = self._log.origin(key.origin)
        return Version(0, 0) if origin is None else origin.origin.version

    def _shows(self, audience: Audience, origin: str) -> bool:
        return audience.shows(origin) or any(k.origin == origin for keys in self._names.values() for k in keys)

    def _statements(
        self, audience: Audience, cursor: Cursor, touched: set[str]
    ) -> tuple[list[bytes], frozenset[str], frozenset[str]]:
        """The origins to state at the end of a group, serialised; all that are stated then, and those still asked."""
        log = self._log
        names = set(touched)
        if cursor.restate or cursor.part:
            names.update(audience.origins(), cursor.stated, cursor.asked)
            names.update(key.origin for keys in self._names.values() for key in keys)
        else:
            names.update(entry.origin.name for entry in log.restated(cursor.told))
        out: list[bytes] = []
        stated = set(cursor.stated)
        answered: set[str] = set()
        for name in sorted(names):
            entry = log.origin(name)
            if entry is None:
                continue
            if self._shows(audience, name):
                fresh = cursor.snapshot >= 0 or name not in cursor.stated or entry.completed > cursor.told
                out.append(origin_bytes(entry.origin, complete=bool(entry.completed) and fresh))
                stated.add(name)
                answered.add(name)
            elif (name in cursor.stated or name in cursor.asked) and (entry.completed or entry.gone):
                gone = Origin(name, entry.origin.version, OriginState.GONE)
                out.append(origin_bytes(gone, complete=False))
                stated.discard(name)
                answered.add(name)
        now = cursor.stated if stated == cursor.stated else frozenset(stated)
        return out, now, cursor.asked - answered
