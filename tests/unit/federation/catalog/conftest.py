"""Short names for records, and both ends of the protocol tied together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from federation.catalog.replica import Changes, Log, Sink, Source, Visible, everything
from federation.model.record import Key, Kind, Record, Version


def make_record(
    origin: str, name: str, version: tuple[int, int], payload: bytes | None = b"x", kind: Kind = Kind.SERVICE
) -> Record:
    return Record(Key(origin, kind, name), Version(*version), payload)


class Wire:
    """A source and a sink with a perfect wire between them."""

    def __init__(
        self,
        log: Log,
        sink: Sink,
        *,
        visible: Visible = everything,
        deniable: Callable[[str], bool] = lambda _: True,
        frame_bytes: int = 1 << 18,
    ) -> None:
        self.log, self.sink = log, sink
        self.source = Source(log, visible=visible, deniable=deniable, frame_bytes=frame_bytes)
        self.source.receive(sink.open().subscribe)

    def pump(self) -> list[Changes]:
        """Move everything, the digest included; returns what changed."""
        for demand in self.sink.demands():
            self.source.receive(demand.subscribe)
        out = [self.sink.receive(frame) for frame in self.source.next_updates()]
        progress = self.source.progress()
        assert progress is not None
        out.append(self.sink.receive(progress))
        return [changes for changes in out if changes]

    @property
    def view(self) -> dict[str, bytes | None]:
        return {f"{r.key.origin}/{r.key.name}": r.payload for r in self.sink.replica.records()}


@pytest.fixture
def record() -> Callable[..., Record]:
    return make_record


@pytest.fixture
def wire() -> type[Wire]:
    return Wire
