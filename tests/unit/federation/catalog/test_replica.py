"""Transcripts of the protocol: what one end says, what the other then holds."""

from __future__ import annotations

import pytest

from federation.catalog.frames import batch_frame, hello_frame
from federation.catalog.replica import Farewell, Log, OutOfStep, Replica, Sink, Source
from federation.catalog.sink import INSIST
from federation.errors import CorruptState, Denied, InvalidInput
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version
from federation.proto.v1 import catalog_pb2 as pb


@pytest.fixture
def log(record) -> Log:
    log = Log(history="h1")
    log.reset_origin("a", Version(1, 2), [record("a", "n/s", (1, 1)), record("a", "n/t", (1, 2))])
    return log


def test_snapshot_then_deltas_then_tombstones(log, wire, record):
    w = wire(log, Sink())
    (first,) = w.pump()
    assert first.complete == ("a",)
    assert first.synced
    log.put([record("a", "n/s", (1, 3), b"new"), record("a", "n/t", (1, 4), None)])
    (changes,) = w.pump()
    assert [r.key.name for r in changes.put] == ["n/s"]
    assert [k.name for k in changes.deleted] == ["n/t"]
    assert w.view == {"a/n/s": b"new"}


def test_a_second_stream_resumes_with_the_difference_only(log, wire, record):
    sink = Sink()
    wire(log, sink).pump()
    log.put([record("a", "n/u", (1, 3))])
    second = wire(log, sink)
    hello = pb.Update.FromString(second.source.next_update()).hello
    assert hello.resumed
    batch = pb.Update.FromString(second.source.next_update()).batch
    assert [r.name for r in batch.records] == ["n/u"]


def test_who_comes_from_before_the_compaction_gets_a_snapshot(wire, record):
    log = Log(history="h1", keep=0)
    log.reset_origin("a", Version(1, 1), [record("a", "n/s", (1, 1)), record("a", "n/t", (1, 1))])
    sink = Sink()
    wire(log, sink).pump()
    log.put([record("a", "n/s", (1, 2), None)])
    w = wire(log, sink)
    assert not pb.Update.FromString(w.source.next_update()).hello.resumed
    w = wire(log, sink)
    w.pump()
    assert w.view == {"a/n/t": b"x"}


def test_a_slow_consumer_that_fell_behind_the_compaction_starts_again_in_its_stream(wire, record):
    log = Log(history="h1", keep=0)
    log.reset_origin("a", Version(1, 2), [record("a", "n/s", (1, 1)), record("a", "n/t", (1, 2))])
    w = wire(log, Sink())
    w.pump()
    log.put([record("a", "n/s", (1, 3), None)])
    assert not pb.Update.FromString(w.source.next_update()).hello.resumed
    w = wire(log, w.sink)
    w.pump()
    assert w.view == {"a/n/t": b"x"}


def test_a_slow_consumer_skips_what_was_overwritten(log, wire, record):
    w = wire(log, Sink())
    w.pump()
    for n in range(100):
        log.put([record("a", "n/s", (1, 10 + n), str(n).encode())])
    frames = w.source.next_updates()
    assert len(frames) == 1
    assert w.sink.receive(frames[0]).put[0].payload == b"99"


def test_sessions_at_the_same_place_share_the_same_bytes(log, wire, record):
    wires = [wire(log, Sink()) for _ in range(3)]
    for w in wires:
        w.pump()
    log.put([record("a", "n/s", (1, 3), b"new")])
    frames = [w.source.next_update() for w in wires]
    assert frames[0] is frames[1] is frames[2]


def test_a_new_source_does_not_delete_what_it_does_not_know(log, wire, record):
    sink = Sink()
    wire(log, sink).pump()
    restarted = Log(history="h2")
    restarted.reset_origin("b", Version(1, 1), [record("b", "n/s", (1, 1))])
    w = wire(restarted, sink)
    (changes,) = w.pump()
    assert Origin("a", Version(1, 2), OriginState.UNKNOWN) in changes.origins
    assert w.view == {"a/n/s": b"x", "a/n/t": b"x", "b/n/s": b"x"}
    restarted.reset_origin("a", Version(2, 1), [record("a", "n/s", (2, 1), b"back")])
    (changes,) = w.pump()
    assert changes.complete == ("a",)
    assert w.view == {"a/n/s": b"back", "b/n/s": b"x"}


