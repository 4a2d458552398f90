"""The replication protocol against a model of the world: whatever happens on the way, after the heal all views agree.

The truth is what each origin holds. A source knows what the origins told it; it restarts, or comes back with an old
backup. An origin that leaves may come back with lower versions than it had. Consumers see through filters and names;
their frames are delayed, lost, doubled, swapped, or arrive after their stream was replaced; they restart, also from an
old copy of their view.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from federation.catalog.replica import Farewell, Log, OutOfStep, Replica, Sink, Source
from federation.catalog.sink import INSIST
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version
from federation.proto.v1 import catalog_pb2 as pb

ORIGINS = ("a", "b", "c")
NAMES = ("n/0", "n/1", "n/2", "n/3")
KINDS = (Kind.SERVICE, Kind.IMPORT)
CONSUMERS = 3
FIRST_EPOCH, APART = 1_000_000, 1_000  # so far apart that no membership meets the epochs of another

origins = st.sampled_from(ORIGINS)
keys = st.builds(Key, origins, st.sampled_from(KINDS), st.sampled_from(NAMES))
consumers = st.integers(0, CONSUMERS - 1)
names = st.sets(st.sampled_from(NAMES), max_size=2)
hidden = st.sets(st.tuples(origins, st.sampled_from(NAMES)), max_size=6)


@dataclass
class Truth:
    """One origin: what it holds, and when it deleted what it no longer holds."""

    version: Version
    present: bool = True
    records: dict[Key, Record] = field(default_factory=dict)
    deleted: dict[Key, Version] = field(default_factory=dict)

    def next(self) -> Version:
        self.version = Version(self.version.epoch, self.version.sequence + 1)
        return self.version


@dataclass
class Consumer:
    sink: Sink
    hide: frozenset[tuple[str, str]] = frozenset()
    source: Source | None = None
    flying: list[tuple[int, bytes]] = field(default_factory=list)  # (number of the stream, frame)
    late: list[tuple[int, bytes]] = field(default_factory=list)
    saved: bytes = b""

    def visible(self, record: Record) -> bool:
        return (record.key.origin, record.key.name) not in self.hide


def filter_of(hide: frozenset[tuple[str, str]]):  # a predicate that never changes its mind
    return lambda record: (record.key.origin, record.key.name) not in hide


class Replication(RuleBasedStateMachine):
    @initialize(keep=st.sampled_from([0, 2, 1000]), frame=st.sampled_from([1, 90, 1 << 18]))
    def begin(self, keep: int, frame: int) -> None:
        self.keep, self.frame = keep, frame
        self.histories = 0
        self.following: dict[str, str] = {}  # origin -> history of the log that it feeds
        self.written = 0
        self.truth = {name: Truth(Version(FIRST_EPOCH, 0)) for name in ORIGINS}
        self.lowest = dict.fromkeys(ORIGINS, FIRST_EPOCH)
        self.highest = dict.fromkeys(ORIGINS, FIRST_EPOCH)
        self.log = self.new_log()
        self.backup: list[tuple[str, Version, list[Record]]] = []
        self.consumers = [
            Consumer(Sink(kinds=KINDS)),
            Consumer(Sink(kinds=KINDS, wildcard=False, names=["n/0"])),
            Consumer(Sink(kinds=[Kind.SERVICE])),
        ]

    def new_log(self) -> Log:
        self.histories += 1
        return Log(history=f"h{self.histories}", keep=self.keep)

    def publish(self, name: str) -> None:
        truth = self.truth[name]
        if truth.present:
            self.log.reset_origin(name, truth.version, truth.records.values())

    def known(self, name: str) -> bool:
        """Whether the source is up to date with the origin, so that it takes single changes."""
        origin = self.log.origins().get(name)
        return origin is not None and origin.state is not OriginState.GONE and name in self.followed

    # --- the origins ---

    @property
    def followed(self) -> set[str]:
        return {n for n, history in self.following.items() if history == self.log.history}

    @rule(key=keys)
    def write(self, key: Key) -> None:
        truth = self.truth[key.origin]
        if not truth.present:
            return
        self.written += 1
        record = Record(key, truth.next(), f"payload {self.written}".encode())
        truth.records[key] = record
        truth.deleted.pop(key, None)
        if self.known(key.origin):
            assert self.log.put([record])

    @rule(key=keys)
    def delete(self, key: Key) -> None:
        truth = self.truth[key.origin]
        if not truth.present or key not in truth.records:
            return
        del truth.records[key]
        truth.deleted[key] = truth.next()
        if self.known(key.origin):
            assert self.log.put([Record(key, truth.version, None)])

    @rule(name=origins)
    def origin_connects(self, name: str) -> None:
        if self.truth[name].present:
            self.publish(name)
            self.following[name] = self.log.history

    @rule(name=origins)
    def origin_is_cut_off(self, name: str) -> None:
        self.following.pop(name, None)
        known = self.log.origins().get(name)
        if known is not None and known.state is OriginState.LIVE:
            self.log.set_origin(Origin(name, known.version, OriginState.STALE))

    @rule(name=origins)
    def origin_restarts(self, name: str) -> None:
        truth = self.truth[name]
        truth.version = Version(truth.version.epoch + 1, 0)
        truth.records = {k: Record(k, truth.next(), r.payload) for k, r in truth.records.items()}
        self.following.pop(name, None)

    @rule(name=origins)
    def origin_leaves(self, name: str) -> None:
        truth = self.truth[name]
        truth.present = False
        truth.records.clear()
        truth.deleted.clear()
        self.following.pop(name, None)
        self.log.set_origin(Origin(name, truth.version, OriginState.GONE))
        self.backup = [held for held in self.backup if held[0] != name]  # nobody can speak for that membership any more

    @rule(name=origins, clock_is_behind=st.booleans())
    def origin_joins_again(self, name: str, clock_is_behind: bool) -> None:
        if self.truth[name].present:
            return
        if clock_is_behind:
            self.lowest[name] = epoch = self.lowest[name] - APART
        else:
            self.highest[name] = epoch = self.highest[name] + APART
        self.truth[name] = Truth(Version(epoch, 0))

    @rule(key=keys, clock_is_behind=st.booleans(), source_restarts=st.booleans())
    def an_origin_that_all_have_seen_begins_anew(self, key: Key, clock_is_behind: bool, source_restarts: bool) -> None:
        self.write(key)
        self.heal()
        self.origin_leaves(key.origin)
        if source_restarts:
            self.source_restarts()
        self.origin_joins_again(key.origin, clock_is_behind)
        self.origin_connects(key.origin)

    @rule(key=keys, sequence=st.integers(0, 3))
    def an_old_claim_arrives(self, key: Key, sequence: int) -> None:
        truth = self.truth[key.origin]
        if self.known(key.origin):
            old = Version(truth.version.epoch - 1, 1000 + sequence)
            assert not self.log.put([Record(key, old, b"old epoch")])
            assert not self.log.reset_origin(key.origin, old, [])

    # --- the source ---

    @rule()
    def source_restarts(self) -> None:
        self.log = self.new_log()
        for consumer in self.consumers:
            self.part(consumer)

    @rule()
    def back_up(self) -> None:
        self.backup = [
            (name, origin.version, list(self.log.records(origin=name)))
            for name, origin in self.log.origins().items()
            if origin.state is not OriginState.GONE
        ]

    @rule()
    def source_comes_back_with_an_old_backup(self) -> None:
        self.source_restarts()
        for name, version, records in self.backup:
            if self.truth[name].present:
                self.log.reset_origin(name, version, records)
                self.log.set_origin(Origin(name, version, OriginState.STALE))  # until it is heard

    # --- the consumers ---

    @rule(number=consumers)
    def connect(self, number: int) -> None:
        consumer = self.consumers[number]
        self.part(consumer)
        consumer.source = Source(self.log, visible=filter_of(consumer.hide), frame_bytes=self.frame)
        self.demand(consumer, consumer.sink.open())

    def demand(self, consumer: Consumer, demand: pb.Demand) -> None:
        assert consumer.source is not None
        consumer.source.receive(pb.Demand.FromString(demand.SerializeToString()).subscribe)

    def part(self, consumer: Consumer) -> None:
        consumer.late = (consumer.late + consumer.flying)[-20:]
        consumer.flying = []
        consumer.source = None

    @rule(number=consumers)
    def send(self, number: int) -> None:
        consumer = self.consumers[number]
        if consumer.source is not None and (frame := consumer.source.next_update()) is not None:
            consumer.flying.append((consumer.sink.stream, frame))

    @rule(number=consumers)
    def heartbeat(self, number: int) -> None:
        consumer = self.consumers[number]
        if consumer.source is not None and (frame := consumer.source.progress()) is not None:
            consumer.flying.append((consumer.sink.stream, frame))

    @rule(number=consumers, times=st.integers(1, 5))
    def deliver(self, number: int, times: int) -> None:
        consumer = self.consumers[number]
        for _ in range(min(times, len(consumer.flying))):
            self.arrive(consumer, *consumer.flying.pop(0))

    @rule(number=consumers, index=st.integers(0, 5), twice=st.booleans())
    def deliver_out_of_order(self, number: int, index: int, twice: bool) -> None:
        consumer = self.consumers[number]
        if index < len(consumer.flying):
            frame = consumer.flying[index] if twice else consumer.flying.pop(index)
            self.arrive(consumer, *frame)

    @rule(number=consumers)
    def lose_a_frame(self, number: int) -> None:
        if self.consumers[number].flying:
            self.consumers[number].flying.pop(0)

    @rule(number=consumers, index=st.integers(0, 19))
    def a_frame_of_an_old_stream_arrives(self, number: int, index: int) -> None:
        consumer = self.consumers[number]
        if index < len(consumer.late):
            stream, frame = consumer.late[index]
            replaced = stream != consumer.sink.stream  # else the source has ended, and the sink does not know yet
            before = consumer.sink.replica.dump()
            self.arrive(consumer, stream, frame)
            assert not replaced or consumer.sink.replica.dump() == before

    def arrive(self, consumer: Consumer, stream: int, frame: bytes) -> bool:
        try:
            consumer.sink.receive(frame, stream=stream)
        except (OutOfStep, Farewell):
            self.part(consumer)
            return False
        return True

    @rule(number=consumers)
    def save_the_view(self, number: int) -> None:
        self.consumers[number].saved = self.consumers[number].sink.replica.dump()

    @rule(number=consumers, old=st.booleans())
    def consumer_restarts(self, number: int, old: bool) -> None:
        consumer = self.consumers[number]
        self.part(consumer)
        consumer.late = []
        sink = consumer.sink
        data = consumer.saved if old and consumer.saved else sink.replica.dump()
        consumer.sink = Sink(Replica.load(data), kinds=sink.kinds, wildcard=sink.wildcard, names=sink.names)

    @rule(number=consumers, hide=hidden)
    def refilter(self, number: int, hide: set[tuple[str, str]]) -> None:
        consumer = self.consumers[number]
        consumer.hide = frozenset(hide)
        if consumer.source is not None:
            consumer.source.refilter(filter_of(consumer.hide))

    @rule(add=names, drop=names)
    def follow_names(self, add: set[str], drop: set[str]) -> None:
        consumer = self.consumers[1]
        consumer.sink.unsubscribe(drop)
        consumer.sink.subscribe(add)
        if consumer.source is not None:
            for demand in consumer.sink.demands():
                self.demand(consumer, demand)

    # --- what must hold ---

    @invariant()
    def what_was_deleted_stays_deleted(self) -> None:
        for consumer in getattr(self, "consumers", ()):
            replica = consumer.sink.replica
            for record in replica.records():
                assert record.payload != b"old epoch"
                gone = self.truth[record.key.origin].deleted.get(record.key)
                if gone is not None and record.version < gone:
                    assert replica.origins[record.key.origin].version < gone

    @invariant()
    def digests_are_kept_right(self) -> None:
        for consumer in getattr(self, "consumers", ()):
            assert Replica.load(consumer.sink.replica.dump()).total() == consumer.sink.replica.total()

    @rule()
    def heal(self) -> None:
        for name in ORIGINS:
            if self.truth[name].present:
                self.origin_connects(name)
            else:
                self.log.set_origin(Origin(name, self.truth[name].version, OriginState.GONE))
        for number, consumer in enumerate(self.consumers):
            self.settle(number)
            sink = consumer.sink
            expected = {
                record.key: record.payload
                for truth in self.truth.values()
                for record in truth.records.values()
                if consumer.visible(record)
                and record.key.kind in sink.kinds
                and (sink.wildcard or record.key.kind is not Kind.IMPORT or record.key.name in sink.names)
            }
            assert {record.key: record.payload for record in sink.replica.records()} == expected
            assert not sink.overruled
            assert all(origin.state is OriginState.LIVE for origin in sink.replica.origins.values())
            if not sink.wildcard:
                there = {key.name for key in expected if key.kind is Kind.IMPORT}
                assert sink.replica.absent == sink.names - there

    def settle(self, number: int) -> None:
        """Connect if need be and deliver everything in order, until a heartbeat finds both ends equal."""
        consumer = self.consumers[number]
        attempts = beats = 0
        while True:
            if consumer.source is None:
                attempts += 1
                assert attempts <= 4, "one resume, a snapshot, and another where an origin has begun anew"
                beats = 0
                self.connect(number)
            source = consumer.source
            assert source is not None
            consumer.flying += [(consumer.sink.stream, frame) for frame in source.next_updates()]
            progress = source.progress()
            assert progress is not None
            consumer.flying.append((consumer.sink.stream, progress))
            while consumer.flying:
                if not self.arrive(consumer, *consumer.flying.pop(0)):
                    break
            else:
                if consumer.sink.synced:
                    return
                beats += 1
                if beats > INSIST or not consumer.sink.overruled:
                    self.part(consumer)

    def teardown(self) -> None:
        if hasattr(self, "consumers"):
            self.heal()


TestReplication = Replication.TestCase
TestReplication.settings = settings(max_examples=150, stateful_step_count=40, suppress_health_check=list(HealthCheck))
