"""Publish over real grpc.aio streams: what an origin's log holds is what the server's log gets, and no more."""

from __future__ import annotations

import pytest

from federation.catalog.replica import Log, Sink
from federation.errors import QuotaExceeded
from federation.model.record import Kind, Version
from federation.registry.client import PublishClient
from federation.registry.publish import Intake, Rejection, relay

pytestmark = pytest.mark.integration


class Registry:
    """The owner of the intakes: one sink per origin, one log for all."""

    def __init__(self, catalog) -> None:
        self.log = Log(history="registry")
        self.sink = Sink(origin="east")
        self.closed: list[str] = []
        self.alive = 0
        self.limit = 1000
        self.snapshots = 0
        catalog.accept = self.accept

    async def accept(self, _) -> Intake:
        return Intake(sink=self.sink, on_changes=self.changes, on_alive=self.heard, on_close=self.closed.append)

    def heard(self) -> None:
        self.alive += 1

    def changes(self, changes):
        if len(self.sink.replica) > self.limit:
            raise QuotaExceeded(f"at most {self.limit} records")
        self.snapshots += bool(changes.complete)
        bad = [r for r in self.sink.replica.records() if r.payload == b"bad"]
        rejections = [Rejection(r.key.kind, r.key.name, "bad_address", "use another") for r in bad]
        relay(changes, self.sink, self.log, rejected=rejections)
        return rejections

    @property
    def view(self) -> dict[str, bytes | None]:
        return {r.key.name: r.payload for r in self.log.records()}


@pytest.fixture
def registry(catalog) -> Registry:
    return Registry(catalog)


@pytest.fixture
def publish(catalog, started, quick):
    def publish(log: Log, **more) -> PublishClient:
        client = PublishClient(connect=catalog.connect, log_=log, backoff=quick(), **more)
        started(client.run())
        return client

    return publish


async def test_what_is_published_arrives_and_is_acknowledged(catalog, registry, publish, until, record):
    await catalog.start()
    own = Log(history="east-1")
    own.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1)), record("east", "n/b", (1, 1))])
    client = publish(own)
    await until(lambda: registry.view == {"n/a": b"x", "n/b": b"x"})
    own.put([record("east", "n/a", (1, 2), b"y"), record("east", "n/b", (1, 3), None)])
    await until(lambda: registry.view == {"n/a": b"y"} and client.acknowledged == own.revision)
    assert registry.snapshots == 1


async def test_an_origin_without_news_is_heard(catalog, registry, publish, until, record):
    await catalog.start()
    own = Log(history="east-1")
    own.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1))])
    client = publish(own, heartbeat=0.2)
    await until(lambda: client.acknowledged == own.revision)
    heard = registry.alive
    await until(lambda: registry.alive > heard)


async def test_a_new_stream_resumes_and_a_restarted_origin_starts_again(catalog, registry, publish, until, record):
    await catalog.start()
    own = Log(history="east-1")
    own.reset_origin("east", Version(1, 2), [record("east", "n/a", (1, 1)), record("east", "n/b", (1, 2))])
    client = publish(own)
    await until(lambda: client.acknowledged == own.revision)
    client.reconnect()
    await until(lambda: client.connections == 2 and client.connected)
    own.put([record("east", "n/c", (1, 3))])
    await until(lambda: "n/c" in registry.view)
    assert registry.snapshots == 1
    revision = registry.log.revision
    own.history = "gone"  # nobody resumes from it
    again = Log(history="east-2")
    again.reset_origin("east", Version(2, 1), [record("east", "n/a", (2, 1)), record("east", "n/c", (2, 1))])
    publish(again)
    await until(lambda: set(registry.view) == {"n/a", "n/c"})
    assert registry.log.revision == revision + 1, "only the deletion was news"


async def test_the_newer_stream_of_an_origin_takes_over(catalog, registry, publish, until, record):
    await catalog.start()
    own = Log(history="east-1")
    own.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1))])
    first = publish(own, heartbeat=0.2)  # at each the server sees whose turn it is
    await until(lambda: first.acknowledged)
    second = publish(own, heartbeat=0.2)
    await until(lambda: second.acknowledged)
    await until(lambda: "superseded" in registry.closed)


async def test_what_is_rejected_is_named_and_left_out(catalog, registry, publish, until, record):
    await catalog.start()
    own = Log(history="east-1")
    own.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1)), record("east", "n/b", (1, 1), b"bad")])
    told: list[Rejection] = []
    publish(own, on_rejections=told.extend)
    await until(lambda: told and registry.view == {"n/a": b"x"})
    assert told[0] == Rejection(Kind.SERVICE, "n/b", "bad_address", "use another")
    own.put([record("east", "n/a", (1, 2), b"bad")])
    await until(lambda: registry.view == {})
    own.put([record("east", "n/a", (1, 3), b"good"), record("east", "n/b", (1, 4), b"good")])
    await until(lambda: registry.view == {"n/a": b"good", "n/b": b"good"})


async def test_a_foreign_origin_closes_the_stream(catalog, registry, publish, until, record):
    await catalog.start()
    registry.log.reset_origin("west", Version(1, 1), [record("west", "n/a", (1, 1), b"mine")])
    own = Log(history="evil")
    own.reset_origin("west", Version(9, 9), [record("west", "n/a", (9, 9), b"stolen")])
    client = publish(own)
    await until(
        lambda: getattr(client.last_error, "error_code", "") == "foreign_origin" and "foreign_origin" in registry.closed
    )
    assert registry.view == {"n/a": b"mine"}


async def test_too_much_closes_the_stream_and_a_smaller_report_is_taken(catalog, registry, publish, until, record):
    await catalog.start()
    registry.limit = 1
    own = Log(history="east-1")
    own.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1)), record("east", "n/b", (1, 1))])
    client = publish(own)
    await until(lambda: getattr(client.last_error, "error_code", "") == "quota_exceeded")
    assert registry.view == {}
    own.put([record("east", "n/b", (1, 2), None)])
    await until(lambda: registry.view == {"n/a": b"x"})
    assert registry.snapshots >= 1


async def test_a_server_that_lost_everything_gets_everything(catalog, registry, publish, until, record):
    await catalog.start()
    own = Log(history="east-1")
    own.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1))])
    client = publish(own)
    await until(lambda: client.acknowledged)
    await catalog.stop()
    own.put([record("east", "n/b", (1, 2))])
    registry = Registry(catalog)
    await catalog.start()
    await until(lambda: set(registry.view) == {"n/a", "n/b"} and client.acknowledged == own.revision)