def test_an_old_backup_does_not_win(log, wire, record):
    sink = Sink()
    wire(log, sink).pump()
    backup = Log(history="h2")
    backup.reset_origin("a", Version(1, 1), [record("a", "n/s", (1, 1)), record("a", "n/old", (1, 1))])
    w = wire(backup, sink)
    w.pump()
    assert w.view == {"a/n/s": b"x", "a/n/t": b"x"}
    assert set(sink.overruled) == {"a"}
    assert not sink.synced
    backup.reset_origin("a", Version(2, 1), [record("a", "n/s", (2, 1), b"y")])
    with pytest.raises(OutOfStep):
        w.pump()  # what was overruled could not be compared; now it can, and a snapshot settles it
    w = wire(backup, sink)
    w.pump()
    assert w.view == {"a/n/s": b"y"}
    assert not sink.overruled


def test_who_left_and_came_back_with_lower_versions_replaces_what_was_held(log, wire, record):
    sink = Sink()
    wire(log, sink).pump()
    log.set_origin(Origin("a", Version(1, 2), OriginState.GONE))  # while the consumer is away
    log.reset_origin("a", Version(0, 1), [record("a", "n/s", (0, 1), b"new")])
    w = wire(log, sink)
    w.pump()
    assert w.view == {"a/n/s": b"new"}
    assert sink.synced
    log.put([record("a", "n/s", (0, 2), b"newer")])
    w.pump()
    assert w.view == {"a/n/s": b"newer"}


def test_what_the_speaker_says_of_itself_counts_at_once_whatever_the_versions(wire, record):
    """A consumer moves between the replicas of one agent, each of which numbers its view by itself."""
    one, two = Log(history="one"), Log(history="two")
    one.reset_origin("east", Version(9, 9), [record("east", n, (9, 9), b"one") for n in ("a", "b", "c")])
    two.reset_origin("east", Version(3, 5), [record("east", n, (3, 4), b"two") for n in ("b", "c", "d")])
    sink = Sink(speaker="east")
    wire(one, sink).pump()
    moved = wire(two, sink)
    moved.pump()
    assert moved.view == {"east/b": b"two", "east/c": b"two", "east/d": b"two"}
    assert sink.synced
    two.put([record("east", "b", (3, 6), b"later"), record("east", "c", (3, 7), None)])
    moved.pump()
    assert moved.view == {"east/b": b"later", "east/d": b"two"}
    back = wire(one, sink)
    back.pump()
    assert back.view == {"east/a": b"one", "east/b": b"one", "east/c": b"one"}
    assert not sink.overruled


def test_of_others_the_speaker_is_no_authority(wire, record):
    one, two = Log(history="one"), Log(history="two")
    one.reset_origin("west", Version(9, 9), [record("west", "a", (9, 9), b"new")])
    two.reset_origin("west", Version(3, 5), [record("west", "a", (3, 4), b"old")])
    sink = Sink(speaker="east")
    wire(one, sink).pump()
    moved = wire(two, sink)
    moved.pump()
    assert moved.view == {"west/a": b"new"}
    assert "west" in sink.overruled


def test_an_origin_that_is_heard_and_insists_on_lower_versions_has_begun_anew(log, wire, record):
    sink = Sink()
    wire(log, sink).pump()
    elsewhere = Log(history="h2")  # the source has lost what would prove it
    elsewhere.reset_origin("a", Version(0, 1), [record("a", "n/s", (0, 1), b"new")])
    w = wire(elsewhere, sink)
    w.pump()
    assert w.view == {"a/n/s": b"x", "a/n/t": b"x"}
    assert not sink.synced
    for _ in range(INSIST - 2):
        sink.receive(w.source.progress())
    with pytest.raises(OutOfStep, match="begun anew"):
        sink.receive(w.source.progress())
    assert w.view == {"a/n/s": b"x", "a/n/t": b"x"}, "it serves on until the new ones are here"
    sink = Sink(Replica.load(sink.replica.dump()))  # what was given up is so after a restart, too
    w = wire(elsewhere, sink)
    (first,) = w.pump()
    assert first.synced
    assert w.view == {"a/n/s": b"new"}


