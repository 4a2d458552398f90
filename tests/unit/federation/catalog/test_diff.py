from __future__ import annotations

from federation.catalog.diff import plan
from federation.catalog.log import Log
from federation.model.record import Key, Kind, Version

A, B, C = (Key("east", Kind.SERVICE, f"n/{name}") for name in "abc")


def test_only_what_differs_is_put_and_what_is_unwanted_is_deleted():
    log = Log(history="h")
    first = plan({A: b"1", B: b"1"}, [], Version(3, 0))
    log.put(first.records)
    assert first.version == Version(3, 2)
    second = plan({A: b"1", C: b"1"}, log.records(), first.version)
    assert [(r.key, r.version, r.payload) for r in second.records] == [
        (C, Version(3, 3), b"1"),
        (B, Version(3, 4), None),
    ]
    log.put(second.records)
    assert not plan({A: b"1", C: b"1"}, log.records(), second.version)
