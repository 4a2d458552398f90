from __future__ import annotations

import pytest

from federation.catalog.log import MAX_RECORD_BYTES, Log
from federation.errors import InvalidInput
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version


def names(log: Log, since: int = 0) -> list[str]:
    return [entry.record.key.name for entry in log.entries(since)]


def test_newer_versions_win_and_older_or_equal_ones_change_nothing(record):
    log = Log(history="h")
    assert log.put([record("a", "n/s", (1, 2), b"two")])
    assert not log.put([record("a", "n/s", (1, 2), b"other"), record("a", "n/s", (1, 1), b"one")])
    assert log.get(Key("a", Kind.SERVICE, "n/s")).payload == b"two"
    assert log.revision == 1


def test_a_tombstone_is_not_overtaken_by_what_it_deleted(record):
    log = Log(history="h")
    log.put([record("a", "n/s", (1, 1)), record("a", "n/s", (1, 3), None)])
    assert not log.put([record("a", "n/s", (1, 2))])
    assert list(log.records()) == []
    assert len(log) == 0


def test_a_compacted_tombstone_still_keeps_its_past_away(record):
    log = Log(history="h", keep=1)
    for n in range(5):
        log.put([record("a", f"n/{n}", (1, 2 * n + 1)), record("a", f"n/{n}", (1, 2 * n + 2), None)])
    assert log.floor > 0
    assert not log.put([record("a", "n/0", (1, 1))])


def test_an_old_epoch_never_wins(record):
    log = Log(history="h")
    log.reset_origin("a", Version(2, 1), [record("a", "n/s", (2, 1))])
    assert not log.put([record("a", "n/t", (1, 99))])
    assert not log.reset_origin("a", Version(1, 99), [])
    assert len(log) == 1


def test_a_reset_deletes_what_is_no_longer_there_and_keeps_what_is_the_same(record):
    log = Log(history="h")
    log.reset_origin("a", Version(1, 2), [record("a", "n/s", (1, 1)), record("a", "n/t", (1, 2))])
    before = log.revision
    assert log.reset_origin("a", Version(2, 1), [record("a", "n/s", (2, 1))])
    assert names(log, before) == ["n/t"]
    assert log.get(Key("a", Kind.SERVICE, "n/s")).version == Version(1, 1)
    assert log.origins()["a"].version == Version(2, 1)


def test_gone_drops_the_records_and_a_new_snapshot_brings_the_origin_back(record):
    log = Log(history="h")
    log.reset_origin("a", Version(1, 1), [record("a", "n/s", (1, 1))])
    assert log.set_origin(Origin("a", Version(1, 1), OriginState.GONE))
    assert not log.set_origin(Origin("a", Version(1, 1), OriginState.GONE))
    assert not log.put([record("a", "n/s", (1, 2))])
    assert len(log) == 0
    assert log.reset_origin("a", Version(2, 1), [record("a", "n/s", (2, 1))])
    assert log.origins()["a"].state is OriginState.LIVE


def test_entries_come_in_the_order_of_their_last_change(record):
    log = Log(history="h")
    for n in range(3):
        log.put([record("a", f"n/{n}", (1, n + 1))])
    log.put([record("a", "n/0", (1, 9))])
    assert names(log) == ["n/1", "n/2", "n/0"]
    assert names(log, 2) == ["n/2", "n/0"]


def test_the_order_is_compacted_under_churn(record):
    log = Log(history="h")
    for n in range(5000):
        log.put([record("a", "n/0", (1, n + 1))])
    assert len(log._order) < 300
    assert names(log) == ["n/0"]


def test_who_listens_is_told_once_per_change_and_no_longer_after_the_end(record):
    log, told = Log(history="h"), []
    end = log.listen(lambda: told.append(log.revision))
    log.put([record("a", "n/0", (1, 1)), record("a", "n/1", (1, 2))])
    log.put([record("a", "n/0", (1, 1))])
    end()
    log.put([record("a", "n/2", (1, 3))])
    assert told == [2]
    assert log.changed.value == 3


def test_too_large_and_foreign_records_are_refused(record):
    log = Log(history="h")
    with pytest.raises(InvalidInput) as error:
        log.put([record("a", "n/s", (1, 1), bytes(MAX_RECORD_BYTES + 1))])
    assert error.value.error_code == "record_too_large"
    with pytest.raises(InvalidInput) as error:
        log.reset_origin("a", Version(1, 1), [record("b", "n/s", (1, 1))])
    assert error.value.error_code == "foreign_origin"
    assert log.revision == 0


def test_delete_leaves_a_tombstone(record):
    log = Log(history="h")
    log.put([record("a", "n/s", (1, 5))])
    assert log.delete(Key("a", Kind.SERVICE, "n/s"), Version(1, 2))
    assert not log.delete(Key("a", Kind.SERVICE, "n/s"), Version(1, 9))
    entry = log.entry(Key("a", Kind.SERVICE, "n/s"))
    assert entry.record == Record(Key("a", Kind.SERVICE, "n/s"), Version(1, 5), None)
