"""What is registered under the node of our imports, in memory: read as a whole, then kept by the answers to our writes.

No I/O. Readings and writes take turns (discovery.consul.imports.writer), so a reading is never older than a write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from discovery.consul.imports.desired import GATEWAY, PLAIN, PORT, SOURCES, source_set
from discovery.consul.imports.held import Held, HeldCheck, HeldNode, Registered, check_id
from discovery.consul.imports.plan import Change, DropInstance, PutCheck, PutInstance
from federation.model.ids import ServiceName


class Actual:
    """`node` None: there is none, or nothing was read yet."""

    def __init__(self) -> None:
        self.node: HeldNode | None = None
        self.node_checks: Mapping[str, HeldCheck] = {}
        self._held: dict[str, Held] = {}
        self._by_import: dict[ServiceName, set[str]] = {}

    def __len__(self) -> int:
        return sum(held.ours for held in self._held.values())

    def replace(self, registered: Registered) -> set[ServiceName]:
        """A complete reading; the imports of which something is not as it was believed to be."""
        self.node, self.node_checks = registered.node, registered.node_checks
        changed: set[ServiceName] = set()
        for id_ in self._held.keys() | registered.instances.keys():
            before, now = self._held.get(id_), registered.instances.get(id_)
            if before != now:
                changed.update(held.name for held in (before, now) if held is not None and held.name is not None)
                self._put(id_, now)
        return changed

    def names(self) -> set[ServiceName]:
        """Imports of which something is registered."""
        return set(self._by_import)

    def of(self, name: ServiceName) -> dict[str, Held]:
        """What is registered of the import."""
        return {id_: self._held[id_] for id_ in sorted(self._by_import.get(name, ()))}

    def get(self, id_: str) -> Held | None:
        """The instance with this id, whosever it is."""
        return self._held.get(id_)

    def main(self, name: ServiceName) -> int | None:
        """The port that has the import's plain name."""
        return min((h.port for h in self.of(name).values() if h.ours and h.plain and h.port), default=None)

    def wrote(self, change: Change, indexes: Mapping[tuple[str, str], int]) -> bool:
        """It was carried out; `indexes` as the answer has them. False where the answer says too little: read again."""
        known = True
        for operation in change.operations:
            if isinstance(operation, DropInstance):
                self._put(operation.id, None)
            elif isinstance(operation, PutInstance):
                one, before = operation.instance, self._held.get(operation.instance.id)
                index = indexes.get(("service", one.id), 0)
                known = known and index > 0
                sources = source_set(one.meta[SOURCES])
                held = Held(
                    id=one.id,
                    service=one.service,
                    ours=True,
                    name=change.name,
                    gateway=one.meta[GATEWAY],
                    port=int(one.meta[PORT]),
                    plain=PLAIN in one.meta,
                    sources=sources,
                    says=one.says,
                    index=index,
                    check=before.check if before is not None else None,
                )
                self._put(one.id, held)
            elif isinstance(operation, PutCheck) and (held_ := self._held.get(operation.id)) is not None:
                index = indexes.get(("check", check_id(operation.id)), 0)
                known = known and index > 0
                self._put(operation.id, replace(held_, check=HeldCheck(operation.status, operation.output, index)))
        return known

    def _put(self, id_: str, held: Held | None) -> None:
        before = self._held.pop(id_, None)
        if before is not None and before.name is not None:
            ids = self._by_import[before.name]
            ids.discard(id_)
            if not ids:
                del self._by_import[before.name]
        if held is not None:
            self._held[id_] = held
            if held.name is not None:
                self._by_import.setdefault(held.name, set()).add(id_)
