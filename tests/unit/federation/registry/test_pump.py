"""The pump writes one frame at a time, coalesces, keeps up the heartbeat, and cuts off who does not read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from federation.catalog.replica import Log, Sink, Source
from federation.errors import InvalidInput
from federation.model.record import Key, Kind, Record, Version
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry.pump import Pump, SlowConsumer, Ticker


class Stream:
    """What is written; `gate` holds a write back while it is cleared."""

    def __init__(self, log: Log, **more: Any) -> None:
        self.frames: list[pb.Update] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.busy = 0
        source = Source(log)
        source.receive(Sink().open().subscribe)
        self.pump = Pump(source, write=self.write, **{"heartbeat": 60.0, "write_timeout": 60.0, **more})
        self.task = asyncio.create_task(self.pump.run(), name="pump")

    async def write(self, frame: bytes) -> None:
        assert self.busy == 0
        self.busy += 1
        await self.gate.wait()
        self.busy -= 1
        self.frames.append(pb.Update.FromString(frame))

    def kinds(self) -> list[str | None]:
        return [f.WhichOneof("body") for f in self.frames]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


def change(log: Log, sequence: int) -> None:
    log.put([Record(Key("a", Kind.SERVICE, "n/s"), Version(1, sequence), str(sequence).encode())])


@pytest.fixture
def log() -> Log:
    log = Log(history="h")
    log.reset_origin("a", Version(1, 1), [])
    change(log, 2)
    return log


async def test_what_changes_while_a_frame_is_in_flight_coalesces(log):
    stream = Stream(log)
    await stream.until(lambda: stream.kinds() == ["hello", "batch"])
    stream.gate.clear()
    for sequence in range(3, 20):
        change(log, sequence)
        stream.pump.wake()
        await asyncio.sleep(0)
    stream.gate.set()
    await stream.until(lambda: stream.frames[-1].batch.revision == log.revision)
    assert len(stream.frames) == 4
    assert stream.frames[-1].batch.records[0].payload == b"19"
    stream.task.cancel()


async def test_goodbye_comes_after_the_frame_in_flight_and_only_once(log):
    stream = Stream(log)
    stream.pump.close("going_away", "stops", retry_after_ms=70)
    stream.pump.close("other")
    await asyncio.wait_for(stream.task, 10)
    assert stream.pump.reason == "going_away"
    assert stream.kinds() == ["goodbye"]
    assert stream.frames[0].goodbye.retry_after_ms == 70


async def test_a_failure_of_the_reading_half_ends_it(log):
    stream = Stream(log)
    stream.pump.fail(InvalidInput("no Demand"))
    with pytest.raises(InvalidInput):
        await stream.task


async def test_a_heartbeat_where_nothing_is_to_be_said(log):
    beats: list[int] = []
    stream = Stream(log, heartbeat=0.01, beat=lambda: beats.append(1))
    ticker = Ticker(0.005)
    ticker.add(stream.pump)
    await stream.until(lambda: stream.kinds()[2:4] == ["progress", "progress"])
    assert beats
    assert stream.frames[2].progress.count == 1
    stream.task.cancel()
    ticker.discard(stream.pump)
    assert not ticker.pumps


async def test_who_does_not_read_is_cut_off(log):
    stream = Stream(log, write_timeout=0.02)
    ticker = Ticker(0.005)
    ticker.add(stream.pump)
    stream.gate.clear()
    with pytest.raises(SlowConsumer, match="was not taken"):
        await asyncio.wait_for(stream.task, 10)
    ticker.discard(stream.pump)


async def test_a_cancellation_is_no_slow_consumer(log):
    stream = Stream(log)
    stream.gate.clear()
    await asyncio.sleep(0)
    stream.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.task
