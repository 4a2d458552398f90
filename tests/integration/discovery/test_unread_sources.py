"""An agent whose Consul was not there when it began, or never was: what it serves, what it says, what it denies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from discovery.agent import BEFORE
from discovery.consul.settings import ConsulSettings
from discovery.settings import ClusterDnsSettings
from federation.model.ids import ServiceName
from federation.model.record import Kind

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
DNS = ClusterDnsSettings(listen="127.0.0.1:0")
EXPORT = {"isthmus-export": "true"}
BAD = dns.rcode.SERVFAIL


async def rcode(running: Any, name: str) -> dns.rcode.Rcode:
    query = dns.message.make_query(f"{name}.global", "A")
    return (await dns.asyncquery.udp(query, "127.0.0.1", port=running.agent.dns.port, timeout=10)).rcode()


async def test_consul_is_absent_at_the_first_start(
    federation: Any, start_consul: Any, connect: Any, manifest: Any, until: Until
) -> None:
    """1. imports are served, own names are not denied, the cluster is reported  2. a restart is no different  3. Consul
    comes: its services are exported, and names that do not exist are denied"""
    (datacenter,) = await start_consul("dc1")
    async with datacenter.connect() as client:
        await client.register("web", port=80, Address="10.0.0.1", Meta=EXPORT)
    datacenter.kill()
    east = await federation.cluster("east", start=False)
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    await east.start()
    home = await federation.cluster("dc1", start=False)
    given = {
        "files": None,
        "consul": ConsulSettings(address=datacenter.url(), datacenters={"dc1": "lab"}, lock_ttl=10.0),
        "dns": DNS,
    }
    await home.start(**given)
    await federation.link("east", "dc1")
    for _ in range(2):
        await until(lambda: home.clusters("shop/echo") == {"east": 1})
        async with connect(home, "shop/client", names=("shop/echo", "lab/web", "shop/none")) as sidecar:
            await until(lambda: sidecar.names(Kind.IMPORT) == {"shop/echo"})
            await until(lambda: sidecar.sink.replica.absent == {"shop/none"})
        assert await rcode(home, "web.lab") == BAD
        assert await rcode(home, "none.shop") == dns.rcode.NXDOMAIN
        assert "consul_unread" in home.codes()
        await until(lambda: home.agent.publish.connected and home.agent.publish.client.acknowledged)
        assert home.agent.report.records.epoch <= home.agent.epoch - BEFORE  # any other agent knows better
        await home.stop()
        await home.start(**given)
    async with connect(home, "shop/client", names=("lab/web", "lab/none")) as sidecar:
        await datacenter.restart()
        await until(lambda: sidecar.names(Kind.IMPORT) == {"lab/web"})
        await until(lambda: sidecar.sink.replica.absent == {"lab/none"})
    await until(lambda: east.clusters("lab/web") == {"dc1": 1})
    await until(lambda: home.agent.report.records.epoch >= home.agent.epoch)
    assert await rcode(home, "none.lab") == dns.rcode.NXDOMAIN


async def test_a_second_datacenter_that_never_was_there(federation: Any, start_consul: Any, until: Until) -> None:
    """It is added to an agent that works: what that knew is reported and followed as before, from its disk, too."""
    (datacenter,) = await start_consul("dc1")
    east = await federation.cluster("east")
    home = await federation.cluster("dc1", start=False)
    one = ConsulSettings(address=datacenter.url(), datacenters={"dc1": "shop"}, lock_ttl=10.0)
    two = ConsulSettings(address=datacenter.url(), datacenters={"dc1": "shop", "dc2": "lab"}, lock_ttl=10.0)
    async with datacenter.connect() as client:
        await client.register("web", port=80, Address="10.0.0.1", Meta=EXPORT)
        await home.start(files=None, consul=one)
        await federation.link("east", "dc1")
        await until(lambda: east.clusters("shop/web") == {"dc1": 1})
        await home.stop()
        await home.start(files=None, consul=two)
        assert ServiceName("shop", "web") in home.agent.source.state.value.exports
        check = {"CheckID": "up", "TTL": "1h", "Status": "critical"}
        await client.register("web", port=80, Address="10.0.0.1", Meta=EXPORT, Check=check)
        await until(lambda: east.clusters("shop/web") == {"dc1": 0})
    assert {"consul_no_datacenter", "consul_unread"} <= home.codes()
