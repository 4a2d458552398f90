"""What each member sees: one predicate per member, replaced when its links or network change, shared by its streams."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from federation.errors import InvalidInput
from federation.model import wire
from federation.model.cluster import Link
from federation.model.record import Key, Kind, Record, Version
from federation.model.service import Grant
from federation.policy.visibility import Links, is_visible


class Terms(NamedTuple):
    """Whom a record is for, by its payload: grants of SERVICE and ENDPOINTS, the network of ENDPOINTS."""

    grants: tuple[Grant, ...] = ()
    network: str = ""


ANYBODY = Terms()
NOBODY = Terms((Grant(""),))


class TermsIndex:
    """The terms of records that have, or had, any: most have none, and their payloads need not be parsed again."""

    def __init__(self) -> None:
        self._held: dict[Key, tuple[Version, Terms]] = {}

    def learn(self, record: Record, terms: Terms) -> None:
        """Before the record enters the log."""
        if terms != ANYBODY or record.key in self._held:
            self._held[record.key] = (record.version, terms)

    def forget(self, origin: str) -> None:
        self._held = {key: value for key, value in self._held.items() if key.origin != origin}

    def of(self, record: Record) -> Terms:
        """The terms in this very record's payload."""
        held = self._held.get(record.key)
        if held is not None and held[0] == record.version:
            return held[1]
        if record.payload is None or (held is None and record.key.kind is Kind.SERVICE):
            return ANYBODY
        try:  # an older version of a record whose terms have changed, or one that has not entered the log yet
            if record.key.kind is Kind.ENDPOINTS:
                endpoints = wire.decode_endpoints(record.payload)
                return Terms(endpoints.grants, endpoints.network)
            return Terms(wire.decode_service(record.payload).grants)
        except InvalidInput:
            return NOBODY  # it was admitted once, so this cannot be; if it is, nobody sees it


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Whether one member sees a record. Its answer for a record never changes: new links make a new Sight."""

    links: Links
    terms: TermsIndex

    def __call__(self, record: Record) -> bool:
        terms = self.terms.of(record) if record.key.kind in (Kind.SERVICE, Kind.ENDPOINTS) else ANYBODY
        return is_visible(record.key, terms.grants, self.links, network=terms.network)


class Sights:
    """The present Sight of every member that was asked for."""

    def __init__(self, terms: TermsIndex) -> None:
        self._terms = terms
        self._present: dict[str, Sight] = {}

    def of(self, cluster: str, links: Iterable[Link], *, network: str | None) -> Sight:
        """The same object as long as the links and the network of `cluster` are the same."""
        wanted = Links.of(cluster, links, network=network)
        present = self._present.get(cluster)
        if present is None or present.links != wanted:
            present = self._present[cluster] = Sight(wanted, self._terms)
        return present

    def forget(self, cluster: str) -> None:
        self._present.pop(cluster, None)
