"""Plans the writes that turn what a log offers into what it should offer. Pure.

Arrives: wanted payloads by key, and the records that are there. Leaves: the records to put, tombstones included, each
with the next version of its origin; unchanged payloads keep their version, so consumers are not told of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from federation.model.record import Key, Record, Version


@dataclass(frozen=True, slots=True)
class Plan:
    """`records` to put, in the order of their keys, deletions last; `version` is the newest afterwards."""

    records: tuple[Record, ...]
    version: Version

    def __bool__(self) -> bool:
        return bool(self.records)


def plan(wanted: Mapping[Key, bytes], actual: Iterable[Record], version: Version) -> Plan:
    """What to put so that `actual` becomes `wanted`; `version` is the newest that was given out so far.

    Each record gets a sequence of its own, so that no two states of one origin have the same version.
    """
    held = {record.key: record.payload for record in actual if record.payload is not None}
    records = []
    epoch, sequence = version
    for key in sorted(wanted):
        if held.get(key) != wanted[key]:
            sequence += 1
            records.append(Record(key, Version(epoch, sequence), wanted[key]))
    for key in sorted(held.keys() - wanted.keys()):
        sequence += 1
        records.append(Record(key, Version(epoch, sequence), None))
    return Plan(tuple(records), Version(epoch, sequence))
