"""What a real Consul says becomes what the cluster claims."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clusters.consul import Datacenter
from clusters.consulclient import node, service
from clusters.network import free_port
from clusters.waiting import until
from discovery.consul.cache import NEW
from federation.errors import Unavailable
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Grant, Locality, Readiness

from .conftest import HOME, Follow, ready

pytestmark = pytest.mark.integration

Start = Callable[..., Awaitable[tuple[Datacenter, ...]]]
EXPORT = {"isthmus-export": "true"}


async def test_a_service_is_exported_and_follows_its_checks(start_consul: Start, follow: Follow) -> None:
    """1. by the meta of its instance  2. warning, critical, maintenance, passing  3. not exported any more  4. gone"""
    (dc1,) = await start_consul("dc1")
    async with dc1.connect() as consul, follow(dc1) as running:
        assert running.state.exports == {}
        check = {"CheckID": "up", "TTL": "1h", "Status": "passing"}
        instance: dict[str, Any] = {"ID": "db-1", "Address": "10.0.0.1", "Check": check}
        instance["Weights"] = {"Passing": 4, "Warning": 2}
        await consul.register("db", port=5432, **instance, Meta={**EXPORT, "version": "1.2"}, Tags=["primary"])
        claim = await running.exported("db")
        assert [(p.name, p.port, p.app) for p in claim.ports] == [("", 5432, AppProtocol.OPAQUE)]
        assert [(e.address, e.ports, e.ready, e.locality, e.weight) for e in claim.endpoints] == [
            ("10.0.0.1", {5432: 5432}, True, HOME, 4)
        ]
        assert claim.readiness == (Readiness(HOME, 1, weight=4),)
        assert claim.labels == {"version": "1.2", "tag.isthmus.io/primary": "true"}
        assert claim.grants == ()

        await consul.set_check("up", "critical")
        await running.exported("db", lambda s: not s.endpoints[0].ready and not s.endpoints[0].terminating)
        await consul.set_check("up", "warning")
        await running.exported("db", lambda s: s.endpoints[0].ready and s.endpoints[0].weight == 2)
        await consul.put("/v1/agent/service/maintenance/db-1", enable="true", reason="disk")
        await running.exported("db", lambda s: s.endpoints[0].terminating and not s.endpoints[0].ready)
        await consul.put("/v1/agent/service/maintenance/db-1", enable="false")
        await consul.put("/v1/agent/maintenance", enable="true")
        await running.exported("db", lambda s: s.endpoints[0].terminating)
        await consul.put("/v1/agent/maintenance", enable="false")
        await running.exported("db", lambda s: s.endpoints[0].ready)

        since = claim.exported_at_ns
        await consul.register("db", port=5433, **instance)
        await until_gone(running, "db")
        assert ServiceName("shop", "db") in running.state.services
        await consul.register("db", port=5433, **instance, Meta=EXPORT)
        claim = await running.exported("db")
        assert claim.exported_at_ns == since
        await consul.deregister("db-1")
        await until_gone(running, "db")


async def until_gone(running: Any, name: str) -> None:
    await until(lambda: running.claim(name) is None, what=f"the end of {name}")


async def test_bad_input_costs_what_it_is_in(start_consul: Start, follow: Follow) -> None:
    """Registered past Consul's agents, which check more: names, addresses, ports, meta, the same ID on two nodes."""
    (dc1,) = await start_consul("dc1")
    async with dc1.connect() as consul, follow(dc1) as running:
        huge = {**EXPORT, **{f"k{n}": "x" * 20_000 for n in range(50)}}
        await consul.transact(
            [
                node("n1", "10.0.0.1"),
                node("n2", "10.0.0.2"),
                node("lo", "127.0.0.1"),
                service("n1", "web", port=80, ID="web", Meta=EXPORT),
                service("n2", "web", port=80, ID="web", Meta=EXPORT),
                service("n1", "web", port=80, ID="named", Address="db.example.com", Meta=EXPORT),
                service("lo", "web", port=80, ID="loop", Meta=EXPORT),
                service("n1", "web", port=0, ID="portless", Meta=EXPORT),
                service("n1", "web", port=80, ID="unclear", Meta={"isthmus-export": "yes"}),
                service("n1", "Not_A_Label", port=80, Meta=EXPORT),
            ]
        )
        described = {"ID": "huge", "Service": "web", "Port": 80, "Meta": huge}
        with pytest.raises(Unavailable, match="Invalid Service Meta"):  # a megabyte does not get in here
            await consul.put("/v1/catalog/register", {"Node": "n1", "SkipNodeUpdate": True, "Service": described})
        claim = await running.exported("web", lambda s: len(s.endpoints) == 2)
        assert ready(claim) == ["10.0.0.1", "10.0.0.2"]
        for code in ("consul_address", "consul_port", "consul_meta", "consul_name"):
            problem = await running.told(code)
            assert "\n" not in problem.detail
            assert len(problem.detail) < 400
        assert "Not_A_Label" in (await running.told("consul_name")).subject
        assert "(and 1 more instances)" in (await running.told("consul_address")).detail


