"""A request from a client through its sidecar and the remote gateway to a workload, in the loopback way."""

from __future__ import annotations

from typing import Any

import pytest

from federation.model.cluster import Gateway

pytestmark = pytest.mark.integration


async def test_requests_and_connections_reach_the_remote_workload(world: Any, shop: Any) -> None:
    east, west = await world.agent("east"), await world.agent("west")
    http, tcp = await world.http_echo("east-1"), await world.tcp_echo("east-db")
    gateway = world.gateway(east)
    shop.link(east, west, gateways={"east": (Gateway(name="gw", address="127.0.0.1", port=gateway.east_west),)})
    east.put_export(shop.exported(shop.echo, shop.http, http, "west"))
    east.put_export(shop.exported(shop.db, shop.opaque, tcp, "west"))
    west.put_import(shop.imported(shop.echo, shop.http, shop.backend("east", shop.http)))
    west.put_import(shop.imported(shop.db, shop.opaque, shop.backend("east", shop.opaque)))
    sidecar = world.sidecar(west)
    await gateway.ready()
    await sidecar.ready()

    address = await sidecar.address("echo.shop.global")
    assert await world.get(address) == (200, "east-1")
    assert await world.get(address, version="1.0") == (200, "east-1")  # such as a proxy that speaks it by default
    assert await sidecar.address("echo.shop.svc.clusterset.local") == address
    database = await sidecar.address("db.shop.global")
    assert await world.say(database, 5432, "select 1") == "east-db select 1"

    await shop.until(lambda: west.acks.get("sc") == west.log.revision, what="the sidecar's ack")
    await shop.until(lambda: east.acks.get("gw") == east.log.revision, what="the gateway's ack")
    assert east.presence["gw"].gateway.port == gateway.east_west
