"""What a picture holds ↔ rows of SQLite. Each row ends in a checksum over its table and its other columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from google.protobuf.message import DecodeError

from federation.errors import CorruptState, IsthmusError
from federation.model import wire
from federation.model.service import Locality
from federation.proto.v1 import records_pb2 as pb
from federation.store.base import Departed, LinkEntry, Member, Token

V = TypeVar("V")
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Generic[V]):
    """How values of one kind are kept; the first column is the key."""

    name: str
    columns: tuple[str, ...]
    to_row: Callable[[V], Row]
    from_row: Callable[[Row], V]

    def row(self, value: V) -> Row:
        """The row of `value`, its checksum last."""
        row = self.to_row(value)
        return (*row, self.sum(row))

    def sum(self, row: Row) -> bytes:
        return hashlib.sha256(msgspec.msgpack.encode((self.name, *row))).digest()[:16]

    def value(self, row: Row) -> V:
        """The value of a row with its checksum; raises CorruptState."""
        try:
            if self.sum(row[:-1]) == row[-1]:
                return self.from_row(row[:-1])
        except (IsthmusError, DecodeError, ValueError, TypeError, OverflowError):
            pass
        raise CorruptState(f"a row of table {self.name} is damaged")

    def statements(self, present: Mapping[Any, V], changes: Mapping[Any, V | None]) -> Iterator[tuple[str, Row]]:
        """One statement per change; each touches exactly one row, and only as it is in `present` (compare-and-set)."""
        key = self.columns[0]
        columns = (*self.columns, "sum")
        for name, value in changes.items():
            old = present.get(name)
            guard = f"WHERE {key} = ? AND sum = ?"
            if value is None:
                if old is not None:
                    yield f"DELETE FROM {self.name} {guard}", (name, self.row(old)[-1])  # noqa: S608 - our own names
            elif old is None:
                marks = ", ".join("?" * len(columns))
                yield f"INSERT INTO {self.name} ({', '.join(columns)}) VALUES ({marks})", self.row(value)  # noqa: S608
            else:
                settings = ", ".join(f"{c} = ?" for c in columns)
                where = (name, self.row(old)[-1])
                yield f"UPDATE {self.name} SET {settings} {guard}", self.row(value) + where  # noqa: S608


def _member_row(m: Member) -> Row:
    bundle = wire.bundle_to_pb(m.bundle).SerializeToString(deterministic=True)
    return (m.name, m.trust_domain, bundle, m.joined_ns, m.locality.region, m.locality.zone, m.epoch)


def _member(row: Row) -> Member:
    name, trust_domain, bundle, joined_ns, region, zone, epoch = row
    return Member(
        name=name,
        trust_domain=trust_domain,
        bundle=wire.bundle_from_pb(pb.Bundle.FromString(bundle)),
        joined_ns=joined_ns,
        locality=Locality(region, zone),
        epoch=epoch,
    )


def _link_row(e: LinkEntry) -> Row:
    return (e.link.name, e.link.a, e.link.b, wire.encode_link(e.link), e.fingerprint_a, e.fingerprint_b)


def _link(row: Row) -> LinkEntry:
    return LinkEntry(link=wire.decode_link(row[3]), fingerprint_a=row[4], fingerprint_b=row[5])


def _token_row(t: Token) -> Row:
    return (t.hash, t.cluster, t.issued_ns, t.expires_ns, t.redeemed_by, int(t.revoked))


def _token(row: Row) -> Token:
    hash_, cluster, issued_ns, expires_ns, redeemed_by, revoked = row
    return Token(
        hash=hash_,
        cluster=cluster,
        issued_ns=issued_ns,
        expires_ns=expires_ns,
        redeemed_by=redeemed_by,
        revoked=bool(revoked),
    )


def _departed_row(d: Departed) -> Row:
    return (d.name, d.epoch, d.left_ns)


def _departed(row: Row) -> Departed:
    return Departed(name=row[0], epoch=row[1], left_ns=row[2])


CLUSTERS = Table(
    name="clusters",
    columns=("name", "trust_domain", "bundle", "joined_ns", "region", "zone", "epoch"),
    to_row=_member_row,
    from_row=_member,
)
LINKS = Table(
    name="links",
    columns=("name", "a", "b", "link", "fingerprint_a", "fingerprint_b"),
    to_row=_link_row,
    from_row=_link,
)
TOKENS = Table(
    name="tokens",
    columns=("hash", "cluster", "issued_ns", "expires_ns", "redeemed_by", "revoked"),
    to_row=_token_row,
    from_row=_token,
)
DEPARTED = Table(
    name="departed",
    columns=("name", "epoch", "left_ns"),
    to_row=_departed_row,
    from_row=_departed,
)