async def test_ports_places_and_addresses(start_consul: Start, follow: Follow) -> None:
    (dc1,) = await start_consul("dc1")
    async with dc1.connect() as consul, follow(dc1, tagged="wan", ipv6=True) as running:
        await consul.transact([node("n1", "10.0.0.1", Meta={"isthmus-region": "eu", "isthmus-zone": "eu-1"})])
        await consul.put(
            "/v1/catalog/register",
            {
                "Node": "n1",
                "SkipNodeUpdate": True,
                "Service": {
                    "ID": "api-1",
                    "Service": "api",
                    "Ports": [{"Name": "http", "Port": 8080, "Default": True}, {"Name": "admin", "Port": 9000}],
                    "TaggedAddresses": {
                        "wan": {"Address": "192.0.2.1", "Port": 30443},
                        "wan_ipv6": {"Address": "2001:db8::1", "Port": 8443},
                    },
                    "Meta": {**EXPORT, "isthmus-protocol-http": "http", "isthmus-consumers": "west, edge:8080"},
                },
            },
        )
        claim = await running.exported("api")
        assert [(p.name, p.port, p.app) for p in claim.ports] == [
            ("http", 8080, AppProtocol.HTTP),
            ("admin", 9000, AppProtocol.OPAQUE),
        ]
        assert [(e.address, e.ports) for e in claim.endpoints] == [
            ("192.0.2.1", {8080: 30443, 9000: 9000}),
            ("2001:db8::1", {8080: 8443, 9000: 9000}),
        ]
        assert claim.ip_families == ("IPv4", "IPv6")
        assert claim.readiness == (Readiness(Locality("eu", "eu-1"), 1),)
        assert claim.grants == (Grant("edge", (8080,)), Grant("west"))


@contextlib.asynccontextmanager
async def without_census(datacenter: Datacenter) -> AsyncIterator[str]:
    """The URL of a proxy before Consul that lets no look at all nodes through, as some operators have."""

    async def forward(request: web.Request) -> web.Response:
        if request.path.startswith("/v1/internal/"):
            return web.Response(status=403, text="not through this proxy")
        async with session.request(
            request.method, datacenter.url() + request.path_qs, data=await request.read()
        ) as answer:
            told = {k: v for k, v in answer.headers.items() if k.startswith("X-Consul-")}
            return web.Response(status=answer.status, body=await answer.read(), headers=told)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("census", [True, False])
