"""What the agent told this process, decoded: the immutable View that configuration is built from.

Arrive: Changes of the replica. Leaves: View. A record that cannot be decoded keeps what was held before and is
reported: one bad record must not take the others with it. Exports are many, and few are in use at a time: they are kept
as the bytes that the replica has, and decoded when they are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from federation.errors import InvalidInput
from federation.model.cluster import Peer
from federation.model.ids import ServiceName
from federation.model.record import Key, Kind, Record
from federation.model.service import Export, Import
from federation.model.view import View
from federation.model.wire import decode_export, decode_import, decode_peer
from federation.registry.edge.problems import Problems

T = TypeVar("T")


class Exports(Mapping[ServiceName, Export]):
    """Exports that are decoded anew whenever they are looked at, from whole payloads by the name of the record."""

    def __init__(self, payloads: Mapping[str, bytes]) -> None:
        self._payloads = payloads

    def __getitem__(self, name: ServiceName) -> Export:
        return decode_export(self._payloads[str(name)])

    def __contains__(self, name: object) -> bool:
        return str(name) in self._payloads

    def __iter__(self) -> Iterator[ServiceName]:
        return map(ServiceName.parse, self._payloads)

    def __len__(self) -> int:
        return len(self._payloads)


class Views:
    """The decoded state. `put` and `delete` tell the names of the imports that changed."""

    def __init__(self, *, cluster: str, problems: Problems) -> None:
        self.cluster = cluster
        self._problems = problems
        self._imports: dict[ServiceName, Import] = {}
        self._exports: dict[str, bytes] = {}
        self._peers: dict[str, Peer] = {}
        self._view: View | None = None
        self._changed: set[ServiceName] = set()

    @property
    def view(self) -> View:
        """Everything as of now; it never changes afterwards."""
        if self._view is None:
            self._view = View(
                cluster=self.cluster,
                imports=dict(self._imports),
                exports=Exports(dict(self._exports)),
                peers=dict(self._peers),
            )
        return self._view

    def take_changed(self) -> set[ServiceName]:
        """The services whose import or export has changed since this was last called."""
        changed, self._changed = self._changed, set()
        return changed

    def find(self, name: ServiceName) -> Import | None:
        return self._imports.get(name)

    def put(self, records: Iterable[Record]) -> set[ServiceName]:
        """Records that came; the names of imports among them."""
        touched: set[ServiceName] = set()
        for record in records:
            if record.payload is None:
                touched |= self.delete((record.key,))
            elif record.key.kind is Kind.IMPORT:
                value = self._decode(record, decode_import)
                if value is not None:
                    self._imports[value.name] = value
                    touched.add(value.name)
            elif record.key.kind is Kind.EXPORT:
                export = self._decode(record, decode_export)
                if export is not None:
                    self._exports[record.key.name] = record.payload
                    self._changed.add(export.name)
            elif record.key.kind is Kind.PEER:
                peer = self._decode(record, decode_peer)
                if peer is not None:
                    self._peers[peer.cluster] = peer
        self._changed |= touched
        self._view = None
        return touched

    def delete(self, keys: Iterable[Key]) -> set[ServiceName]:
        """Records that went; the names of imports among them."""
        touched: set[ServiceName] = set()
        for key in keys:
            if key.kind is Kind.PEER:
                self._peers.pop(key.name, None)
            elif key.kind in (Kind.IMPORT, Kind.EXPORT):
                name = ServiceName.parse(key.name)
                self._changed.add(name)
                if key.kind is Kind.EXPORT:
                    self._exports.pop(key.name, None)
                elif self._imports.pop(name, None) is not None:
                    touched.add(name)
            self._problems.clear("record_malformed", _subject(key))
        self._view = None
        return touched

    def _decode(self, record: Record, decode: Callable[[bytes], T]) -> T | None:
        subject = _subject(record.key)
        try:
            value = decode(record.payload or b"")
        except InvalidInput as error:
            self._problems.set("record_malformed", subject, str(error))
            return None
        self._problems.clear("record_malformed", subject)
        return value


def _subject(key: Key) -> str:
    return f"{key.kind.name.lower()} {key.name}"
