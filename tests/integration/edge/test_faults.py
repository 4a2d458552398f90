"""What goes wrong around the edge processes, and that callers do not notice: agent, Envoy, keys, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from dataclasses import replace
from typing import Any

import pytest

from clusters.network import free_port
from clusters.waiting import ANSWER, until
from federation.model.cluster import Gateway

pytestmark = pytest.mark.integration


async def eventually_answers(world: Any, address: str, body: str) -> None:
    async def answers() -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(await world.get(address) == (200, body))
        return False

    await until(answers, what=f"{body} at {address}")


def children(pid: int) -> list[int]:
    """Pids of the Envoys below one of our processes."""
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(p) for p in f.read().split()]


def envoy_of(process: Any) -> int:
    return next(p for p in children(process.child.pid) if "envoy" in os.readlink(f"/proc/{p}/exe"))


async def federation(
    world: Any, shop: Any, *, ttl: float = 3600.0, held: Any = None, far: dict[str, Any] | None = None, **options: Any
) -> tuple[Any, Any, Any, Any]:
    """(east agent, gateway, west agent, sidecar): shop/echo is exported by east and imported by west.

    `held`: by the workload of east; `far`: settings of the gateway.
    """
    east, west = await world.agent("east", ttl=ttl), await world.agent("west", ttl=ttl)
    http = await world.http_echo("east-1", held=held)
    gateway = world.gateway(east, **far or {})
    shop.link(east, west, gateways={"east": (Gateway(name="gw", address="127.0.0.1", port=gateway.east_west),)})
    east.put_export(shop.exported(shop.echo, shop.http, http, "west"))
    west.put_import(shop.imported(shop.echo, shop.http, shop.backend("east", shop.http)))
    sidecar = world.sidecar(west, **options)
    await gateway.ready()
    await sidecar.ready()
    return east, gateway, west, sidecar


async def test_without_the_agent_everything_known_goes_on_also_after_a_restart(world: Any, shop: Any) -> None:
    east, gateway, west, sidecar = await federation(world, shop)
    address = await sidecar.address("echo.shop.global")
    assert await world.get(address) == (200, "east-1")
    await shop.until(lambda: (sidecar.state / "view").exists() and (sidecar.state / "addresses").exists())
    await shop.until(lambda: (gateway.state / "view").exists())
    await east.stop()
    await west.stop()
    assert await world.get(address) == (200, "east-1")
    assert await sidecar.address("echo.shop.global") == address
    for process in (gateway, sidecar):
        assert await process.stop() == 0
        process.start()
    for process in (gateway, sidecar):
        await process.ready()
    assert await sidecar.address("echo.shop.global") == address
    await eventually_answers(world, address, "east-1")


async def test_an_agent_that_comes_back_elsewhere_is_found(world: Any, shop: Any) -> None:
    _, _, west, sidecar = await federation(world, shop)
    address = await sidecar.address("echo.shop.global")
    await west.stop()
    west.port = free_port()
    await west.start()
    west.put_import(shop.imported(shop.db, shop.opaque, shop.backend("east", shop.opaque)))
    await shop.until(lambda: west.acks.get("sc") == west.log.revision)
    assert (await sidecar.address("db.shop.global")).startswith("127.")
    assert await world.get(address) == (200, "east-1")


async def test_a_killed_envoy_comes_back_with_all_that_it_served(world: Any, shop: Any) -> None:
    _, gateway, _, sidecar = await federation(world, shop)
    address = await sidecar.address("echo.shop.global")
    assert await world.get(address) == (200, "east-1")
    for process in (sidecar, gateway):
        old = envoy_of(process)
        os.kill(old, signal.SIGKILL)
        await eventually_answers(world, address, "east-1")
        assert envoy_of(process) != old
    assert sidecar.metric("isthmus_envoy_starts") == 2


async def test_renewals_under_load_fail_no_request(world: Any, shop: Any) -> None:
    _, gateway, _, sidecar = await federation(world, shop, ttl=12.0)
    first = time.monotonic() + 12.0  # when those leaves have expired for certain
    address = await sidecar.address("echo.shop.global")
    assert await world.get(address) == (200, "east-1")
    results: list[tuple[int, str]] = []
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            try:
                results.append(await world.get(address))
            except (OSError, TimeoutError) as error:
                results.append((0, str(error)))

    loaders = [asyncio.create_task(load(), name=f"load-{i}") for i in range(3)]
    # Whoever had not renewed would be refused.
    await shop.until(lambda: time.monotonic() > first and len(results) > 10, what="the first leaves have expired")
    assert min(process.metric("isthmus_identity_expires_seconds") for process in (gateway, sidecar)) > 0
    done.set()
    await asyncio.gather(*loaders)
    bad = [r for r in results if r != (200, "east-1")]
    assert not bad, (len(bad), len(results), bad[:3])
    for process in (gateway, sidecar):
        await shop.until(lambda p=process: p.metric("isthmus_watch_connected") == 1, what="it is connected again")


async def test_a_gateway_that_stops_says_so_and_serves_who_has_not_heard_of_it(world: Any, shop: Any) -> None:
    """A request that is under way may end, and what still comes is answered: its address may be that of its successor,
    and what stands before both learns later than peers which of them it is."""
    held = world.held()
    east, gateway, west, sidecar = await federation(world, shop, held=held, far={"drain_seconds": 60})
    east.put_export(shop.exported(shop.db, shop.opaque, await world.tcp_echo("east-db"), "west"))
    west.put_import(shop.imported(shop.db, shop.opaque, shop.backend("east", shop.opaque)))
    address = await sidecar.address("echo.shop.global")
    assert await world.get(address) == (200, "east-1")
    long = asyncio.create_task(world.get(address, method="POST"), name="long")
    await held.arrived.wait()
    async with world.connection(await sidecar.address("db.shop.global"), 5432) as (reader, writer):

        async def said(text: str) -> str:
            writer.write(f"{text}\n".encode())
            return (await asyncio.wait_for(reader.readline(), ANSWER)).decode().strip()

        assert await said("before") == "east-db before"
        gateway.child.send_signal(signal.SIGTERM)
        await shop.until(lambda: east.presence["gw"].gateway.draining, what="draining is announced")
        # 1. who comes now is served, for much longer than nobody has to come
        heard = time.monotonic()
        while time.monotonic() < heard + 3.0:
            assert await world.get(address) == (200, "east-1")
        # 2. nobody comes any more: what is under way may end, a request first and then a connection. That it does not
        # end before it has by itself is an absence, and looked at for as long as it would take.
        await shop.until(lambda: time.monotonic() > heard + 6.0, what="the time in which nobody comes is over")
        held.released.set()
        assert await long == (200, "east-1")
        assert await said("after") == "east-db after"
    # 3. it ends when they have, and long before its 60 s
    assert await gateway.stop(0) == 0


async def test_a_gateway_whose_port_is_taken_says_so_and_opens_when_it_is_free(world: Any, shop: Any) -> None:
    east = await world.agent("east")
    shop.link(east)
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        gateway = world.gateway(east, port=port)
        await shop.until(lambda: [p.code for p in east.presence["gw"].problems] == ["xds_nack"] if east.presence else 0)
        assert east.presence["gw"].problems[0].subject == "listener inbound"
        status, text = gateway.http("/readyz")
        assert status == 503
        assert "cannot listen for peers" in text
        assert not east.presence["gw"].HasField("gateway") or east.presence["gw"].gateway.draining
    # The port is free: the refused listener is tried again.
    await until(lambda: gateway.http("/readyz")[0] == 200, seconds=60, what="a ready gateway")
    await shop.until(lambda: east.presence["gw"].HasField("gateway") and not east.presence["gw"].gateway.draining)


async def test_a_damaged_view_and_identity_are_replaced(world: Any, shop: Any) -> None:
    _, _, _, sidecar = await federation(world, shop)
    address = await sidecar.address("echo.shop.global")
    await shop.until(lambda: (sidecar.state / "view").exists() and (sidecar.state / "addresses").exists())
    assert await sidecar.stop() == 0
    for name in ("view", "identity", "addresses"):
        path = sidecar.state / name
        path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    sidecar.start()
    await sidecar.ready()
    assert await sidecar.address("echo.shop.global") == address  # addresses follow from the name
    await eventually_answers(world, address, "east-1")


async def test_a_grant_that_is_taken_back_ends_admission(world: Any, shop: Any) -> None:
    east, _, west, sidecar = await federation(world, shop)
    tcp = await world.tcp_echo("db")
    west.put_import(shop.imported(shop.db, shop.opaque, shop.backend("east", shop.opaque)))
    address = await sidecar.address("db.shop.global")

    async def said() -> bool:
        return bool(await world.say(address, 5432, "x") == "db x")

    assert not await said()  # asked for before it exists: refused, and remembered
    export = shop.exported(shop.db, shop.opaque, tcp, "west")
    east.put_export(export)
    await shop.until(lambda: east.acks.get("gw") == east.log.revision)
    await until(said, what="the workload")
    east.put_export(replace(export, grants=()))
    await shop.until(lambda: east.acks.get("gw") == east.log.revision)
    assert not await said()