async def test_without_watches_of_their_own_services_are_followed_by_what_the_catalog_tells(
    start_consul: Start, follow: Follow, census: bool
) -> None:
    """What no check tells: a registration, another port, another address of a node, a deregistration. With one look in
    ten seconds (`sweep`) none of them would be found in time by looks in turn, which are all there is without a census:
    that is told."""
    (dc1,) = await start_consul("dc1")
    async with dc1.connect() as consul, contextlib.AsyncExitStack() as stack:
        await consul.transact([node("n1", "10.0.0.1"), node("n2", "10.0.0.2")])
        await consul.transact(
            service("n1", f"s{number}", port=80, ID=f"s{number}", Meta=EXPORT) for number in range(30)
        )
        given: dict[str, Any] = (
            {"sweep": 0.1} if census else {"address": await stack.enter_async_context(without_census(dc1))}
        )
        async with follow(dc1, watches=0, **given) as running:
            await running.exported("s7")
            await consul.transact([service("n2", "s7", port=80, ID="s7-2", Meta=EXPORT)])
            await running.exported("s7", lambda s: ready(s) == ["10.0.0.1", "10.0.0.2"])
            await consul.transact([service("n2", "s7", port=8080, ID="s7-2", Meta=EXPORT)])
            await running.exported("s7", lambda s: {80: 8080} in [dict(e.ports) for e in s.endpoints])
            await consul.transact([node("n2", "10.0.0.3"), service("n2", "other", port=1)])
            await running.exported("s7", lambda s: ready(s) == ["10.0.0.1", "10.0.0.3"])
            await consul.transact([service("n2", "s7", port=8080, verb="delete", ID="s7-2")])
            await running.exported("s7", lambda s: ready(s) == ["10.0.0.1"])
            problem = running.problem("consul_census")
            assert problem is None or (not census and "our token may not do that" in problem.detail), problem
            assert census or problem is not None


async def test_two_datacenters_of_one_consul(start_consul: Start, follow: Follow, tmp_path: Path) -> None:
    """One that is not known is a problem of its own; the other one is read, and reported where that one never was."""
    (dc1,) = await start_consul("dc1")
    async with dc1.connect() as consul:
        await consul.register("web", port=80, Address="10.0.0.1", Meta=EXPORT)
    async with follow(dc1, complete=False, datacenters={"dc1": "shop", "dc2": "lab"}) as running:
        await running.exported("web")
        assert "dc2" in (await running.told("consul_no_datacenter")).subject
        assert not running.state.complete  # it may have been read before, and reported
    (tmp_path / NEW).touch()
    async with follow(dc1, live=False, datacenters={"dc1": "shop", "dc2": "lab"}) as running:
        await running.exported("web")
        assert running.state.unread == {"lab"}


async def test_two_datacenters_over_wan_are_read_through_one_server(start_consul: Start, follow: Follow) -> None:
    """Both are exported, each under its namespace; while one is cut off, it counts as it was, and the other goes on."""
    dc1, dc2 = await start_consul("dc1", "dc2", wan=True)
    async with dc1.connect() as here, dc2.connect() as there:
        await here.register("web", port=80, Address="10.0.0.1", Meta=EXPORT)
        check = {"CheckID": "up", "TTL": "1h", "Status": "passing"}
        await there.register("web", port=80, Address="10.0.1.1", Meta=EXPORT, Check=check)
        await there.register("only", port=80, Address="10.0.1.2", Meta=EXPORT)
        async with follow(dc1, datacenters={"dc1": "shop", "dc2": "lab"}) as running:
            assert ready(await running.exported("web")) == ["10.0.0.1"]
            assert ready(await running.exported("web", namespace="lab")) == ["10.0.1.1"]
            await running.exported("only", namespace="lab")
            assert running.claim("only") is None
            await there.set_check("up", "critical")
            await running.exported("web", lambda s: not ready(s), namespace="lab")

            dc2.kill()
            await until(lambda: [p for p in running.state.problems if "dc2" in p.subject], what="word of dc2")
            await here.register("web", port=80, Address="10.0.0.9", Meta=EXPORT)
            await running.exported("web", lambda s: ready(s) == ["10.0.0.9"])
            assert running.claim("only", "lab") is not None
            await dc2.restart()
            await there.set_check("up", "passing")
            await running.exported("web", ready, namespace="lab")
            await until(lambda: not running.state.problems)