def test_heartbeats_count_over_streams_and_end_when_the_newer_origin_is_back(log, wire, record):
    sink = Sink()
    wire(log, sink).pump()
    elsewhere = Log(history="h2")
    elsewhere.reset_origin("a", Version(1, 1), [record("a", "n/old", (1, 1))])
    for _ in range(INSIST - 1):
        wire(elsewhere, sink).pump()
    elsewhere.reset_origin("a", Version(1, 2), [record("a", "n/s", (1, 2), b"y")])
    with pytest.raises(OutOfStep, match="or others"):
        wire(elsewhere, sink).pump()
    w = wire(elsewhere, sink)
    w.pump()
    assert w.view == {"a/n/s": b"y"}
    assert sink.synced


def test_a_source_that_does_not_hear_an_origin_cannot_take_back_what_it_said(log, wire, record):
    sink = Sink()
    wire(log, sink).pump()
    backup = Log(history="h2")
    backup.reset_origin("a", Version(1, 1), [record("a", "n/old", (1, 1))])
    backup.set_origin(Origin("a", Version(1, 1), OriginState.STALE))
    w = wire(backup, sink)
    for _ in range(INSIST + 3):
        w.pump()
    assert w.view == {"a/n/s": b"x", "a/n/t": b"x"}
    assert not sink.synced


def test_what_is_published_does_not_go_back(log, wire, record):
    sink = Sink(origin="a")
    wire(log, sink).pump()
    older = Log(history="h2")
    older.reset_origin("a", Version(0, 1), [record("a", "n/s", (0, 1), b"old")])
    w = wire(older, sink)
    for _ in range(INSIST + 3):
        w.pump()
    assert set(sink.overruled) == {"a"}
    assert w.view == {"a/n/s": b"x", "a/n/t": b"x"}


def test_gone_deletes_the_origin(log, wire):
    w = wire(log, Sink())
    w.pump()
    log.set_origin(Origin("a", Version(1, 2), OriginState.GONE))
    (changes,) = w.pump()
    assert len(changes.deleted) == 2
    assert changes.origins[0].state is OriginState.GONE
    assert dict(w.sink.replica.origins) == {}


def test_stale_is_told_and_keeps_the_records(log, wire):
    w = wire(log, Sink())
    w.pump()
    log.set_origin(Origin("a", Version(1, 2), OriginState.STALE))
    (changes,) = w.pump()
    assert changes.origins[0].state is OriginState.STALE
    assert len(w.view) == 2


def test_refiltering_sends_what_appears_and_deletes_what_vanishes(log, wire):
    w = wire(log, Sink(), visible=lambda r: r.key.name == "n/s")
    w.pump()
    assert w.view == {"a/n/s": b"x"}
    w.source.refilter(lambda r: r.key.name == "n/t")
    w.pump()
    assert w.view == {"a/n/t": b"x"}
    w.source.refilter(lambda r: False)
    (changes,) = w.pump()
    assert changes.origins[0].state is OriginState.GONE
    assert w.view == {}


def test_a_record_that_becomes_invisible_by_its_own_change_is_deleted(log, wire, record):
    w = wire(log, Sink(), visible=lambda r: r.payload != b"secret")
    w.pump()
    log.put([record("a", "n/s", (1, 3), b"secret")])
    w.pump()
    assert w.view == {"a/n/t": b"x"}
    log.put([record("a", "n/hidden", (1, 4), b"secret"), record("a", "n/hidden", (1, 5), None)])
    assert w.source.next_updates() == [], "what was never visible leaves no trace"


def test_a_filter_that_changed_while_the_consumer_was_away_is_found_by_the_digest(log, wire):
    sink = Sink()
    wire(log, sink).pump()
    w = wire(log, sink, visible=lambda r: r.key.name == "n/s")
    with pytest.raises(OutOfStep):
        w.pump()
    w = wire(log, sink, visible=lambda r: r.key.name == "n/s")
    w.pump()
    assert w.view == {"a/n/s": b"x"}


def imports(log: Log, record, *names: str) -> None:
    log.reset_origin("a", Version(1, 1), [record("a", n, (1, 1), b"i", Kind.IMPORT) for n in names])


