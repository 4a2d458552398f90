"""Agents on loopback: what workloads without a sidecar are answered, and what a flat network adds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from discovery.settings import ClusterDnsSettings

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
DNS = ClusterDnsSettings(listen="127.0.0.1:0")
BASE = "db.shop.svc.clusterset.local"


def headless(*addresses: str, consumers: str = "", ready: bool = True) -> str:
    note = f", annotations: {{isthmus.io/consumers: '{consumers}'}}" if consumers else ""
    text = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\n"
        "spec:\n  clusterIP: None\n  ports:\n  - {name: sql, port: 5432}\n---\n"
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: db-1\n"
        "  namespace: shop\n  labels: {kubernetes.io/service-name: db}\naddressType: IPv4\n"
        "ports:\n- {name: sql, port: 5432}\nendpoints:\n"
    )
    text += "".join(
        f"- {{addresses: [{a}], hostname: db-{n}, conditions: {{ready: {str(ready).lower()}}}}}\n"
        for n, a in enumerate(addresses)
    )
    return text + (
        "---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n"
        f"metadata: {{name: db, namespace: shop{note}}}\n"
    )


async def ask(running: Any, name: str, rtype: str = "A") -> dns.message.Message:
    query = dns.message.make_query(name, rtype, use_edns=0)
    answer, _ = await dns.asyncquery.udp_with_fallback(query, "127.0.0.1", port=running.agent.dns.port, timeout=30)
    return answer


async def found(running: Any, name: str, rtype: str = "A") -> list[str]:
    return sorted(str(r) for rrset in (await ask(running, name, rtype)).answer for r in rrset)


async def start(federation: Any, **networks: str) -> list[Any]:
    running = [await federation.cluster(name, network=network, dns=DNS) for name, network in networks.items()]
    for i, a in enumerate(sorted(networks)):
        for b in sorted(networks)[i + 1 :]:
            await federation.link(a, b)
    return running


async def test_headless_endpoints_reach_the_clusters_on_the_same_network_only(federation: Any, until: Until) -> None:
    east, west, edge = await start(federation, east="flat", west="flat", edge="other")
    west.write("db.yaml", headless("10.1.0.1", "10.1.0.2"))
    await until(lambda: east.clusters("shop/db") == edge.clusters("shop/db") == {"west": 2})
    await until(lambda: found_is(east, BASE, ["10.1.0.1", "10.1.0.2"]))
    assert await found(east, f"db-1.west.{BASE}") == ["10.1.0.2"]
    assert await found(east, f"_sql._tcp.{BASE}", "SRV") == [f"0 50 5432 db-{n}.west.{BASE}." for n in (0, 1)]
    assert (await ask(edge, BASE)).rcode() == dns.rcode.NXDOMAIN
    assert any("on another network" in text for text in await found(edge, f"_why.{BASE}", "TXT"))

    west.write("db.yaml", headless("10.1.0.3"))
    await until(lambda: found_is(east, BASE, ["10.1.0.3"]))
    east.write("db.yaml", headless("10.0.0.1"))
    await until(lambda: found_is(east, BASE, ["10.0.0.1", "10.1.0.3"]))
    await until(lambda: found_is(west, BASE, ["10.0.0.1", "10.1.0.3"]))
    west.write("db.yaml", headless("10.1.0.3", ready=False))
    await until(lambda: found_is(east, BASE, ["10.0.0.1"]))
    (east.folder / "db.yaml").write_text("# gone\n")
    await until(lambda: is_denied(east, BASE))


async def test_who_is_not_granted_a_service_does_not_learn_where_it_is(federation: Any, until: Until) -> None:
    east, west, edge = await start(federation, east="flat", west="flat", edge="flat")
    west.write("db.yaml", headless("10.1.0.1", consumers="edge"))
    await until(lambda: found_is(edge, BASE, ["10.1.0.1"]))
    assert not east.agent.view.neighbours["west"].endpoints
    west.write("db.yaml", headless("10.1.0.1", consumers="east"))
    await until(lambda: found_is(east, BASE, ["10.1.0.1"]))
    await until(lambda: is_denied(edge, BASE))
    await until(lambda: not edge.agent.view.neighbours["west"].endpoints)


async def test_endpoints_are_served_while_registry_and_origin_are_away(federation: Any, until: Until) -> None:
    east, west = await start(federation, east="flat", west="flat")
    west.write("db.yaml", headless("10.1.0.1"))
    await until(lambda: found_is(east, BASE, ["10.1.0.1"]))
    await west.stop()
    await federation.stop_registry()
    await east.stop()
    await east.start(network="flat", dns=DNS)
    assert await found(east, BASE) == ["10.1.0.1"]
    await federation.start_registry()
    await until(lambda: east.agent.watch.connected)
    assert await found(east, BASE) == ["10.1.0.1"]
    await west.start(network="flat", dns=DNS)
    west.write("db.yaml", headless("10.1.0.2"))
    await until(lambda: found_is(east, BASE, ["10.1.0.2"]))


async def test_a_cluster_that_leaves_the_network_is_no_longer_reached_there(federation: Any, until: Until) -> None:
    east, west = await start(federation, east="flat", west="flat")
    west.write("db.yaml", headless("10.1.0.1"))
    await until(lambda: found_is(east, BASE, ["10.1.0.1"]))
    await west.stop()
    await west.start(network="", dns=DNS)
    await until(lambda: is_denied(east, BASE))
    assert east.clusters("shop/db") == {"west": 1}


async def test_an_agent_that_knows_nothing_yet_denies_no_name(federation: Any, until: Until) -> None:
    east = await federation.cluster("east", start=False)
    await federation.stop_registry()
    await east.start(dns=DNS)
    assert (await ask(east, BASE)).rcode() == dns.rcode.SERVFAIL
    await federation.start_registry()
    await until(lambda: is_denied(east, BASE))


async def found_is(running: Any, name: str, expected: list[str]) -> bool:
    return await found(running, name) == expected


async def is_denied(running: Any, name: str) -> bool:
    return (await ask(running, name)).rcode() == dns.rcode.NXDOMAIN
