"""Frames are put together from bytes: they must read back as the messages that they claim to be."""

from __future__ import annotations

import pytest

from federation.catalog import frames
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version
from federation.proto.v1 import catalog_pb2 as pb

RECORD = Record(Key("east", Kind.SERVICE, "shop/echo"), Version(7, 300), b"x" * 200)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 1 << 32, (1 << 64) - 1])
def test_varint_is_protobufs(number):
    assert frames.varint(number) == pb.Ack(revision=number).SerializeToString()[1:] or number == 0
    assert pb.Ack.FromString(b"\x08" + frames.varint(number)).revision == number


def test_a_batch_reads_back():
    gone = Record(Key("east", Kind.SERVICE, "shop/old"), Version(7, 301), None)
    frame = frames.batch_frame(
        since=3,
        revision=500,
        part=2,
        more=True,
        records=[frames.record_bytes(RECORD), frames.record_bytes(gone)],
        origins=[frames.origin_bytes(Origin("east", Version(7, 301), OriginState.STALE), complete=True)],
        absent=["shop/none", "shop/ünicode"],
    )
    batch = pb.Update.FromString(frame).batch
    assert [frames.record_from_pb(m) for m in batch.records] == [RECORD, gone]
    assert (batch.since, batch.revision, batch.part, batch.more) == (3, 500, 2, True)
    assert frames.origin_from_pb(batch.origins[0]) == Origin("east", Version(7, 301), OriginState.STALE)
    assert batch.origins[0].complete
    assert list(batch.absent) == ["shop/none", "shop/ünicode"]
    assert frames.tombstone_bytes(gone.key, gone.version) == frames.record_bytes(gone)


def test_an_empty_payload_is_no_tombstone():
    empty = Record(RECORD.key, RECORD.version, b"")
    raw = frames.batch_frame(since=0, revision=1, part=0, more=False, records=[frames.record_bytes(empty)])
    assert frames.record_from_pb(pb.Update.FromString(raw).batch.records[0]) == empty


def test_what_a_later_version_sends():
    assert frames.record_from_pb(pb.Record(origin="east", kind=99, name="n")) is None
    assert frames.origin_from_pb(pb.Origin(name="east", state=99)).state is OriginState.UNKNOWN


@pytest.mark.parametrize(
    "other",
    [
        Record(Key("west", Kind.SERVICE, "shop/echo"), RECORD.version, RECORD.payload),
        Record(Key("east", Kind.IMPORT, "shop/echo"), RECORD.version, RECORD.payload),
        Record(Key("east", Kind.SERVICE, "shop/ech"), RECORD.version, RECORD.payload),
        Record(RECORD.key, Version(7, 301), RECORD.payload),
        Record(RECORD.key, Version(8, 300), RECORD.payload),
        Record(RECORD.key, RECORD.version, b"y" * 200),
    ],
)
def test_the_digest_covers_every_part(other):
    assert frames.fingerprint(other) != frames.fingerprint(RECORD)


def test_the_digest_is_a_sum():
    total = frames.fingerprint(RECORD) + frames.DIGEST_MASK + 1
    assert frames.digest_bytes(total) == frames.digest_bytes(frames.fingerprint(RECORD))
    assert len(frames.digest_bytes(total)) == frames.DIGEST_BYTES


def test_the_other_updates():
    hello = pb.Update.FromString(frames.hello_frame(history="h", resumed=True, heartbeat_ms=5000)).hello
    assert (hello.history, hello.resumed, hello.heartbeat_ms) == ("h", True, 5000)
    progress = pb.Update.FromString(frames.progress_frame(revision=9, since=8, digest=5, count=4, demand=3)).progress
    assert (progress.revision, progress.since, progress.count, progress.demand) == (9, 8, 4, 3)
    assert progress.digest == frames.digest_bytes(5)
    bye = pb.Update.FromString(frames.goodbye_frame("going_away", "stops", retry_after_ms=50)).goodbye
    assert (bye.code, bye.detail, bye.retry_after_ms) == ("going_away", "stops", 50)
