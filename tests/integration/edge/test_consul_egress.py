"""A VM without a sidecar: Consul's DNS → the local gateway's egress port → the remote gateway → the workload.

The VM is a network namespace of its own. What it asks is a real Consul; what is registered there is written by the
writer, for the gateway that runs.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from clusters.network import free_port
from clusters.waiting import until
from discovery.consul.client import ConsulClient
from discovery.consul.imports.catalog import Catalog, Fence
from discovery.consul.imports.names import hosts
from discovery.consul.imports.settings import WriteSettings
from discovery.consul.imports.transport import DatacenterTransport
from discovery.consul.imports.writer import Writer
from discovery.consul.settings import ConsulSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.model.cluster import Gateway
from federation.model.ids import ServiceName
from federation.model.service import Import

pytestmark = pytest.mark.integration

SRV = """
import sys, dns.message, dns.query, dns.rdatatype
reply = dns.query.udp(dns.message.make_query(sys.argv[3], "SRV"), sys.argv[1], port=int(sys.argv[2]), timeout=15)
names = {r.name: r[0].address for r in reply.additional if r.rdtype == dns.rdatatype.A}
print(*[f"{names[item.target]} {item.port}" for rrset in reply.answer for item in rrset])
"""


class View:
    """What the writer asks of the agent's view."""

    def __init__(self, *those: Import) -> None:
        self.imports: dict[ServiceName, Import] = {one.name: one for one in those}
        self.linked: list[Any] = []

    def listen(self, tell: Any) -> None:
        self.tell = tell

    def settled(self, cluster: str) -> bool:
        return True


async def test_a_vm_calls_what_consul_tells_it(world: Any, shop: Any, start_consul: Any) -> None:
    space = world.space()
    (dc1,) = await start_consul("dc1", addresses=iter([space.outside]))
    east, west = await world.agent("east"), await world.agent("west", host=space.outside)
    reached = Gateway(name="gw-east", address=space.outside, port=free_port())
    far = world.process(
        "gateway", "gw-east", east, address=reached.address, bind=reached.address, port=reached.port, drain_seconds=2
    )
    shop.link(east, west, gateways={"east": (reached,)})
    east.put_export(shop.exported(shop.echo, shop.http, await world.http_echo("east-1"), "west"))
    east.put_export(shop.exported(shop.db, shop.opaque, await world.tcp_echo("east-db"), "west"))
    settings = WriteSettings(enabled=True)

    def imported(name: ServiceName, port: Any) -> Import:
        at, backend = free_port(), shop.backend("east", port)
        made: Import = shop.imported(name, port, backend, gateway_ports={port.port: at})
        aliases = hosts(made, settings.rule("shop"), datacenter="dc1", domain=settings.domain)
        again: Import = shop.imported(name, port, backend, gateway_ports={port.port: at}, aliases=aliases)
        return again

    view: Any = View(imported(shop.echo, shop.http), imported(shop.db, shop.opaque))
    for one in view.imports.values():
        west.put_import(one)
    near = world.gateway(west, "gw-west", egress_bind=space.outside)
    await far.ready()
    await near.ready()
    async with dc1.connect() as client:
        session = (await client.put("/v1/session/create", {}))["ID"]
        assert await client.put("/v1/kv/lock", b"", acquire=session)
    consul = ConsulClient(
        ConsulSettings(address=dc1.url(), datacenters={"dc1": "shop"}), clock=SystemClock(), log=log.get("test")
    )
    writer = Writer(
        settings,
        Catalog(DatacenterTransport(consul, "dc1"), node="isthmus-west", cluster="west"),
        view,
        datacenter="dc1",
        namespace="shop",
        cluster="west",
        single_machine=False,
        gateways=Latest({"gw-west": Gateway(name="gw-west", address="127.0.0.1", port=1, egress=space.outside)}),
        leader=Latest(Fence("lock", session)),
        wait=40.0,
        on_problems=lambda _: None,
        clock=SystemClock(),
        log=log.get("test"),
        rng=random.Random(),
    )
    writer.known()
    running = asyncio.create_task(writer.run())
    try:
        site = dc1.sites["s1"]
        await until(lambda: writer.idle, what="both imports in Consul")
        found = await space.run(SRV, site.address, site.dns, "db.service.consul.")
        address, port = found.split()
        assert address == space.outside
        assert await space.say(address, int(port)) == "east-db x"

        address, port = (await space.run(SRV, site.address, site.dns, "echo.service.consul.")).split()
        for host in ("echo.service.consul", f"echo.service.dc1.consul:{port}", "echo.shop.global"):
            assert await space.get(address, int(port), host) == "200 east-1"
        assert (await space.get(address, int(port), "db.service.consul")).startswith("421 ")
    finally:
        await cancel(running)
        await consul.close()