def test_names_are_answered_and_pushed_when_they_come_to_exist(wire, record):
    log = Log(history="h1")
    imports(log, record, "n/s", "n/other")
    sink = Sink(wildcard=False, names=["n/s", "n/none"])
    w = wire(log, sink)
    (changes,) = w.pump()
    assert w.view == {"a/n/s": b"i"}
    assert changes.absent == ("n/none",)
    log.put([record("a", "n/none", (1, 2), b"now", Kind.IMPORT)])
    w.pump()
    assert w.view == {"a/n/s": b"i", "a/n/none": b"now"}
    assert sink.replica.absent == set()
    log.put([record("a", "n/none", (1, 3), None, Kind.IMPORT)])
    (changes,) = w.pump()
    assert changes.absent == ("n/none",)


def test_names_are_added_and_dropped_while_the_stream_runs(wire, record):
    log = Log(history="h1")
    imports(log, record, "n/s", "n/t")
    sink = Sink(wildcard=False, names=["n/s"])
    w = wire(log, sink)
    w.pump()
    sink.subscribe(["n/t", "n/u"])
    dropped = sink.unsubscribe(["n/s"])
    assert [key.name for key in dropped.deleted] == ["n/s"]
    (changes,) = w.pump()
    assert changes.absent == ("n/u",)
    assert w.view == {"a/n/t": b"i"}
    assert set(w.source.names) == {"n/t", "n/u"}


def test_an_answer_that_is_lost_is_noticed_though_nothing_has_changed(log, wire):
    sink = Sink(wildcard=False)
    w = wire(log, sink)
    w.pump()
    sink.subscribe(["n/none"])
    for demand in sink.demands():
        w.source.receive(demand.subscribe)
    assert pb.Update.FromString(w.source.next_update()).batch.absent == ["n/none"]  # it does not arrive
    with pytest.raises(OutOfStep, match="n/none"):
        sink.receive(w.source.progress())
    wire(log, sink).pump()
    assert sink.replica.absent == {"n/none"}


def test_a_name_of_which_nobody_knows_is_answered_when_somebody_does(wire, record):
    log = Log(history="h1")
    imports(log, record, "n/s")
    unread = {"n/none", "n/late"}
    sink = Sink(wildcard=False, names=["n/s", "n/none", "n/late", "other/none"])
    w = wire(log, sink, deniable=lambda name: name not in unread)
    (changes,) = w.pump()
    assert changes.absent == ("other/none",)
    assert w.source.caught_up  # it neither turns in a circle nor is it silent
    assert w.pump() == []
    sink.subscribe(["n/more"])
    assert [c.absent for c in w.pump()] == [("n/more",)]
    log.put([record("a", "n/late", (1, 2), b"now", Kind.IMPORT)])
    w.pump()
    assert w.view == {"a/n/s": b"i", "a/n/late": b"now"}
    assert sink.replica.absent == {"other/none", "n/more"}
    unread.clear()
    (changes,) = w.pump()
    assert changes.absent == ("n/none",)
    assert w.pump() == []


def test_known_names_are_not_sent_again(wire, record):
    log = Log(history="h1")
    imports(log, record, "n/s")
    sink = Sink(wildcard=False, names=["n/s", "n/none"])
    wire(log, sink).pump()
    w = wire(log, sink)
    w.source.next_update()
    batch = pb.Update.FromString(w.source.next_update()).batch
    assert not batch.records
    assert not batch.absent
    w = wire(log, sink)
    w.pump()


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_known_name_that_went_with_its_origin_meanwhile_is_absent(wire, record, comes_back: bool):
    log = Log(history="h1")
    imports(log, record, "n/s")
    sink = Sink(wildcard=False, names=["n/s"])
    wire(log, sink).pump()
    log.set_origin(Origin("a", Version(1, 1), OriginState.GONE))
    if comes_back:
        log.reset_origin("a", Version(0, 1), [record("a", "n/t", (0, 1), b"i", Kind.IMPORT)])
    (changes,) = wire(log, sink).pump()
    assert changes.absent == ("n/s",)
    assert sink.replica.absent == {"n/s"}
    assert not len(sink.replica)


