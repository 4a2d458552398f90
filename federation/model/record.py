"""The unit of replication: a record, its key and its version. The payload is opaque here."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

MAX_EPOCH = 2**62
"""Above any time of day in seconds or nanoseconds, below what a store can keep (64 bits with a sign)."""
MAX_FLOOR = 2**61
"""The highest epoch that a later membership is asked to exceed: no cluster can use up the epochs of its name."""


class Kind(enum.IntEnum):
    """What a record's payload is (federation/proto/v1/catalog.proto)."""

    CLUSTER = 1
    GATEWAY = 2
    SERVICE = 3
    LINK = 4
    IMPORT = 5
    EXPORT = 6
    PEER = 7
    ENDPOINTS = 8


class Key(NamedTuple):
    """(origin cluster, kind, name): no origin can touch another's key."""

    origin: str
    kind: Kind
    name: str


class Version(NamedTuple):
    """(epoch, sequence) of the origin; compared in this order."""

    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Record:
    """A claim of an origin. `payload` is None for a tombstone."""

    key: Key
    version: Version
    payload: bytes | None


class OriginState(enum.IntEnum):
    """What the source of a stream knows of an origin."""

    UNKNOWN = 0
    LIVE = 1
    STALE = 2
    GONE = 3


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin as the source of a stream sees it; `version` is the newest it has from it."""

    name: str
    version: Version
    state: OriginState
