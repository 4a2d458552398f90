"""Workloads without a sidecar: ClusterSetIP → the local gateway's egress port → the remote gateway → the workload.

The client is in a network namespace of its own, whose nftables do what kube-proxy does for a Service of type import.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from clusters.network import free_port
from clusters.waiting import DEADLINE, START, until
from federation.errors import IsthmusError
from federation.model.cluster import Gateway
from federation.model.record import Kind

pytestmark = pytest.mark.integration

HOLD = """
import socket, sys
held = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""

Ask = Callable[[], Awaitable[Any]]


async def comes(ask: Ask, wanted: Any) -> None:
    """Wait for the answer. With the first call Envoy asks our process for the cluster, and waits for it for 5 s."""

    async def came() -> bool:
        try:
            return bool(await ask() == wanted)
        except (IsthmusError, OSError):
            return False

    await until(came, seconds=START, what=f"the answer {wanted}")


HTTP_IP, TCP_IP = "242.0.0.7", "242.0.0.8"


def lead(space: Any, *ways: tuple[str, int, int]) -> None:
    """In `space`: (ClusterSetIP, port) → the gateway's (outside, egress port), as kube-proxy would."""
    rules = "".join(f"ip daddr {ip} tcp dport {port} dnat to {space.outside}:{at}\n" for ip, port, at in ways)
    text = f"table ip services {{\nchain output {{\ntype nat hook output priority -100;\n{rules}}}\n}}\n"
    for command, given in (
        (["ip", "-n", space.name, "route", "add", "default", "via", space.outside], None),
        ([*space.wrap, "nft", "-f", "-"], text),
    ):
        subprocess.run(command, input=given, text=True, check=True, capture_output=True, timeout=20)


async def egress(world: Any, shop: Any) -> tuple[Any, Any, int, int]:
    """(namespace, west's agent, egress ports of echo and db): east exports both, west's gateway leads there."""
    space = world.space()
    east, west = await world.agent("east"), await world.agent("west", host=space.outside)
    http, tcp = await world.http_echo("east-1"), await world.tcp_echo("east-db")
    reached = Gateway(name="gw-east", address=space.outside, port=free_port())
    far = world.process(
        "gateway", "gw-east", east, address=reached.address, bind=reached.address, port=reached.port, drain_seconds=2
    )
    shop.link(east, west, gateways={"east": (reached,)})
    east.put_export(shop.exported(shop.echo, shop.http, http, "west"))
    east.put_export(shop.exported(shop.db, shop.opaque, tcp, "west"))
    echo_at, db_at = free_port(), free_port()
    echo = shop.imported(shop.echo, shop.http, shop.backend("east", shop.http), gateway_ports={80: echo_at})
    west.put_import(replace(echo, ips=(HTTP_IP,)))
    db = shop.imported(shop.db, shop.opaque, shop.backend("east", shop.opaque), gateway_ports={5432: db_at})
    west.put_import(replace(db, ips=(TCP_IP,)))
    near = world.gateway(west, "gw-west", egress_bind=space.outside)
    await far.ready()
    await near.ready()
    lead(space, (HTTP_IP, 80, echo_at), (TCP_IP, 5432, db_at))
    return space, west, echo_at, db_at


async def test_a_client_without_a_sidecar_reaches_the_remote_workload(world: Any, shop: Any) -> None:
    space, *_ = await egress(world, shop)

    await comes(lambda: space.get(HTTP_IP, 80, "echo.shop.svc.clusterset.local"), "200 east-1")
    assert await space.get(HTTP_IP, 80, "echo.shop.global") == "200 east-1"
    assert (await space.get(HTTP_IP, 80, "db.shop.global")).startswith("421 ")
    await comes(lambda: space.say(TCP_IP, 5432), "east-db x")


