"""What agents write into real API servers: ServiceImports, derived Services, EndpointSlices, conditions."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from federation.model.record import Kind

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
MCS = "multicluster.x-k8s.io/v1beta1"
SLICES = ("discovery.k8s.io/v1", "EndpointSlice")
SOURCE = "multicluster.kubernetes.io/source-cluster"


def condition(found: dict[str, Any], kind: str) -> dict[str, Any]:
    conditions = found.get("status", {}).get("conditions", ())
    return next((c for c in conditions if c["type"] == kind), {})


async def test_an_export_becomes_an_import_with_all_that_kube_proxy_needs(sides: Any, until: Until) -> None:
    east, west = sides["east"], sides["west"]
    await east.service(sessionAffinity="ClientIP", internalTrafficPolicy="Cluster", trafficDistribution="PreferClose")
    await east.export(exportedLabels={"tier": "front"}, exportedAnnotations={"note": "hello"})
    for side in (west, east):  # the exporting cluster imports, too
        found = await until(side.ready)
        spec, service = found["spec"], await side.derived()
        assert spec["type"] == "ClusterSetIP"
        assert spec["ports"] == [{"name": "http", "port": 80, "protocol": "TCP"}]
        assert spec["ips"] == service["spec"]["clusterIPs"]
        assert spec["ipFamilies"] == service["spec"]["ipFamilies"]
        assert (spec["sessionAffinity"], service["spec"]["sessionAffinity"]) == ("ClientIP", "ClientIP")
        assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
        assert spec["internalTrafficPolicy"] == "Cluster"
        assert spec["trafficDistribution"] == "PreferClose"
        assert found["metadata"]["labels"]["tier"] == "front"
        assert found["metadata"]["annotations"]["note"] == "hello"
        assert found["status"]["clusters"] == [{"cluster": "east"}]
        assert "selector" not in service["spec"]
        (owner,) = service["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("ServiceImport", found["metadata"]["uid"])
        slices = await until(side.slices)
        assert slices.keys() == {"east"}
        one = slices["east"]
        number = 1 if side is east else 2
        assert [e["addresses"] for e in one["endpoints"]] == [[f"10.1.0.{number}"]]
        assert one["metadata"]["labels"]["kubernetes.io/service-name"] == side.derived_name()
        target = service["spec"]["ports"][0]["targetPort"]
        assert [p["port"] for p in one["ports"]] == [target]
        seen = side.running.seen(f"{side.namespace}/echo")
        assert (list(seen.ips), seen.gateway_ports) == (spec["ips"], {80: target})
        # the gateway hears of it, so that it listens at that port
        await until(lambda side=side: f"{side.namespace}/echo" in {n for n in side.edge.names(Kind.IMPORT)})

    await until(lambda: east.export_condition("Ready"))
    assert await east.export_condition("Valid") == ("True", "Valid")
    assert await east.export_condition("Ready") == ("True", "Exported")
    assert await east.export_condition("Conflict") == ("False", "NoConflicts")

    await east.unexport()
    for side in (west, east):
        await until(lambda side=side: _gone(side))


async def _gone(side: Any) -> bool:
    return not (await side.imported() or await side.derived() or await side.slices())


async def test_two_exporters_and_their_conflict(sides: Any, until: Until) -> None:
    east, west = sides["east"], sides["west"]
    await east.service()
    await east.export(exportedLabels={"a": "1"})
    await until(east.ready)
    # creationTimestamp counts seconds, and the older one is to win.
    created = dt.datetime.fromisoformat((await east.get("ServiceExport"))["metadata"]["creationTimestamp"])
    await until(lambda: dt.datetime.now(dt.UTC) >= created + dt.timedelta(seconds=1))
    await west.service(ready=0, ports=[{"name": "http", "port": 81, "protocol": "TCP", "targetPort": 8080}])
    await west.export(exportedLabels={"a": "2"})
    for side in (east, west):
        await until(lambda side=side: _is(side.export_condition("Conflict"), ("True", "LabelsConflict,PortConflict")))
        found = await side.imported()
        assert found["metadata"]["labels"]["a"] == "1"
        assert [p["port"] for p in found["spec"]["ports"]] == [80]
        assert found["status"]["clusters"] == [{"cluster": "east"}, {"cluster": "west"}]
    since = condition(await east.get("ServiceExport"), "Valid")["lastTransitionTime"]
    await west.unexport()
    await until(lambda: _is(east.export_condition("Conflict"), ("False", "NoConflicts")))
    assert condition(await east.get("ServiceExport"), "Valid")["lastTransitionTime"] == since
    await until(lambda: _is_clusters(west, ["east"]))


async def _is(found: Awaitable[Any], wanted: Any) -> bool:
    return await found == wanted


async def _is_clusters(side: Any, wanted: list[str]) -> bool:
    found = await side.imported()
    return [c["cluster"] for c in found.get("status", {}).get("clusters", ())] == wanted


@pytest.mark.parametrize(
    ("spec", "reason"),
    [({}, "NoService"), ({"type": "ExternalName", "externalName": "example.org", "ports": []}, "InvalidServiceType")],
)
async def test_exports_that_are_not_valid(sides: Any, until: Until, spec: dict[str, Any], reason: str) -> None:
    east = sides["east"]
    if spec:
        await east.client.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "echo", "namespace": east.namespace},
                "spec": spec,
            }
        )
    await east.export()
    await until(lambda: _is(east.export_condition("Valid"), ("False", reason)))
    assert await east.export_condition("Ready") == ("False", "Failed")
    assert not await east.imported()
    if not spec:
        await east.service()
        await until(lambda: _is(east.export_condition("Valid"), ("True", "Valid")))
        await until(lambda: _is(east.export_condition("Ready"), ("True", "Exported")))
        assert condition(await east.get("ServiceExport"), "Valid")["observedGeneration"] == 1


async def test_a_headless_service(sides: Any, until: Until) -> None:
    east, west = sides["east"], sides["west"]
    await east.service(ready=2, clusterIP="None")
    await east.export()
    found = await until(west.ready)
    assert found["spec"]["type"] == "Headless"
    assert not found["spec"].get("ips")
    await until(east.ready)
    slices = await until(east.slices)
    assert [e["hostname"] for e in slices["east"]["endpoints"]] == ["echo-0", "echo-1"]
    assert not await east.derived()


EDITS: list[tuple[str, dict[str, Any]]] = [
    ("ServiceImport", {"spec": {"ports": [{"port": 9, "protocol": "TCP"}]}}),
    ("ServiceImport", {"spec": {"trafficDistribution": "PreferClose"}}),
    ("ServiceImport", {"spec": {"ips": ["192.0.2.1"]}}),
    ("ServiceImport", {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}),
    ("Service", {"spec": {"selector": {"app": "mine"}}}),
    ("Service", {"spec": {"ports": [{"name": "other", "port": 99}]}}),
    ("Service", {"spec": {"sessionAffinity": "ClientIP"}}),
    ("Service", {"metadata": {"ownerReferences": None}}),
    ("EndpointSlice", {"endpoints": []}),
    ("EndpointSlice", {"metadata": {"labels": {SOURCE: "nowhere"}}}),
]


async def test_what_is_edited_by_hand_is_repaired(sides: Any, until: Until) -> None:
    east = sides["east"]
    await east.service()
    await east.export()
    await until(east.ready)
    await until(east.slices)

    async def state() -> Any:
        imported, service, slices = await east.imported(), await east.derived(), await east.slices()
        one = slices.get("east", {})
        return (
            imported.get("spec"),
            imported.get("metadata", {}).get("labels"),
            service.get("spec"),
            [o["uid"] for o in service.get("metadata", {}).get("ownerReferences", ())],
            one.get("endpoints"),
            one.get("metadata", {}).get("labels"),
            sorted(slices),
        )

    await until(lambda: _quiet(east, state))
    before = await state()
    name = {
        "ServiceImport": "echo",
        "Service": east.derived_name(),
        "EndpointSlice": f"{east.derived_name()}-east-ipv4",
    }
    for kind, change in EDITS:
        version = {"Service": "v1", "EndpointSlice": SLICES[0]}.get(kind, MCS)
        await east.client.patch(version, kind, name[kind], east.namespace, merge=change)
        await until(lambda: _is(state(), before))


async def _quiet(side: Any, state: Any) -> bool:
    """Nothing is written any more: what is there is what is wanted."""
    return bool(side.running.agent.writer.idle and all(await state()))


async def test_what_is_deleted_by_hand_comes_back_at_its_address(sides: Any, until: Until) -> None:
    east = sides["east"]
    await east.service()
    await east.export()
    found = await until(east.ready)
    await until(east.slices)
    ips = found["spec"]["ips"]
    for kind, version, name in (
        ("Service", "v1", east.derived_name()),
        ("EndpointSlice", SLICES[0], f"{east.derived_name()}-east-ipv4"),
        ("ServiceImport", MCS, "echo"),
    ):
        uid = (await east.get(kind, name))["metadata"]["uid"]
        await east.client.delete(version, kind, name, east.namespace)
        await until(lambda kind=kind, name=name, uid=uid: _another(east, kind, name, uid))
        await until(east.slices)
        await until(lambda: _has_ips(east, ips))


async def _another(side: Any, kind: str, name: str, uid: str) -> bool:
    found = await side.get(kind, name)
    return bool(found) and found["metadata"]["uid"] != uid


async def _has_ips(side: Any, ips: list[str]) -> bool:
    found, service = await side.ready(), await side.derived()
    return bool(found and service) and found["spec"]["ips"] == service["spec"]["clusterIPs"] == ips


async def test_a_foreign_serviceimport_is_left_alone(sides: Any, until: Until) -> None:
    east, west = sides["east"], sides["west"]
    foreign = {
        "apiVersion": MCS,
        "kind": "ServiceImport",
        "metadata": {"name": "echo", "namespace": west.namespace},
        "spec": {"type": "ClusterSetIP", "ports": [{"port": 1}]},
    }
    (before,) = await west.client.apply(foreign)
    await east.service()
    await east.export()
    await until(east.ready)
    await until(lambda: "import_not_ours" in west.running.codes())
    assert (await west.imported())["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert not await west.derived()
    await west.client.delete(MCS, "ServiceImport", "echo", west.namespace)
    await until(west.ready)
    await until(lambda: "import_not_ours" not in west.running.codes())


async def test_namespaces(sides: Any, kube_clusters: Any, kube_remove: Any, until: Until) -> None:
    """A service is imported where its namespace is: at once when that comes, and nothing fails loudly when it goes."""
    east, west = sides["east"], sides["west"]
    name = f"{east.namespace}-more"
    await east.client.create_namespace(name)
    try:
        await east.service(namespace=name)
        await east.export(namespace=name)
        await until(lambda: east.imported(namespace=name))
        await until(lambda: west.running.seen(f"{name}/echo"))
        assert not await west.imported(namespace=name)
        await west.client.create_namespace(name)
        await until(lambda: west.imported(namespace=name))
        await west.client.delete("v1", "Namespace", name)
        await west.client.gone("v1", "Namespace", name)
        assert not {c for c in west.running.codes() if c.startswith("kube_")}
        await west.client.create_namespace(name)
        await until(lambda: west.imported(namespace=name))
    finally:
        await asyncio.gather(*(kube_remove(cluster, name) for cluster in kube_clusters))


async def test_an_unlinked_cluster_takes_its_imports_along(sides: Any, federation: Any, until: Until) -> None:
    east, west = sides["east"], sides["west"]
    await east.service()
    await east.export()
    await until(west.ready)
    await federation.unlink("east", "west")
    await until(lambda: _gone(west))
    assert await east.imported()


async def test_an_agent_that_begins_anew_deletes_nothing(sides: Any, federation: Any, until: Until) -> None:
    """Neither with its registry away nor without a memory, before it knows what the others export."""
    east, west = sides["east"], sides["west"]
    await east.service()
    await east.export()
    found = await until(west.ready)
    uid, port = found["metadata"]["uid"], (await west.derived())["spec"]["ports"][0]["targetPort"]
    await west.running.stop()
    await east.running.stop()
    for name in ("registry.view", "allocations.state"):
        (west.running.state / name).unlink(missing_ok=True)
    await west.start()
    await until(lambda: west.running.agent.writer.begun)
    # east has not reported to the registry since; what it exports may be old, and yet it stays
    again = await west.imported()
    assert again["metadata"]["uid"] == uid
    await east.start()
    await until(west.ready)
    assert (await west.imported())["metadata"]["uid"] == uid
    assert (await west.derived())["spec"]["ports"][0]["targetPort"] == port
    assert west.running.seen(f"{west.namespace}/echo").gateway_ports == {80: port}


async def test_gateways_that_come_and_go(sides: Any, connect: Any, until: Until, gateway: Any) -> None:
    east = sides["east"]
    await east.service()
    await east.export()
    await until(east.slices)
    async with connect(east.running, "isthmus-system/gateway", presence=gateway("10.1.0.9", name="gw-2")):
        await until(lambda: _addresses(east, ["10.1.0.1", "10.1.0.9"]))
    await until(lambda: _addresses(east, ["10.1.0.1"]))
    await east.service(ready=0)
    await until(lambda: _addresses(east, []))


async def _addresses(side: Any, wanted: list[str]) -> bool:
    found = (await side.slices()).get("east", {})
    return [e["addresses"][0] for e in found.get("endpoints") or ()] == wanted