def test_large_snapshots_come_in_parts_and_apply_at_once(log, wire):
    w = wire(log, Sink(), frame_bytes=1)
    frames = w.source.next_updates()
    assert len(frames) > 2
    for frame in frames[:-1]:
        assert w.sink.receive(frame) is None
        assert w.view == {}
    assert len(w.sink.receive(frames[-1]).put) == 2


def test_a_missing_part_is_noticed_and_a_doubled_one_ignored(log, wire, record):
    w = wire(log, Sink())
    w.pump()
    log.put([record("a", "n/s", (1, 3), b"3")])
    third = w.source.next_update()
    log.put([record("a", "n/s", (1, 4), b"4")])
    fourth = w.source.next_update()
    with pytest.raises(OutOfStep):
        w.sink.receive(fourth)
    w.sink.receive(third)
    assert w.sink.receive(third) is None
    w.sink.receive(fourth)
    assert w.view["a/n/s"] == b"4"
    assert w.sink.receive(third) is None
    assert w.view["a/n/s"] == b"4"


def test_frames_of_an_earlier_stream_are_dropped(log, wire, record):
    w = wire(log, Sink())
    w.pump()
    old = w.sink.stream
    log.put([record("a", "n/s", (1, 3), b"3")])
    late = w.source.next_update()
    wire(log, w.sink)
    assert w.sink.receive(late, stream=old) is None
    with pytest.raises(OutOfStep):
        w.sink.receive(late)


def test_a_foreign_origin_is_denied(log, wire):
    w = wire(log, Sink(origin="b"))
    with pytest.raises(Denied) as error:
        w.pump()
    assert error.value.error_code == "foreign_origin"
    assert w.view == {}


def test_a_foreign_origin_cannot_even_be_spoken_of():
    sink = Sink(origin="b")
    sink.open()
    sink.receive(hello_frame(history="h", resumed=False, heartbeat_ms=1))
    gone = pb.Update(batch=pb.Batch(revision=1, origins=[pb.Origin(name="a", state=pb.Origin.GONE)]))
    with pytest.raises(Denied):
        sink.receive(gone)


def test_the_view_survives_on_disk(log, wire):
    w = wire(log, Sink(wildcard=False, names=["n/none"]))
    w.pump()
    loaded = Replica.load(w.sink.replica.dump())
    assert loaded.dump() == w.sink.replica.dump()
    w = wire(log, Sink(loaded, wildcard=False, names=["n/none"]))
    assert pb.Update.FromString(w.source.next_update()).hello.resumed
    for damaged in (b"", b"\xff\xff\xff", w.sink.replica.dump()[:-3]):
        with pytest.raises(CorruptState):
            Replica.load(damaged)


def test_goodbye_and_garbage():
    sink = Sink()
    sink.open()
    with pytest.raises(Farewell) as bye:
        sink.receive(pb.Update(goodbye=pb.Goodbye(code="going_away", retry_after_ms=1500)))
    assert bye.value.error_code == "going_away"
    assert bye.value.retry_after == 1.5
    with pytest.raises(InvalidInput):
        sink.receive(b"\xff\xff")
    with pytest.raises(OutOfStep):
        sink.receive(batch_frame(since=0, revision=1, part=0, more=False, records=[]))


def test_nothing_is_said_before_the_subscription(log):
    source = Source(log)
    assert source.next_update() is None
    assert source.progress() is None
    assert not source.caught_up


def test_kinds_that_were_not_asked_for_do_not_come(log, wire, record):
    log.put([record("a", "n/i", (1, 3), b"i", Kind.IMPORT)])
    w = wire(log, Sink(kinds=[Kind.IMPORT]))
    w.pump()
    assert w.view == {"a/n/i": b"i"}
    assert w.sink.replica.get(Key("a", Kind.IMPORT, "n/i")).payload == b"i"


def test_a_picture_is_of_its_moment() -> None:
    replica = Replica()
    replica.set_origin(Origin("east", Version(1, 1), OriginState.LIVE))
    replica.set(Record(Key("east", Kind.SERVICE, "shop/echo"), Version(1, 1), b"old"))
    encode = replica.picture()
    replica.set(Record(Key("east", Kind.SERVICE, "shop/echo"), Version(1, 2), b"new"))
    assert [r.payload for r in Replica.load(encode()).records()] == [b"old"]
    assert [r.payload for r in Replica.load(replica.dump()).records()] == [b"new"]
