"""Holds what a sink has received: records, origins, and the point in the source's history that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import msgspec

from federation.catalog.frames import DIGEST_MASK, fingerprint
from federation.errors import CorruptState
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version


class _Saved(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A replica on disk. Encoded in one call of C: written record by record it would hold up the event loop."""

    history: str
    revision: int
    origins: list[tuple[str, Version, OriginState, bool]]
    absent: list[str]
    records: list[tuple[Key, Version, bytes | None]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Saved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What one update changed in a replica.

    `origins`: whose state or version is news, with what they are now; GONE ones have lost their records (listed in
    `deleted`). `complete`: origins of which the replica now holds everything and did not know so before. `absent`:
    subscribed names that do not exist now. `revision` is reached; `synced`: the replica is as the source was when
    it sent this, and of nothing that the source speaks of does it hold another version.
    """

    put: tuple[Record, ...] = ()
    deleted: tuple[Key, ...] = ()
    origins: tuple[Origin, ...] = ()
    complete: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    revision: int = 0
    synced: bool = False

    def __bool__(self) -> bool:
        return bool(self.put or self.deleted or self.origins or self.absent)


class Replica:
    """Records and origins as a sink holds them. Written by the sink only; everybody may read.

    `complete` names the origins of which it holds everything that the source of `history` shows; their records are what
    the digest covers. What the present source has not spoken of is kept, and its origin is UNKNOWN.
    """

    def __init__(self) -> None:
        self.history = ""
        self.revision = 0
        self.complete: set[str] = set()
        self.absent: set[str] = set()
        self._records: dict[str, dict[Key, Record]] = {}
        self._origins: dict[str, Origin] = {}
        self._sums: dict[str, int] = {}

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Record | None:
        records = self._records.get(key.origin)
        return None if records is None else records.get(key)

    def records(self, *, kind: Kind | None = None, origin: str | None = None) -> Iterator[Record]:
        """All records, or those of one kind and/or origin."""
        groups = self._records.values() if origin is None else [self._records.get(origin, {})]
        for group in groups:
            for record in group.values():
                if kind is None or record.key.kind is kind:
                    yield record

    @property
    def origins(self) -> Mapping[str, Origin]:
        return MappingProxyType(self._origins)

    def __len__(self) -> int:
        return sum(map(len, self._records.values()))

    def __contains__(self, key: Key) -> bool:
        return self.get(key) is not None

    def total(self) -> tuple[int, int]:
        """(digest, count) over the complete origins."""
        digest = sum(self._sums.get(name, 0) for name in self.complete) & DIGEST_MASK
        return digest, sum(len(self._records.get(name, ())) for name in self.complete)

    # --- for the sink ------------------------------------------------------------------------------------------------

    def set(self, record: Record) -> bool:
        """Store a record; False if it is held already, the same."""
        group = self._records.setdefault(record.key.origin, {})
        old = group.get(record.key)
        if old == record:
            return False
        group[record.key] = record
        self._add(record.key.origin, fingerprint(record) - (fingerprint(old) if old is not None else 0))
        return True

    def remove(self, key: Key) -> bool:
        group = self._records.get(key.origin)
        old = group.pop(key, None) if group else None
        if group is None or old is None:
            return False
        self._add(key.origin, -fingerprint(old))
        if not group:
            del self._records[key.origin]
        return True

    def set_origin(self, origin: Origin) -> bool:
        """Note what is known of an origin; False if that is no news."""
        if self._origins.get(origin.name) == origin:
            return False
        self._origins[origin.name] = origin
        return True

    def doubt(self, name: str) -> Origin | None:
        """The source has not spoken of this origin: keep it, as UNKNOWN. Returns it if that is news."""
        self.complete.discard(name)
        origin = self._origins[name]
        if origin.state is OriginState.UNKNOWN:
            return None
        self._origins[name] = origin = replace(origin, state=OriginState.UNKNOWN)
        return origin

    def forget_origin(self, name: str) -> list[Key]:
        """Drop an origin that is gone; returns the keys that went with it."""
        self.complete.discard(name)
        self._origins.pop(name, None)
        self._sums.pop(name, None)
        return list(self._records.pop(name, {}))

    def _add(self, origin: str, difference: int) -> None:
        self._sums[origin] = (self._sums.get(origin, 0) + difference) & DIGEST_MASK

    # --- on disk -----------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """Everything, for federation.aio.files.write_state. Short: some 15 ms for 20,000 records."""
        return self.picture()()

    def picture(self) -> Callable[[], bytes]:
        """Everything as it is now, in well below a millisecond; what is returned encodes it, in any thread."""
        history, revision, absent = self.history, self.revision, sorted(self.absent)
        origins = [(o.name, o.version, o.state, o.name in self.complete) for o in self._origins.values()]
        groups = [list(group.values()) for group in self._records.values()]

        def encode() -> bytes:
            records = [(r.key, r.version, r.payload) for group in groups for r in group]
            return _encoder.encode(
                _Saved(history=history, revision=revision, origins=origins, absent=absent, records=records)
            )

        return encode

    @classmethod
    def load(cls, data: bytes) -> Replica:
        """What `dump` wrote. Raises CorruptState for other bytes."""
        try:
            saved = _decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise CorruptState(f"the saved view cannot be read: {error}") from error
        replica = cls()
        replica.history, replica.revision = saved.history, saved.revision
        replica.absent.update(saved.absent)
        for name, origin_version, state, complete in saved.origins:
            replica.set_origin(Origin(name, origin_version, state))
            if complete:
                replica.complete.add(name)
        for key, version, payload in saved.records:
            if payload is None or key.origin not in replica.origins:
                raise CorruptState("the saved view holds a record that cannot be")
            replica.set(Record(key, version, payload))
        return replica

    def newest(self, name: str) -> Version:
        """The newest version known of an origin."""
        origin = self._origins.get(name)
        return Version(0, 0) if origin is None else origin.version
