"""The redirect way, in a network namespace of its own: addresses that exist nowhere, and one listener."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Import, Port

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace: run as root"),
]

HTTP, TCP = AppProtocol.HTTP, AppProtocol.OPAQUE
MIXED, RAW = ServiceName("shop", "echo"), ServiceName("shop", "raw")
NEWNET = 0x40000000
RULES = """
table ip isthmus {
  chain output {
    type nat hook output priority -100;
    ip daddr 240.64.0.0/12 meta l4proto tcp redirect to :15001
  }
}
"""


def run(*command: str, stdin: str | None = None) -> None:
    subprocess.run(command, input=stdin, text=True, check=True, capture_output=True)


@pytest.fixture
def namespace() -> Iterator[None]:
    """This thread, and what it starts, in an empty network with the rule of the redirect way."""
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(NEWNET):
        os.close(outside)
        pytest.skip("no new network namespace is allowed here")
    try:
        run("ip", "link", "set", "lo", "up")
        run("ip", "route", "add", "local", "240.64.0.0/12", "dev", "lo")
        run("nft", "-f", "-", stdin=RULES)
        yield
    finally:
        libc.setns(outside, NEWNET)
        os.close(outside)


async def test_one_listener_leads_everything_where_it_belongs(namespace: Any, world: Any, kit: Any) -> None:
    web, raw = await world.workload("west-web"), await world.workload("west-raw")
    world.domain("east")
    world.domain("west")
    ports = {80: (HTTP, web.port), 9000: (TCP, raw.port)}
    world.exports["west"] = {
        MIXED: kit.export_of(MIXED, ports, to=["east"]),
        RAW: kit.export_of(RAW, {9000: (TCP, raw.port)}, to=["east"]),
    }
    await world.gateway("west")
    world.imports["east"][MIXED] = Import(
        name=MIXED,
        ports=(Port(name="web", port=80, app=HTTP), Port(name="raw", port=9000)),
        backends=(kit.remote("west", 80, 9000),),
    )
    uses = [kit.Use(name=MIXED, vip="240.72.0.5")]
    sidecar = await world.sidecar("east", uses, way="redirect")

    # The requests of a service under its names, and no others.
    assert (await kit.http("240.72.0.5", 80, host="echo.shop.global"))[2] == "west-web"
    assert (await kit.http("240.72.0.5", 80, host="echo.shop.global:80"))[0] == 200
    assert (await kit.http("240.72.0.5", 80, host="other.shop.global"))[0] == 421
    # An opaque port of a service that has HTTP ports, too.
    assert await kit.line("240.72.0.5", 9000, "hello") == "west-raw:hello"

    # A name that comes into use later, dialled before the sidecar has published it: the connection waits.
    world.imports["east"][RAW] = Import(name=RAW, ports=(Port(port=9000),), backends=(kit.remote("west", 9000),))
    early = asyncio.create_task(kit.line("240.64.0.9", 9000, "early"))
    await kit.until(lambda: "vip/240.64.0.9:9000" in sidecar.asked)
    uses.append(kit.Use(name=RAW, vip="240.64.0.9"))
    sidecar.publish()
    await sidecar.settled()
    assert await kit.line("240.64.0.9", 9000, "later") == "west-raw:later"
    assert await early in ("west-raw:early", "")  # refused at once where the sidecar says that it does not exist

    # An HTTP service that is dialled before it is published is asked for, too.
    late = ServiceName("shop", "late")
    world.exports["west"][late] = kit.export_of(late, {80: (HTTP, web.port)}, to=["east"])
    world.imports["east"][late] = Import(
        name=late, ports=(Port(port=80, app=HTTP),), backends=(kit.remote("west", 80),)
    )
    assert (await kit.http("240.72.0.7", 80, host="late.shop.global"))[0] == 503
    assert "vip/240.72.0.7:80" in sidecar.asked
