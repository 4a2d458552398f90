"""Serialises what goes over a catalogue stream, each record once.

Arrives: records and origins. Leaves: the bytes of `Update` messages, put together from records that are bytes already,
so that a record sent to a thousand consumers is serialised once. The sources (federation.catalog.source) cut frames
from these; the digests of both ends are sums of `fingerprint`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from sys import intern

from federation.model.record import Key, Kind, Origin, OriginState, Record, Version
from federation.proto.v1 import catalog_pb2 as pb

DIGEST_BYTES = 16
DIGEST_MASK = (1 << (8 * DIGEST_BYTES)) - 1

_KINDS = {int(kind): kind for kind in Kind}
_RECORDS, _ORIGINS, _ABSENT = b"\x12", b"\x22", b"\x2a"  # Batch: fields 2, 4 and 5, length-delimited


def varint(number: int) -> bytes:
    """The protobuf encoding of an unsigned number."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def record_bytes(record: Record) -> bytes:
    """The record as a field of Batch, with its tag and length: these are concatenated into frames."""
    key, version = record.key, record.version
    body = pb.Record(
        origin=key.origin,
        kind=key.kind.value,  # type: ignore[arg-type]
        name=key.name,
        epoch=version.epoch,
        sequence=version.sequence,
        payload=record.payload or b"",
        deleted=record.payload is None,
    ).SerializeToString()
    return _RECORDS + varint(len(body)) + body


def tombstone_bytes(key: Key, version: Version) -> bytes:
    return record_bytes(Record(key, version, None))


@lru_cache(maxsize=256)
def _epoch(number: int) -> int:
    """One object for all records of an origin: with the origin's name that is 80 bytes less of each."""
    return number


def record_from_pb(message: pb.Record) -> Record | None:
    """None for a kind that this version does not know."""
    kind = _KINDS.get(message.kind)
    if kind is None:
        return None
    return Record(
        Key(intern(message.origin), kind, message.name),
        Version(_epoch(message.epoch), message.sequence),
        None if message.deleted else message.payload,
    )


def fingerprint(record: Record) -> int:
    """A number for (key, version, payload); the digest of a set of records is the sum of theirs, in any order."""
    key, version = record.key, record.version
    head = f"{key.origin}\0{key.kind.value}\0{key.name}\0{version.epoch}\0{version.sequence}\0".encode()
    return int.from_bytes(blake2b(head + (record.payload or b""), digest_size=DIGEST_BYTES).digest(), "little")


def digest_bytes(total: int) -> bytes:
    return (total & DIGEST_MASK).to_bytes(DIGEST_BYTES, "little")


def origin_bytes(origin: Origin, *, complete: bool) -> bytes:
    body = pb.Origin(
        name=origin.name,
        epoch=origin.version.epoch,
        sequence=origin.version.sequence,
        state=origin.state.value,  # type: ignore[arg-type]
        complete=complete,
    ).SerializeToString()
    return _ORIGINS + varint(len(body)) + body


def origin_from_pb(message: pb.Origin) -> Origin:
    try:
        state = OriginState(message.state)
    except ValueError:
        state = OriginState.UNKNOWN
    return Origin(message.name, Version(message.epoch, message.sequence), state)


def batch_frame(
    *,
    since: int,
    revision: int,
    part: int,
    more: bool,
    records: Sequence[bytes],
    origins: Iterable[bytes] = (),
    absent: Iterable[str] = (),
) -> bytes:
    """An Update that carries a Batch; `records` come from `record_bytes`, `origins` from `origin_bytes`."""
    pieces = [b"\x08", varint(revision), *records]
    if more:
        pieces.append(b"\x18\x01")
    pieces += origins
    for name in absent:
        raw = name.encode()
        pieces += (_ABSENT, varint(len(raw)), raw)
    if since:
        pieces += (b"\x30", varint(since))
    if part:
        pieces += (b"\x38", varint(part))
    body = b"".join(pieces)
    return b"\x12" + varint(len(body)) + body


def hello_frame(*, history: str, resumed: bool, heartbeat_ms: int) -> bytes:
    hello = pb.Hello(history=history, resumed=resumed, heartbeat_ms=heartbeat_ms)
    return pb.Update(hello=hello).SerializeToString()


def progress_frame(*, revision: int, since: int, digest: int, count: int, demand: int) -> bytes:
    progress = pb.Progress(revision=revision, since=since, digest=digest_bytes(digest), count=count, demand=demand)
    return pb.Update(progress=progress).SerializeToString()


def goodbye_frame(code: str, detail: str = "", *, retry_after_ms: int = 0) -> bytes:
    """The last Update of a stream."""
    goodbye = pb.Goodbye(code=code, detail=detail, retry_after_ms=retry_after_ms)
    return pb.Update(goodbye=goodbye).SerializeToString()
