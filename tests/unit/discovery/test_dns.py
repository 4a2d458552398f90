"""Cluster-level DNS without Kubernetes: what workloads without a sidecar are answered, and when it changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import dns.asyncquery
import dns.edns
import dns.message
import dns.rcode
import pytest

from discovery.dns import APART, PENDING, PINNED, ClusterDns, records
from discovery.settings import ClusterDnsSettings
from federation import log
from federation.aio.clock import FakeClock
from federation.model.ids import ServiceName
from federation.model.service import Backend, Endpoint, Import, Locality, Port, Readiness

ECHO = ServiceName("shop", "echo")
BASE = "echo.shop.svc.clusterset.local"
HTTP = Port(name="http", port=80)


def backend(cluster: str, ready: int = 1, *addresses: str) -> Backend:
    endpoints = tuple(Endpoint(address=a, ports={80: 8080}) for a in addresses)
    return Backend(cluster=cluster, ports=(80,), readiness=(Readiness(Locality(), ready),), endpoints=endpoints)


PLAIN = Import(name=ECHO, ips=("241.0.0.1",), ports=(HTTP,), backends=(backend("east", 1), backend("west", 1)))
HEADLESS = Import(name=ECHO, headless=True, ports=(HTTP,), backends=(backend("east", 1, "10.0.0.1"),))


class View:
    """As much of a ClusterView as DNS reads."""

    def __init__(self) -> None:
        self.imports: dict[ServiceName, Import] = {}
        self.linked = [SimpleNamespace(name="west")]
        self._tell: Callable[[Collection[ServiceName]], None] = lambda names: None

    def listen(self, tell: Callable[[Collection[ServiceName]], None]) -> None:
        self._tell = tell

    def put(self, *imports: Import) -> None:
        for imp in imports:
            self.imports[imp.name] = imp
        self._tell([imp.name for imp in imports])

    def drop(self, name: ServiceName) -> None:
        del self.imports[name]
        self._tell([name])


class World:
    def __init__(self) -> None:
        self.view, self.told, self.missing, self.unread = View(), True, set[str](), set[str]()
        self.dns = ClusterDns(
            ClusterDnsSettings(listen="127.0.0.1:0"),
            self.view,  # type: ignore[arg-type]
            suffix="global",
            cluster="east",
            known=lambda: self.told,
            unread=lambda name: name.namespace in self.unread,
            has_namespace=lambda namespace: namespace not in self.missing,
            clock=FakeClock(),
            log=log.get("test"),
        )

    async def ask(self, name: str, rtype: str = "A") -> dns.message.Message:
        query = dns.message.make_query(name, rtype, use_edns=0)
        return await dns.asyncquery.udp(query, "127.0.0.1", port=self.dns.port, timeout=10)

    async def found(self, name: str, rtype: str = "A") -> list[str]:
        return sorted(str(r) for rrset in (await self.ask(name, rtype)).answer for r in rrset)

    async def denied(self, name: str) -> str:
        """Why `name` does not exist."""
        answer = await self.ask(name)
        assert answer.rcode() == dns.rcode.NXDOMAIN, answer
        assert answer.authority  # the SOA, so that resolvers know for how long
        return next((o.text or "" for o in answer.options if isinstance(o, dns.edns.EDEOption)), "")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.dns.start()
    yield made
    await made.dns.close()


async def test_a_service_has_its_clustersetip_under_both_names(world: World) -> None:
    world.view.put(PLAIN)
    assert await world.found(BASE) == ["241.0.0.1"]
    assert await world.found("echo.shop.global") == ["241.0.0.1"]
    assert await world.found(f"_http._tcp.{BASE}", "SRV") == [f"0 100 80 {BASE}."]
    assert await world.found("dns-version.clusterset.local", "TXT") == ['"1.0.0"']


async def test_answers_change_with_the_view_at_once(world: World) -> None:
    world.view.put(PLAIN)
    assert await world.found(BASE) == ["241.0.0.1"]
    world.view.put(replace(PLAIN, ips=("241.0.0.2",)))
    assert world.dns.table.get(BASE).a == ("241.0.0.2",)  # type: ignore[union-attr]
    assert await world.found(BASE) == ["241.0.0.2"]
    world.view.drop(ECHO)
    assert await world.denied(BASE) == "shop/echo is not exported to this cluster"
    assert not list(world.dns.table.names())
    world.view.put(PLAIN)
    assert await world.found(BASE) == ["241.0.0.1"]


async def test_only_what_is_asked_for_is_held(world: World) -> None:
    world.view.put(*(replace(PLAIN, name=ServiceName("shop", f"s{n}")) for n in range(100)))
    assert await world.found("s7.shop.global") == ["241.0.0.1"]
    assert all(".s7." in f".{name}" for name in world.dns.table.names())


async def test_before_the_registry_has_told_anything_no_name_is_denied(world: World) -> None:
    world.told = False
    answer = await world.ask(BASE)
    assert answer.rcode() == dns.rcode.SERVFAIL
    world.view.put(PLAIN)  # a service of the own cluster
    assert await world.found(BASE) == ["241.0.0.1"]
    world.told = True
    assert "not exported" in await world.denied("pay.shop.global")


async def test_what_this_cluster_may_export_and_has_not_read_is_not_denied(world: World) -> None:
    world.unread.add("shop")
    world.view.put(PLAIN)  # of another cluster
    assert await world.found(BASE) == ["241.0.0.1"]
    for name in ("pay.shop.global", f"db-0.east.{BASE}", f"_other._tcp.{BASE}"):
        assert (await world.ask(name)).rcode() == dns.rcode.SERVFAIL
    assert "not exported" in await world.denied("pay.lab.global")
    world.unread.clear()
    assert "not exported" in await world.denied("pay.shop.global")


async def test_a_headless_service_follows_its_endpoints(world: World) -> None:
    world.view.put(HEADLESS)
    assert await world.found(BASE) == ["10.0.0.1"]
    assert await world.found(f"10-0-0-1.east.{BASE}") == ["10.0.0.1"]
    world.view.put(replace(HEADLESS, backends=(backend("east", 1, "10.0.0.2"),)))
    assert await world.found(BASE) == ["10.0.0.2"]
    assert "no such endpoint" in await world.denied(f"10-0-0-1.east.{BASE}")
    world.view.put(replace(HEADLESS, backends=(backend("east", 0),)))
    assert await world.denied(BASE) == "shop/echo has nothing ready"
    assert '"shop/echo has nothing ready"' in await world.found(f"_why.{BASE}", "TXT")


async def test_a_headless_service_on_another_network_has_no_name_and_says_why(world: World) -> None:
    world.view.put(replace(HEADLESS, backends=(backend("west", 2),)))
    assert "no address here" in await world.denied(BASE)
    assert f'"{APART}"' in await world.found(f"_why.{BASE}", "TXT")
    assert f'"{APART}"' in await world.found("_why.echo.shop.west.global", "TXT")


async def test_a_pinned_name_needs_endpoints_that_are_reached_directly(world: World) -> None:
    world.view.put(PLAIN)
    assert "no address here" in await world.denied("echo.shop.west.global")
    assert f'"{PINNED}"' in await world.found("_why.echo.shop.west.global", "TXT")
    assert "no linked cluster is called nowhere" in await world.denied("echo.shop.nowhere.global")
    world.view.put(replace(HEADLESS, backends=(backend("east", 1, "10.0.0.1"), backend("west", 1, "10.1.0.1"))))
    assert await world.found("echo.shop.west.global") == ["10.1.0.1"]
    assert await world.found("echo.shop.global") == ["10.0.0.1", "10.1.0.1"]


async def test_without_a_clustersetip_the_name_has_no_address_yet(world: World) -> None:
    world.view.put(replace(PLAIN, ips=()))
    answer = await world.ask(BASE)
    assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
    assert f'"{PENDING}"' in await world.found(f"_why.{BASE}", "TXT")
    world.view.put(PLAIN)
    assert await world.found(BASE) == ["241.0.0.1"]


async def test_services_of_a_namespace_that_is_missing_here_are_not_imported(world: World) -> None:
    world.view.put(PLAIN)
    world.missing.add("shop")
    assert await world.denied(BASE) == "this cluster has no namespace shop"
    world.missing.clear()
    world.dns.namespaces_changed({"shop"})
    assert await world.found(BASE) == ["241.0.0.1"]
    world.missing.add("shop")
    world.dns.namespaces_changed({"shop", "other"})
    assert await world.denied(BASE) == "this cluster has no namespace shop"
    world.view.put(replace(PLAIN, ips=("241.0.0.2",)))
    assert await world.denied(BASE) == "this cluster has no namespace shop"


async def test_a_record_that_cannot_be_harms_no_other(world: World) -> None:
    world.view.put(replace(PLAIN, ips=("no address",)), replace(PLAIN, name=ServiceName("shop", "good")))
    assert await world.found(f"_http._tcp.{BASE}", "SRV")
    assert await world.found("good.shop.global") == ["241.0.0.1"]
    assert await world.found(BASE) == []
    world.view.put(PLAIN)
    assert await world.found(BASE) == ["241.0.0.1"]


async def test_other_zones_are_refused(world: World) -> None:
    for name in ("kubernetes.default.svc.cluster.local", "example.com"):
        assert (await world.ask(name)).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("imp", [PLAIN, HEADLESS, replace(PLAIN, ips=()), replace(HEADLESS, backends=())])
def test_no_name_of_one_clusters_part_of_a_service(imp: Import) -> None:
    found: Any = records(imp, suffix="global")
    assert not {f"east.{BASE}", f"west.{BASE}"} & found.keys()
