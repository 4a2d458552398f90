"""The ADS server and the real Envoy."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from clusters.network import free_port
from federation.aio.clock import FakeClock
from federation.xds.server import AdsServer
from federation.xds.snapshot import InconsistentSnapshot, Snapshot, TypeUrl

pytestmark = pytest.mark.integration


async def test_a_snapshot_makes_envoy_ready(pair: Any, make: Any, echo: int, say: Any, until: Any) -> None:
    port = free_port()
    generation = pair.ads.publish(
        Snapshot.of(
            {
                TypeUrl.CLUSTER: [make.cluster("a"), make.cluster("vip/unused")],
                TypeUrl.ENDPOINT: [make.endpoint("a", echo), make.endpoint("vip/unused", echo)],
                TypeUrl.LISTENER: [make.listener("l", port, "a")],
            }
        )
    )
    await pair.acked(generation)
    await until(pair.envoy.ready)
    assert await say(port) == b"hello"
    assert b"vip/unused" not in await pair.envoy.admin.get("/clusters")  # nobody named it
    timing = pair.ads.timing(generation)
    assert timing is not None
    assert timing.seconds > 0


async def test_one_bad_resource_leaves_the_rest_alone(pair: Any, make: Any, echo: int, say: Any) -> None:
    port = free_port()
    good = Snapshot.of(
        {
            TypeUrl.CLUSTER: [make.cluster("a"), make.cluster("b")],
            TypeUrl.ENDPOINT: [make.endpoint("a", echo), make.endpoint("b", echo)],
            TypeUrl.LISTENER: [make.listener("l", port, "b")],
        }
    )
    await pair.acked(pair.ads.publish(good))
    worse = good.with_(
        TypeUrl.CLUSTER, put=[make.cluster("b", broken=True), make.cluster("c"), make.cluster("d", broken=True)]
    ).with_(TypeUrl.ENDPOINT, put=[make.endpoint("c", echo), make.endpoint("d", echo)])
    await pair.acked(pair.ads.publish(worse))

    assert set(pair.ads.nacks) == {(TypeUrl.CLUSTER, "b"), (TypeUrl.CLUSTER, "d")}
    assert "connect_timeout" in pair.ads.nacks[TypeUrl.CLUSTER, "b"].detail.lower().replace(
        "connecttimeout", "connect_timeout"
    )
    shown = await pair.envoy.admin.get("/clusters")
    assert b"c::added_via_api" in shown
    assert b"d::added_via_api" not in shown
    assert await say(port) == b"hello"  # the last good b

    await pair.acked(pair.ads.publish(worse.with_(TypeUrl.CLUSTER, put=[make.cluster("b"), make.cluster("d")])))
    assert not pair.ads.nacks
    assert b"d::added_via_api" in await pair.envoy.admin.get("/clusters")


async def test_a_listener_whose_port_is_taken_is_named_and_tried_again(
    pair: Any, make: Any, echo: int, say: Any, until: Any
) -> None:
    taken = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    free = free_port()
    generation = pair.ads.publish(
        Snapshot.of(
            {
                TypeUrl.CLUSTER: [make.cluster("a")],
                TypeUrl.ENDPOINT: [make.endpoint("a", echo)],
                TypeUrl.LISTENER: [make.listener("clash", port, "a"), make.listener("fine", free, "a")],
            }
        )
    )
    await pair.acked(generation)
    assert set(pair.ads.nacks) == {(TypeUrl.LISTENER, "clash")}
    assert "Address already in use" in pair.ads.nacks[TypeUrl.LISTENER, "clash"].detail
    assert await say(free) == b"hello"
    taken.close()
    await taken.wait_closed()
    pair.ads.retry(TypeUrl.LISTENER, "clash")

    async def good() -> bool:
        return not pair.ads.nacks and bool(await say(port) == b"hello")

    await until(good)


async def test_an_inconsistent_snapshot_is_refused_whole(pair: Any, make: Any, echo: int) -> None:
    good = Snapshot.of({TypeUrl.CLUSTER: [make.cluster("a")], TypeUrl.ENDPOINT: [make.endpoint("a", echo)]})
    generation = pair.ads.publish(good)
    with pytest.raises(InconsistentSnapshot, match="cluster 'missing', which is missing"):
        pair.ads.publish(good.with_(TypeUrl.LISTENER, put=[make.listener("l", free_port(), "missing")]))
    assert pair.ads.generation == generation
    assert pair.ads.snapshot is good


async def test_a_first_connection_brings_its_cluster(pair: Any, make: Any, echo: int, say: Any, until: Any) -> None:
    port = free_port()
    name = f"vip/127.0.0.1:{port}"
    base = Snapshot.of({TypeUrl.LISTENER: [make.on_demand_listener("outbound", port)]})
    await pair.acked(pair.ads.publish(base))
    await until(pair.envoy.ready)
    first = asyncio.create_task(say(port))

    async def asked() -> bool:
        return name in pair.demanded

    await until(asked)
    pair.ads.publish(
        base.with_(TypeUrl.CLUSTER, put=[make.cluster(name)]).with_(TypeUrl.ENDPOINT, put=[make.endpoint(name, echo)])
    )
    assert await first == b"hello"
    assert pair.ads.subscribed(TypeUrl.CLUSTER) == {name}
    assert await say(port) == b"hello"
    assert pair.demanded == [name]


async def test_a_refused_name_is_pushed_when_it_comes_to_exist(
    pair: Any, make: Any, echo: int, say: Any, until: Any
) -> None:
    port = free_port()
    name = f"vip/127.0.0.1:{port}"
    base = Snapshot.of({TypeUrl.LISTENER: [make.on_demand_listener("outbound", port)]})
    await pair.acked(pair.ads.publish(base))
    await until(pair.envoy.ready)
    first = asyncio.create_task(say(port))

    async def asked() -> bool:
        return name in pair.demanded

    await until(asked)
    pair.ads.refuse(TypeUrl.CLUSTER, [name])
    assert await first == b""  # closed at once, not after Envoy's time-out
    grown = base.with_(TypeUrl.CLUSTER, put=[make.cluster(name)]).with_(
        TypeUrl.ENDPOINT, put=[make.endpoint(name, echo)]
    )
    await pair.acked(pair.ads.publish(grown))
    assert await say(port) == b"hello"
    assert pair.demanded == [name]  # Envoy did not have to ask again


async def test_envoy_reconnects_to_a_restarted_server_without_a_dip(
    pair: Any, make: Any, echo: int, say: Any, until: Any
) -> None:
    port, old_port = free_port(), free_port()
    snapshot = Snapshot.of(
        {
            TypeUrl.CLUSTER: [make.cluster("a"), make.cluster("old")],
            TypeUrl.ENDPOINT: [make.endpoint("a", echo), make.endpoint("old", echo)],
            TypeUrl.LISTENER: [make.listener("l", port, "a"), make.listener("old", old_port, "old")],
        }
    )
    await pair.acked(pair.ads.publish(snapshot))
    await until(pair.envoy.ready)
    await pair.ads.close()
    assert await say(port) == b"hello"

    again = AdsServer(pair.ads.path)
    await again.start()
    try:
        answers: list[bytes] = []

        async def connected() -> bool:
            answers.append(await say(port))
            return again.connected

        await until(connected)  # not yet published: nothing is taken away
        generation = again.publish(
            snapshot.with_(TypeUrl.CLUSTER, remove=["old"])
            .with_(TypeUrl.ENDPOINT, remove=["old"])
            .with_(TypeUrl.LISTENER, remove=["old"])
        )

        async def synced() -> bool:
            answers.append(await say(port))
            return again.acked.value >= generation

        await until(synced)
        assert set(answers) == {b"hello"}
        shown = await pair.envoy.admin.get("/clusters")
        assert b"old::added_via_api" not in shown
        assert b"a::added_via_api" in shown
        assert again.synced
    finally:
        await again.close()


async def test_a_changed_cluster_gets_its_endpoints_again(pair: Any, make: Any, echo: int, say: Any) -> None:
    port = free_port()
    snapshot = Snapshot.of(
        {
            TypeUrl.CLUSTER: [make.cluster("a")],
            TypeUrl.ENDPOINT: [make.endpoint("a", echo)],
            TypeUrl.LISTENER: [make.listener("l", port, "a")],
        }
    )
    await pair.acked(pair.ads.publish(snapshot))
    for timeout in (2.0, 3.0, 4.0):
        snapshot = snapshot.with_(TypeUrl.CLUSTER, put=[make.cluster("a", connect_timeout=timeout)])
        await pair.acked(pair.ads.publish(snapshot))
        assert (await pair.envoy.admin.stats("^cluster_manager.warming_clusters$")).popitem()[1] == 0
        assert await say(port) == b"hello"


async def test_a_killed_envoy_gets_everything_again(pair: Any, make: Any, echo: int, say: Any, until: Any) -> None:
    port = free_port()
    snapshot = Snapshot.of(
        {
            TypeUrl.CLUSTER: [make.cluster("a")],
            TypeUrl.ENDPOINT: [make.endpoint("a", echo)],
            TypeUrl.LISTENER: [make.listener("l", port, "a")],
        }
    )
    await pair.acked(pair.ads.publish(snapshot))
    first = pair.envoy.pid

    os.kill(first, signal.SIGKILL)

    async def back() -> bool:
        return pair.envoy.pid not in (None, first) and pair.ads.synced and bool(await say(port) == b"hello")

    await until(back)
    assert pair.envoy.starts.value == 2


async def test_a_server_that_has_nothing_to_do_does_not_wake_up(tmp_path: Path) -> None:
    """Each sidecar has one: ten of them on a node would be forty timers a second."""

    class Watched(FakeClock):
        slept = 0

        async def sleep(self, seconds: float) -> None:
            self.slept += 1
            await super().sleep(seconds)

    clock = Watched()
    server = AdsServer(tmp_path / "ads.sock", clock=clock)
    await server.start()
    try:
        for _ in range(20):
            clock.advance(1.0)
            await asyncio.sleep(0)
        assert clock.slept == 0
    finally:
        await server.close()
