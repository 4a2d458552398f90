"""Names on demand: absent, coming to exist, pinned, idle, clashing with the workload's own port."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rrset
import pytest

from clusters.network import free_port
from clusters.processes import children
from clusters.waiting import DEADLINE, START, until
from federation.model.cluster import Gateway
from federation.model.record import Kind

pytestmark = pytest.mark.integration


def addresses(reply: Any) -> list[str]:
    return [str(item.address) for rrset in reply.answer for item in rrset if hasattr(item, "address")]


def texts(reply: Any) -> str:
    return " ".join(b"".join(item.strings).decode() for rrset in reply.answer for item in rrset)


async def look_up(sidecar: Any, name: str, kind: str = "A", *, tcp: bool = False) -> Any:
    return await asyncio.to_thread(sidecar.lookup, name, kind, tcp=tcp)


async def alone(world: Any, shop: Any, **settings: Any) -> tuple[Any, Any, int]:
    """(agent, sidecar, workload's port): one cluster that imports its own shop/echo."""
    west = await world.agent("west")
    shop.link(west)
    http = await world.http_echo("west-1")
    sidecar = world.sidecar(west, **settings)
    await sidecar.ready()
    return west, sidecar, http


async def test_a_name_that_does_not_exist_is_explained_and_served_when_it_does(world: Any, shop: Any) -> None:
    west, sidecar, http = await alone(world, shop)
    reply = await look_up(sidecar, "echo.shop.global")
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert [rrset.rdtype for rrset in reply.authority] == [6]  # SOA
    assert "not exported" in reply.options[0].text
    west.put_import(shop.imported(shop.echo, shop.http, shop.backend("west", shop.http, local=http)))
    found = await shop.until(lambda: addresses(sidecar.lookup("echo.shop.global")))
    assert found[0].startswith("127.")
    srv = await look_up(sidecar, "_http._tcp.echo.shop.svc.clusterset.local", "SRV", tcp=True)
    assert [(item.port, str(item.target)) for rrset in srv.answer for item in rrset] == [
        (80, "echo.shop.svc.clusterset.local.")
    ]
    west.delete(Kind.IMPORT, "shop/echo")
    await shop.until(lambda: sidecar.lookup("echo.shop.global").rcode() == dns.rcode.NXDOMAIN)
    west.put_import(shop.imported(shop.echo, shop.http, shop.backend("west", shop.http, local=http)))
    assert await shop.until(lambda: addresses(sidecar.lookup("echo.shop.global"))) == found  # its address is its own


async def test_a_pinned_name_has_an_address_of_its_own(world: Any, shop: Any) -> None:
    west, sidecar, http = await alone(world, shop)
    west.put_import(
        shop.imported(
            shop.echo, shop.http, shop.backend("west", shop.http, local=http), shop.backend("east", shop.http)
        )
    )
    pinned = addresses(await look_up(sidecar, "echo.shop.west.global"))
    both = addresses(await look_up(sidecar, "echo.shop.global"))
    assert len(pinned) == len(both) == 1
    assert pinned != both
    assert (await look_up(sidecar, "echo.shop.north.global")).rcode() == dns.rcode.NXDOMAIN
    assert (
        await look_up(sidecar, "not-a-service.global")
    ).rcode() == dns.rcode.NOERROR  # a namespace could be so called
    assert (await look_up(sidecar, "a.b.c.d.e.global")).rcode() == dns.rcode.NXDOMAIN


async def test_names_that_nobody_uses_are_released(world: Any, shop: Any) -> None:
    west, sidecar, http = await alone(world, shop, idle_seconds=1.0, absent_seconds=1.0)
    west.put_import(shop.imported(shop.echo, shop.http, shop.backend("west", shop.http, local=http)))

    async def known() -> bool:
        await look_up(sidecar, "absent.shop.global")
        return bool(sidecar.metric("isthmus_sidecar_names_absent") == 1)

    async def answered() -> str:
        """The address that answers: what is looked up may have been released before it is called."""
        found: str = await sidecar.address("echo.shop.global")
        try:
            return found if await world.get(found) == (200, "west-1") else ""
        except OSError:
            return ""

    await shop.until(known)
    address = await shop.until(answered)
    await shop.until(lambda: sidecar.metric("isthmus_sidecar_names_absent") == 0)
    await shop.until(lambda: sidecar.metric("isthmus_sidecar_names_present") == 0)
    assert await sidecar.address("echo.shop.global") == address


TALK = """
import contextlib, socket, sys

def say(lines, line):
    lines.write(line)
    lines.flush()
    return lines.readline().strip()

print("up", flush=True)
for address in sys.stdin:
    with contextlib.suppress(OSError):
        connection = socket.create_connection((address.strip(), 5432), timeout=15)
        lines = connection.makefile("rw")
        if say(lines, "first\\n"):
            break
    print("again", flush=True)
print("begun", flush=True)
for line in sys.stdin:
    print(say(lines, line), flush=True)
"""
"""Connects to the first address on its input that leads somewhere; then it hands each line on, and what comes back."""


class Talk:
    """A connection that lasts."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    @classmethod
    async def begin(cls, look_up: Callable[[], Awaitable[str]], wrap: Sequence[str] = ()) -> Talk:
        """`look_up`: the address; asked when the program is up, and again where it was released before its use."""
        child = await asyncio.create_subprocess_exec(
            *wrap, sys.executable, "-c", TALK, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        made = cls(child)

        async def begun() -> bool:
            address = await look_up()
            return bool(address) and await made.say(address, START) == "begun"

        try:
            assert await made.read(START) == "up"
            await until(begun, seconds=START, what="a connection")
        except BaseException:
            await made.end()
            raise
        return made

    async def read(self, seconds: float = DEADLINE) -> str:
        assert self._child.stdout is not None
        return (await asyncio.wait_for(self._child.stdout.readline(), seconds)).decode().strip()

    async def say(self, line: str, seconds: float = DEADLINE) -> str:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n".encode())
        return await self.read(seconds)

    async def end(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            await asyncio.wait_for(self._child.wait(), DEADLINE)
        finally:
            if self._child.returncode is None:
                self._child.kill()
                await self._child.wait()


def envoy_of(sidecar: Any) -> int:
    return next(p for p in children(sidecar.child.pid) if "envoy" in os.readlink(f"/proc/{p}/exe"))


@pytest.mark.parametrize("way", ["loopback", "redirect"])
async def test_a_name_is_not_released_while_a_connection_lasts(world: Any, shop: Any, way: str) -> None:
    """Nor when the checks of its gateways begin, whereupon Envoy has other hosts and the connection the former one."""
    space = world.space() if way == "redirect" else None
    outside, wrap = (space.outside, space.wrap) if space else ("127.0.0.1", [])
    east, west = await world.agent("east"), await world.agent("west", host=outside)
    reached = Gateway(name="gw-east", address=outside, port=free_port())
    far = world.process("gateway", reached.name, east, address=outside, bind=outside, port=reached.port)
    shop.link(east, west, gateways={"east": (reached,)})
    east.put_export(shop.exported(shop.db, shop.opaque, await world.tcp_echo("east-db"), "west"))
    west.put_import(shop.imported(shop.db, shop.opaque, shop.backend("east", shop.opaque)))
    more = {"way": way, "intercept": True} if space else {}
    sidecar = world.sidecar(west, wrap=wrap, idle_seconds=1.0, absent_seconds=1.0, **more)
    await far.ready()
    await sidecar.ready()

    async def metric(name: str) -> float:
        value: float = await asyncio.to_thread(sidecar.metric, name)
        return value

    async def look_up(name: str) -> str:
        if space:
            found: str = await space.look_up(sidecar, name)
            return found
        return " ".join(addresses(await asyncio.to_thread(sidecar.lookup, name)))

    async def released() -> bool:
        return await metric("isthmus_sidecar_names_present") == 0

    async def forgotten() -> bool:
        return await metric("isthmus_sidecar_names_absent") == 0

    async def idle_time_passes() -> None:
        """A name that was asked for now is given up: so is one that was used before and is not in use."""
        assert await look_up("absent.shop.global") == ""
        await shop.until(forgotten)

    for round_ in range(2):  # a name that was released is served again
        client = await Talk.begin(lambda: look_up("db.shop.global"), wrap)
        try:
            for line in range(3):
                assert await client.say(str(line)) == f"east-db {line}", round_
                await idle_time_passes()
                assert not await released()
        finally:
            await client.end()
        await shop.until(released)


async def test_a_name_is_not_displaced_while_a_connection_lasts(world: Any, shop: Any) -> None:
    """Nor when for longer than a name is kept nobody could look whether one does, for Envoy stands still."""
    west, sidecar, _ = await alone(world, shop, names_limit=1, idle_seconds=2.0, absent_seconds=1.0)
    port = await world.tcp_echo("west-db")
    for name in ("db", "other"):
        service = type(shop.db)("shop", name)
        west.put_import(shop.imported(service, shop.opaque, shop.backend("west", shop.opaque, local=port)))
    client = await Talk.begin(lambda: sidecar.address("db.shop.global"))

    async def refused() -> bool:
        reply = await look_up(sidecar, "other.shop.global")
        return reply.rcode() == dns.rcode.NXDOMAIN and "names_limit" in reply.options[0].text

    try:
        assert await client.say("1") == "west-db 1"
        await look_up(sidecar, "absent.shop.global")
        await shop.until(lambda: sidecar.metric("isthmus_sidecar_names_absent") == 0)  # so there was a look
        envoy = envoy_of(sidecar)
        os.kill(envoy, signal.SIGSTOP)
        try:
            # Proves an absence, for longer than a name is kept: asked all the while.
            begun = time.monotonic()
            while time.monotonic() < begun + 4.0:
                assert await refused()
        finally:
            os.kill(envoy, signal.SIGCONT)
        assert await client.say("2") == "west-db 2"
    finally:
        await client.end()

    async def served() -> bool:
        return bool(addresses(await look_up(sidecar, "other.shop.global")))

    await shop.until(served)


async def test_a_port_that_the_workload_holds_leads_the_name_through_the_gateway(world: Any, shop: Any) -> None:
    west, sidecar, http = await alone(world, shop, left_seconds=0)
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("0.0.0.0", 0))
    holder.listen()
    port = type(shop.http)(name="http", port=holder.getsockname()[1], app=shop.http.app)
    try:
        west.put_import(shop.imported(shop.echo, port, shop.backend("west", port, local=http)))
        assert await sidecar.address("echo.shop.global") == "242.0.0.7"
        assert "port_clash" in texts(await look_up(sidecar, "_why.echo.shop.global", "TXT"))
        await shop.until(lambda: list(west.presence["sc"].via_gateway) == ["shop/echo"])
        assert [p.code for p in west.presence["sc"].problems] == ["port_clash"]
        # A pinned name has no way through the gateway: it exists, without an address.
        pinned = await look_up(sidecar, "echo.shop.west.global")
        assert (pinned.rcode(), addresses(pinned)) == (dns.rcode.NOERROR, [])
        why = texts(await look_up(sidecar, "_why.echo.shop.west.global", "TXT"))
        assert "has no address here" in why
        assert "there is no other way to it" in why
    finally:
        holder.close()
    found = await shop.until(lambda: [a for a in addresses(sidecar.lookup("echo.shop.global")) if a != "242.0.0.7"])
    assert found[0].startswith("127.")
    await shop.until(lambda: not west.presence["sc"].via_gateway and not west.presence["sc"].problems)
    assert await shop.until(lambda: addresses(sidecar.lookup("echo.shop.west.global")))
    assert await world.get(found[0], port.port) == (200, "west-1")


async def test_two_sidecars_on_one_range_do_not_take_each_others_calls(world: Any, shop: Any) -> None:
    west, first, http = await alone(world, shop)
    west.put_import(shop.imported(shop.echo, shop.http, shop.backend("west", shop.http, local=http)))
    assert (await first.address("echo.shop.global")).startswith("127.")
    second = world.sidecar(west, "sc2")
    await second.ready()
    assert await second.address("echo.shop.global") == "242.0.0.7"  # the address is taken: it says so
    await shop.until(lambda: list(west.presence["sc2"].via_gateway) == ["shop/echo"])


async def test_beyond_the_limit_a_name_is_refused_and_those_in_use_go_on(world: Any, shop: Any) -> None:
    west, sidecar, http = await alone(world, shop, names_limit=2)
    for name in ("a", "b", "c"):
        service = type(shop.echo)("shop", name)
        west.put_import(shop.imported(service, shop.http, shop.backend("west", shop.http, local=http)))
    first = await sidecar.address("a.shop.global")
    assert await sidecar.address("b.shop.global") != first
    reply = await look_up(sidecar, "c.shop.global")
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert "names_limit" in reply.options[0].text
    assert sidecar.metric("isthmus_sidecar_names_present") == 2
    assert await sidecar.address("a.shop.global") == first
    assert await world.get(first, host="a.shop.global") == (200, "west-1")


async def test_names_of_others_are_answered_while_an_identity_is_waited_for(world: Any, shop: Any) -> None:
    west = await world.agent("west")
    shop.link(west)
    http = await world.http_echo("west-1")
    west.put_import(shop.imported(shop.echo, shop.http, shop.backend("west", shop.http, local=http)))
    await west.stop()
    upstream, _ = await asyncio.get_running_loop().create_datagram_endpoint(Upstream, ("127.0.0.1", 0))
    port, other = free_port(), upstream.get_extra_info("sockname")[1]
    sidecar = world.sidecar(west, dns={"port": port, "upstream": [f"127.0.0.1:{other}"]})

    def ask(name: str) -> Any:
        try:
            return dns.query.udp(dns.message.make_query(name, "A", use_edns=0), "127.0.0.1", port=port, timeout=5)
        except (OSError, dns.exception.Timeout):
            return None

    reply = await shop.until(lambda: asyncio.to_thread(ask, "example.org"), seconds=90)
    assert addresses(reply) == ["192.0.2.9"]
    ours = await asyncio.to_thread(ask, "echo.shop.global")
    assert ours.rcode() == dns.rcode.SERVFAIL
    assert "no identity yet" in ours.options[0].text
    await west.start()
    await sidecar.ready()
    assert addresses(await asyncio.to_thread(ask, "echo.shop.global"))[0].startswith("127.")
    assert addresses(await asyncio.to_thread(ask, "example.org")) == ["192.0.2.9"]
    upstream.close()


class Upstream(asyncio.DatagramProtocol):
    """A resolver that has one answer to everything."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.9"))
        self.transport.sendto(reply.to_wire(), address)
