"""An audience knows, at each change, what its consumers see: the same as if it looked at everything again."""

from __future__ import annotations

import gc
import random

from federation.catalog.audience import Audience, everything
from federation.catalog.frames import DIGEST_MASK
from federation.catalog.log import Log
from federation.model.record import Key, Kind, Origin, OriginState, Version

ALL = frozenset(Kind)


def agrees(audience, log):
    """Compares with a look at the whole log."""
    seen = [e for e in log.entries() if e.live and audience.wants(e.record)]
    for entry in log.entries():
        assert audience.holds(entry) == (entry in seen)
    whole = [e for e in seen if log.origin(e.record.key.origin).completed]
    assert audience.total() == (sum(e.digest for e in whole) & DIGEST_MASK, len(whole))
    assert set(audience.origins()) == {e.record.key.origin for e in seen}


def odd(record):
    return record.payload is not None and record.payload[-1] % 2 == 1


def test_random_changes(record):
    dice, log = random.Random(7), Log(history="h", keep=5)
    audiences = [Audience.of(log, visible, ALL, by_name=False) for visible in (everything, odd)]
    for sequence in range(1, 601):
        origin, name = dice.choice("abc"), f"n/{dice.randrange(12)}"
        match dice.randrange(10):
            case 0:
                log.set_origin(Origin(origin, Version(1, sequence), dice.choice([OriginState.GONE, OriginState.LIVE])))
            case 1:
                rest = [record(origin, f"n/{i}", (1, sequence), b"\x01") for i in range(dice.randrange(6))]
                log.reset_origin(origin, Version(1, sequence), rest)
            case 2 | 3:
                log.put([record(origin, name, (1, sequence), None)])
            case _:
                log.put([record(origin, name, (1, sequence), bytes([dice.randrange(256)]))])
        for audience in audiences:
            agrees(audience, log)
    agrees(Audience(log, odd, ALL, by_name=False), log)


def test_what_went_away_is_known_by_revision(record):
    log = Log(history="h")
    log.put([record("a", "n/1", (1, 1), b"\x01"), record("a", "n/2", (1, 2), b"\x02")])
    audience = Audience.of(log, odd, ALL, by_name=False)
    log.put([record("a", "n/1", (1, 3), b"\x02"), record("a", "n/2", (1, 4), b"\x04")])
    assert audience.removed == {Key("a", Kind.SERVICE, "n/1"): 3}  # the other one was never seen
    log.put([record("a", "n/1", (1, 5), b"\x05")])
    assert audience.removed == {}
    log.put([record("a", "n/1", (1, 6), None)])
    assert Audience(log, odd, ALL, by_name=False).removed == {Key("a", Kind.SERVICE, "n/1"): log.revision}


def test_names_are_left_to_the_sessions(record):
    log = Log(history="h")
    log.put([record("a", "n/i", (1, 1), kind=Kind.IMPORT), record("a", "a", (1, 2), kind=Kind.PEER)])
    audience = Audience.of(log, everything, frozenset({Kind.IMPORT, Kind.PEER}), by_name=True)
    assert [e.record.key.kind for e in log.entries() if audience.holds(e)] == [Kind.PEER]
    assert Audience.of(log, everything, frozenset({Kind.IMPORT, Kind.PEER}), by_name=False) is not audience


def test_one_audience_for_all_with_the_same_filter_and_none_when_nobody_uses_it(record):
    log = Log(history="h")
    first = Audience.of(log, odd, ALL, by_name=False)
    assert Audience.of(log, odd, ALL, by_name=False) is first
    assert Audience.of(log, odd, frozenset({Kind.PEER}), by_name=False) is not first
    del first
    gc.collect()
    assert len(log.watchers) == 0


def test_the_newest_first(record):
    log = Log(history="h")
    for sequence, name in enumerate(["n/1", "n/2", "n/1", "n/3"], 1):
        log.put([record("a", name, (1, sequence))])
    assert [e.record.key.name for e in log.newest()] == ["n/3", "n/1", "n/2"]
    assert [e.record.key.name for e in log.newest(3)] == ["n/3"]
    assert list(log.newest(log.revision)) == []
