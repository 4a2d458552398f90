"""What is staged ahead of a snapshot changes nothing for anybody: consumers see what they would see without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from federation.catalog.replica import Log, Sink, Source
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version


def _hides_x(record: Record) -> bool:
    return record.key.name != "x"


def _hides_two(record: Record) -> bool:
    return record.payload != b"2"


ORIGINS = st.sampled_from(["a", "b"])
NAMES = st.sampled_from(["x", "y", "z"])
PAYLOADS = st.sampled_from([b"1", b"2"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("stage"), st.tuples(ORIGINS, NAMES, PAYLOADS)),
        st.tuples(st.just("unstage"), ORIGINS),
        st.tuples(st.just("put"), st.tuples(ORIGINS, NAMES, st.one_of(PAYLOADS, st.none()))),
        st.tuples(st.just("reset"), st.tuples(ORIGINS, st.dictionaries(NAMES, PAYLOADS), st.booleans())),
        st.tuples(st.just("gone"), ORIGINS),
        st.tuples(st.just("join"), st.sampled_from([_hides_x, _hides_two])),
        st.tuples(st.just("refilter"), st.sampled_from([_hides_x, _hides_two])),
    ),
    max_size=16,
)


def _record(origin: str, name: str, sequence: int, payload: bytes | None) -> Record:
    return Record(Key(origin, Kind.SERVICE, name), Version(1, sequence), payload)


def _concrete(steps: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The steps with records, whose versions rise; a reset brings what was staged since the last one, or anew."""
    staged: dict[Key, Record] = {}
    for sequence, (what, value) in enumerate(steps, 1):
        if what == "stage":
            origin, name, payload = value
            record = _record(origin, name, sequence, payload)
            staged[record.key] = record
            yield what, record
        elif what == "put":
            origin, name, payload = value
            yield what, _record(origin, name, sequence, payload)
        elif what == "reset":
            origin, wanted, again = value
            fresh = [_record(origin, name, sequence, payload) for name, payload in wanted.items()]
            yield what, (origin, Version(1, sequence), [staged.get(r.key, r) if again else r for r in fresh])
        elif what == "gone":
            yield what, Origin(value, Version(1, sequence), OriginState.GONE)
        else:
            yield what, value
        if what in ("put", "reset", "gone"):
            staged.clear()  # older than what the origin has said since


class World:
    """A log and those who follow it."""

    def __init__(self, *, stages: bool) -> None:
        self.log = Log(history="h", keep=2)
        self.stages = stages
        self.pairs: list[tuple[Source, Sink]] = []

    def step(self, what: str, value: Any) -> None:
        if what == "stage" and self.stages:
            self.log.stage(value)
        elif what == "unstage" and self.stages:
            self.log.unstage(value)
        elif what == "put":
            self.log.put([value])
        elif what == "reset":
            self.log.reset_origin(*value)
        elif what == "gone":
            self.log.set_origin(value)
        elif what == "join":
            source, sink = Source(self.log, visible=value), Sink()
            source.receive(sink.open().subscribe)
            self.pairs.append((source, sink))
        elif what == "refilter":
            for source, _ in self.pairs:
                source.refilter(value)
        for source, sink in self.pairs:
            for frame in source.next_updates():
                sink.receive(frame)
            proof = source.progress()
            assert proof is not None
            sink.receive(proof)  # raises OutOfStep where the digests differ

    def seen(self) -> Any:
        held = [
            (sorted((r.key, r.payload) for r in sink.replica.records()), sorted(sink.replica.complete))
            for _, sink in self.pairs
        ]
        return held, sorted((r.key, r.payload) for r in self.log.records()), len(self.log), self.log.origins().keys()


@given(STEPS)
def test_staging_is_not_seen(steps: list[tuple[str, Any]]) -> None:
    staging, plain = World(stages=True), World(stages=False)
    for what, value in _concrete(steps):
        staging.step(what, value)
        plain.step(what, value)
        assert staging.seen() == plain.seen()
