"""Watch over real grpc.aio streams: it follows, resumes, survives restarts, and gets rid of who does not read."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from clusters.waiting import DEADLINE, START
from federation.aio.latest import Latest
from federation.catalog.replica import Changes, Log, Sink
from federation.errors import Denied
from federation.model.record import Kind, OriginState, Version
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry.client import WATCH, WatchClient
from federation.registry.watch import Offer

pytestmark = pytest.mark.integration


@pytest.fixture
def watch(catalog, started, quick):
    def watch(sink: Sink | None = None, **more) -> tuple[WatchClient, list[Changes]]:
        seen: list[Changes] = []
        client = WatchClient(
            connect=catalog.connect,
            sink=sink or Sink(),
            on_changes=seen.append,
            backoff=quick(),
            ack_delay=(0.0, 0.0),
            **more,
        )
        client.task = started(client.run())
        return client, seen

    return watch


def view(client: WatchClient) -> dict[str, bytes | None]:
    return {r.key.name: r.payload for r in client.sink.replica.records()}


async def test_it_follows_and_acknowledges(catalog, watch, until, record):
    acks: list[int] = []
    presences: list[pb.Presence] = []
    catalog.make_offer = lambda: Offer(
        log=catalog.log, on_ack=lambda ack: acks.append(ack.revision), on_presence=presences.append
    )
    catalog.log.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1))])
    await catalog.start()
    client, _ = watch(presence=lambda: pb.Presence(name="gw"))
    await until(lambda: view(client) == {"n/a": b"x"})
    catalog.log.put([record("east", "n/a", (1, 2), b"y")])
    await until(lambda: view(client) == {"n/a": b"y"} and acks and acks[-1] == catalog.log.revision)
    client.announce()
    await until(lambda: len(presences) >= 2)
    assert client.connected
    assert client.last_error is None


async def test_acks_wait_for_the_owner_once_it_said_what_is_applied(catalog, watch, until, record):
    acks: list[int] = []
    catalog.make_offer = lambda: Offer(log=catalog.log, on_ack=lambda ack: acks.append(ack.revision))
    catalog.heartbeat = 0.2  # each is acknowledged
    await catalog.start()
    client, _ = watch()
    await until(lambda: client.connected)
    client.applied(0)
    catalog.log.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1))])
    await until(lambda: view(client))
    acks.clear()
    await until(lambda: len(acks) >= 2)
    assert set(acks) == {0}
    client.applied(client.sink.replica.revision)
    await until(lambda: acks[-1] == catalog.log.revision)


async def test_a_restarted_server_with_another_history(catalog, watch, until, record):
    catalog.log.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1))])
    await catalog.start()
    client, _ = watch()
    await until(lambda: view(client))
    await catalog.stop()
    await until(lambda: not client.connected)
    assert view(client) == {"n/a": b"x"}
    catalog.log = Log(history="h2")
    catalog.log.reset_origin("west", Version(1, 1), [record("west", "n/b", (1, 1))])
    await catalog.start()
    await until(lambda: "n/b" in view(client))
    assert view(client)["n/a"] == b"x"
    assert client.sink.replica.origins["east"].state is OriginState.UNKNOWN
    catalog.log.reset_origin("east", Version(2, 1), [record("east", "n/c", (2, 1))])
    await until(lambda: view(client) == {"n/b": b"x", "n/c": b"x"})


async def test_it_resumes_after_a_broken_connection(catalog, watch, until, record):
    catalog.log.reset_origin("east", Version(1, 1), [record("east", f"n/{i}", (1, 1)) for i in range(50)])
    await catalog.start()
    client, seen = watch()
    await until(lambda: len(view(client)) == 50)
    await catalog.stop()
    catalog.log.put([record("east", "n/0", (1, 2), b"y")])
    seen.clear()
    await catalog.start()
    await until(lambda: view(client)["n/0"] == b"y")
    assert [r.key.name for changes in seen for r in changes.put] == ["n/0"]
    assert not any(changes.complete for changes in seen)


async def test_a_planned_stop_says_goodbye_and_the_client_comes_back(catalog, watch, until):
    await catalog.start()
    client, _ = watch()
    await until(lambda: client.connected)
    catalog.servicer.stop()
    await until(lambda: getattr(client.last_error, "error_code", "") == "going_away")
    await until(lambda: catalog.servicer.streams == 0)
    await catalog.stop()
    await catalog.start()
    await until(lambda: client.connected)


async def test_a_consumer_that_leaves_on_purpose_is_told_from_one_that_broke(catalog, watch, until):
    reasons: list[str] = []
    catalog.make_offer = lambda: Offer(log=catalog.log, on_close=reasons.append)
    await catalog.start()
    leaving, _ = watch()
    breaking, _ = watch()
    await until(lambda: leaving.connected and breaking.connected)
    breaking.task.cancel()
    await until(lambda: len(reasons) == 1)
    await leaving.goodbye(patience=10)
    await leaving.task
    await until(lambda: len(reasons) == 2)
    assert reasons[0] != "goodbye"
    assert reasons[1] == "goodbye"
    await breaking.goodbye()  # nobody to say it to: no wait


async def test_names_are_followed(catalog, watch, until, record):
    asked: list[frozenset[str]] = []
    catalog.make_offer = lambda: Offer(log=catalog.log, on_names=lambda added, dropped: asked.extend([added, dropped]))
    await catalog.start()
    client, seen = watch(Sink(wildcard=False))
    await until(lambda: client.connected)
    client.subscribe(["n/a"])
    await until(lambda: any(changes.absent == ("n/a",) for changes in seen))
    catalog.log.reset_origin(
        "east", Version(1, 1), [record("east", n, (1, 1), b"i", Kind.IMPORT) for n in ("n/a", "n/b")]
    )
    await until(lambda: view(client) == {"n/a": b"i"})
    client.unsubscribe(["n/a"])
    assert view(client) == {}
    await until(lambda: asked == [{"n/a"}, set(), set(), {"n/a"}])


async def test_the_filter_changes_while_the_stream_runs(catalog, watch, until, record):
    refilter = Latest(lambda r: r.key.name == "n/a")
    catalog.make_offer = lambda: Offer(log=catalog.log, refilter=refilter)
    catalog.log.reset_origin("east", Version(1, 1), [record("east", n, (1, 1)) for n in ("n/a", "n/b")])
    await catalog.start()
    client, _ = watch()
    await until(lambda: set(view(client)) == {"n/a"})
    refilter.set(lambda r: r.key.name == "n/b")
    await until(lambda: set(view(client)) == {"n/b"})
    assert client.connections == 1


async def test_new_credentials_make_a_new_channel_before_the_old_one_goes(catalog, watch, until, record):
    catalog.log.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1))])
    await catalog.start()
    client, seen = watch()
    await until(lambda: view(client))
    seen.clear()
    client.reconnect()
    await until(lambda: client.connections == 2 and any(changes.synced for changes in seen))
    assert catalog.dialled == 2
    assert client.connected
    assert not any(changes.put or changes.deleted for changes in seen)
    catalog.log.put([record("east", "n/a", (1, 2), b"y")])
    await until(lambda: view(client) == {"n/a": b"y"})


async def test_new_credentials_that_do_not_work_leave_the_old_channel_in_place(catalog, watch, until, record):
    await catalog.start()
    client, _ = watch(patience=1.0)
    await until(lambda: client.connected)
    right, catalog.port = catalog.port, 1
    client.reconnect()
    await until(lambda: catalog.dialled >= 2)
    catalog.log.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1))])
    await until(lambda: view(client) == {"n/a": b"x"})
    assert client.connections == 1
    catalog.port = right
    await until(lambda: client.connections == 2)


async def test_who_is_refused_learns_why(catalog, watch, until):
    def refuse() -> Offer:
        raise Denied("who are you?", code="not_authorised")

    catalog.make_offer = refuse
    await catalog.start()
    client, _ = watch()
    await until(lambda: getattr(client.last_error, "error_code", "") == "not_authorised")
    assert client.last_error.message == "who are you?"
    catalog.make_offer = lambda: Offer(log=catalog.log)
    await until(lambda: client.connected)


async def test_a_consumer_that_does_not_read_is_closed(catalog, watch, until, record):
    catalog.write_timeout = 0.4
    reasons: list[str] = []
    catalog.make_offer = lambda: Offer(log=catalog.log, on_close=reasons.append)
    await catalog.start()
    channel = await catalog.connect()
    call = channel.stream_stream(WATCH)()
    await call.write(pb.Demand(subscribe=pb.Subscribe(wildcard=True)).SerializeToString())
    await until(lambda: catalog.servicer.streams == 1)
    catalog.patience_from_now(60.0)
    client, _ = watch()
    sequence = 0
    async with asyncio.timeout(START):
        while not reasons:
            sequence += 1
            catalog.log.put([record("east", f"n/{sequence % 8}", (1, sequence), bytes(200_000))])
            await asyncio.sleep(0.01)
    assert reasons == ["slow_consumer"]
    assert catalog.servicer.slow_consumers == 1
    await until(lambda: client.sink.replica.revision == catalog.log.revision)
    assert client.connections == 1
    call.cancel()
    await channel.close()


async def test_garbage_ends_the_stream_with_a_clear_code(catalog, until):
    await catalog.start()
    channel = await catalog.connect()
    call = channel.stream_stream(WATCH)()
    await call.write(b"\xff\xff\xff")
    async with asyncio.timeout(DEADLINE):
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(await call.trailing_metadata())["isthmus-code"] == "malformed_demand"
    await channel.close()
    await until(lambda: catalog.servicer.streams == 0)


async def test_a_half_open_stream_is_noticed(started, until, quick):
    """A server that greets and then falls silent, as one does behind a dead NAT entry."""
    streams = 0

    async def silent(_, context) -> None:
        nonlocal streams
        streams += 1
        await context.write(pb.Update(hello=pb.Hello(history="h", heartbeat_ms=50)).SerializeToString())
        await asyncio.sleep(30)

    server = grpc.aio.server()
    methods = {"Watch": grpc.stream_stream_rpc_method_handler(silent)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("federation.v1.Catalog", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def connect():
        return grpc.aio.insecure_channel(f"127.0.0.1:{port}")

    client = WatchClient(connect=connect, sink=Sink(), on_changes=lambda _: None, backoff=quick())
    task = started(client.run())
    await until(lambda: streams >= 3)
    assert client.last_error is None or client.last_error.error_code == "silent"
    task.cancel()
    await asyncio.wait([task])
    await server.stop(0)


async def test_a_failing_callback_is_not_swallowed(catalog, started, quick, record):
    def broken(_: Changes) -> None:
        raise RuntimeError("a bug")

    catalog.log.reset_origin("east", Version(1, 1), [record("east", "n/a", (1, 1))])
    await catalog.start()
    client = WatchClient(connect=catalog.connect, sink=Sink(), on_changes=broken, backoff=quick())
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(client.run(), DEADLINE)
