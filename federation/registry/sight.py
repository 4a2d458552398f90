"""What each member sees: one predicate per member, replaced when its links change, shared by all its streams."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from federation.errors import InvalidInput
from federation.model import wire
from federation.model.cluster import Link
from federation.model.record import Key, Kind, Record, Version
from federation.model.service import Grant
from federation.policy.visibility import Links, is_visible


class GrantIndex:
    """The grants of services that have, or had, any: most have none, and their payloads need not be parsed again."""

    def __init__(self) -> None:
        self._held: dict[Key, tuple[Version, tuple[Grant, ...]]] = {}

    def learn(self, record: Record, grants: tuple[Grant, ...]) -> None:
        """Before the record enters the log."""
        if grants or record.key in self._held:
            self._held[record.key] = (record.version, grants)

    def forget(self, origin: str) -> None:
        self._held = {key: value for key, value in self._held.items() if key.origin != origin}

    def of(self, record: Record) -> tuple[Grant, ...]:
        """The grants in this very record's payload."""
        held = self._held.get(record.key)
        if held is None or record.payload is None:
            return ()
        if held[0] == record.version:
            return held[1]
        try:  # an older version of a service whose grants have changed
            return wire.decode_service(record.payload).grants
        except InvalidInput:
            return (Grant(""),)  # it was admitted once, so this cannot be; if it is, nobody sees it


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Whether one member sees a record. Its answer for a record never changes: new links make a new Sight."""

    links: Links
    grants: GrantIndex

    def __call__(self, record: Record) -> bool:
        grants = self.grants.of(record) if record.key.kind is Kind.SERVICE else ()
        return is_visible(record.key, grants, self.links)


class Sights:
    """The present Sight of every member that was asked for."""

    def __init__(self, grants: GrantIndex) -> None:
        self._grants = grants
        self._present: dict[str, Sight] = {}

    def of(self, cluster: str, links: Iterable[Link]) -> Sight:
        """The same object as long as the links of `cluster` are the same."""
        wanted = Links.of(cluster, links)
        present = self._present.get(cluster)
        if present is None or present.links != wanted:
            present = self._present[cluster] = Sight(wanted, self._grants)
        return present

    def forget(self, cluster: str) -> None:
        self._present.pop(cluster, None)