async def test_a_name_whose_port_clashes_is_answered_and_passes_through_the_gateway(world: Any, shop: Any) -> None:
    space, west, *_ = await egress(world, shop)

    holder = await asyncio.create_subprocess_exec(
        *space.wrap, "python3", "-c", HOLD, "80", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert await asyncio.wait_for(holder.stdout.readline(), START) == b"held\n"
        sidecar = world.sidecar(west, wrap=space.wrap, left_seconds=0)
        await sidecar.ready()
        assert await space.look_up(sidecar, "echo.shop.global") == HTTP_IP
        await shop.until(lambda: list(west.presence["sc"].via_gateway) == ["shop/echo"])
        await comes(lambda: space.get(HTTP_IP, 80, "echo.shop.global"), "200 east-1")
        own = await space.look_up(sidecar, "db.shop.global")
        assert own.startswith("127.")  # its port is free
        await comes(lambda: space.say(own, 5432), "east-db x")
    finally:
        holder.kill()
        await holder.wait()
    await shop.until(lambda: not west.presence["sc"].via_gateway)
    own = await space.look_up(sidecar, "echo.shop.global")
    assert own.startswith("127.")
    await comes(lambda: space.get(own, 80, "echo.shop.global"), "200 east-1")


class Way:
    """A gateway of west that leads to echo and db in east, behind one gateway or two."""

    def __init__(self, world: Any, shop: Any) -> None:
        self.world, self.shop = world, shop
        self.http_at, self.tcp_at = free_port(), free_port()

    async def open(self, gateways: int = 1, **settings: Any) -> None:
        world, shop = self.world, self.shop
        east, self.west = await world.agent("east"), await world.agent("west")
        http, tcp = await world.http_echo("east-1"), await world.tcp_echo("east-db")
        reached = [
            Gateway(name=f"gw-{n}", address=a, port=free_port()) for n, a in (("a", "127.0.0.1"), ("b", "127.0.0.2"))
        ]
        self.far = [
            world.process("gateway", g.name, east, address=g.address, bind=g.address, port=g.port, drain_seconds=2)
            for g in reached
        ]
        shop.link(east, self.west, gateways={"east": tuple(reached)})
        east.put_export(shop.exported(shop.echo, shop.http, http, "west"))
        east.put_export(shop.exported(shop.db, shop.opaque, tcp, "west"))
        self.echo = shop.imported(
            shop.echo, shop.http, shop.backend("east", shop.http), gateway_ports={80: self.http_at}
        )
        self.west.put_import(self.echo)
        self.west.put_import(
            shop.imported(shop.db, shop.opaque, shop.backend("east", shop.opaque), gateway_ports={5432: self.tcp_at})
        )
        self.near = world.gateway(self.west, "gw-west", **settings)
        for process in (*self.far, self.near):
            await process.ready()

    async def get(self) -> tuple[int, str]:
        answer: tuple[int, str] = await self.world.get("127.0.0.1", self.http_at)
        return answer

    async def say(self, text: str = "x") -> str:
        answer: str = await self.world.say("127.0.0.1", self.tcp_at, text)
        return answer

    async def called(self) -> float:
        value: float = await asyncio.to_thread(self.near.metric, "isthmus_gateway_egress_called")
        return value


async def test_what_nobody_calls_is_given_up_and_served_again(world: Any, shop: Any) -> None:
    way = Way(world, shop)
    await way.open(egress_idle_seconds=1)
    assert await way.called() == 0
    async with contextlib.AsyncExitStack() as stack:

        async def begun() -> Any:
            reader, writer = await stack.enter_async_context(world.connection("127.0.0.1", way.tcp_at))
            writer.write(b"first\n")
            with contextlib.suppress(ConnectionError):
                if await asyncio.wait_for(reader.readline(), DEADLINE) == b"east-db first\n":
                    return reader, writer
            return None

        reader, writer = await until(begun, seconds=START, what="a connection")
        for _ in range(2):
            writer.write(b"still\n")
            assert await asyncio.wait_for(reader.readline(), DEADLINE) == b"east-db still\n"
            await comes(way.get, (200, "east-1"))

            async def only_the_connection() -> bool:
                return await way.called() == 1

            await shop.until(only_the_connection)


async def test_an_import_that_comes_back_is_led_again(world: Any, shop: Any) -> None:
    way = Way(world, shop)
    await way.open()
    await comes(way.get, (200, "east-1"))

    async def refused() -> bool:
        try:
            await way.get()
        except OSError:
            return True
        return False

    for _ in range(2):
        way.west.delete(Kind.IMPORT, "shop/echo")
        await shop.until(refused)
        way.west.put_import(way.echo)
        await comes(way.get, (200, "east-1"))

    async def one() -> bool:
        return await way.called() == 1

    await shop.until(one)


async def test_a_remote_gateway_that_dies_after_the_first_use_fails_no_request(world: Any, shop: Any) -> None:
    way = Way(world, shop)
    await way.open(gateways=2)
    await comes(way.get, (200, "east-1"))
    await comes(way.say, "east-db x")
    await way.far[0].stop(signal.SIGKILL)
    answers = [await way.get() for _ in range(50)]
    said = [await way.say(str(n)) for n in range(20)]
    assert answers == [(200, "east-1")] * 50
    assert said == [f"east-db {n}" for n in range(20)]
