"""Two clusters with API servers of their own, federated: what one exports is called from the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from clusters import manifests
from clusters.ground import ApiServers
from clusters.processes import HTTP_PORT, NAMESPACE, ProcessFederation
from clusters.waiting import until
from federation.errors import NotFound

pytestmark = pytest.mark.e2e

MCS = "multicluster.x-k8s.io/v1beta1"


@pytest.fixture(scope="module")
def federation(kube_federation: ProcessFederation) -> ProcessFederation:
    return kube_federation


Get = Callable[..., Awaitable[Any]]


@pytest.fixture
def get(running: ProcessFederation) -> Get:
    """An object of a cluster as it is; None where there is none."""
    assert isinstance(running.ground, ApiServers)
    clusters = running.ground.clusters

    async def get(cluster: str, version: str, kind: str, name: str) -> Any:
        async with clusters[cluster].connect() as client:
            try:
                return await client.get(version, kind, name, NAMESPACE)
            except NotFound:
                return None

    return get


async def test_a_service_of_one_cluster_is_called_by_its_global_name_from_the_other(
    running: ProcessFederation, east: Any, get: Get
):
    """1. export `only` in west  2. east has its ServiceImport  3. and calls it  4. it ends with its export."""
    west = running.places["west"]
    copy = manifests.Copy(address=west.address, port=west.http_port, zone=west.spec.locality.zone)
    documents = manifests.exported(NAMESPACE, "only", port=HTTP_PORT, app="http", copy=copy)
    await running.ground.write("west", *documents)
    imported = await until(lambda: get("east", MCS, "ServiceImport", "only"), what="the ServiceImport")
    assert imported["spec"]["type"] == "ClusterSetIP"
    await until(lambda: asyncio.to_thread(answered, east, "only.shop.global", "west"), what="an answer of west")
    found = await until(lambda: with_ips(get), what="the ClusterSetIP")
    assert [c["cluster"] for c in found["status"]["clusters"]] == ["west"]
    await until(lambda: ready(get), what="the export's condition Ready")


async def ready(get: Get) -> bool:
    """Written apart from the import, once the registry has acknowledged the export."""
    export = await get("west", MCS, "ServiceExport", "only")
    found = {c["type"]: c["status"] for c in export.get("status", {}).get("conditions", ())}
    return found.get("Ready") == "True"


async def with_ips(get: Get) -> Any:
    found = await get("east", MCS, "ServiceImport", "only")
    return found if found["spec"].get("ips") and found.get("status", {}).get("clusters") else None


def answered(caller: Any, name: str, cluster: str) -> bool:
    return caller.answers(name) == cluster


def test_checks_and_verifies_whole_and_calls_as_pods_do(running: ProcessFederation, fedctl: Any, eventually: Any):
    """Imports are written here: the agents call them through their own gateways, and ask their own DNS for them."""

    def whole() -> Any:
        done = fedctl("verify", "-o", "json")
        return done if done.status == 0 else None

    made = {(c["service"], c["from"], c["to"]): c for c in eventually(whole, what="every answer").json["calls"]}
    for source, target in (("east", "west"), ("west", "east")):
        for service in ("shop/echo", "shop/kv"):
            assert (made[service, source, target]["state"], made[service, source, target]["answered_by"]) == (
                "ok",
                [target],
            )
            through = made[service, source, "any"]
            assert (through["state"], through["way"]) == ("ok", "egress"), through
            assert set(through["answered_by"]) == {"east", "west"}  # the nearest; nothing in an answer says which
        assert made["shop/echo", source, "any"]["status"] == 200
    done = fedctl("check", "-o", "json")
    found = {(f["code"], f["subject"]): f for f in done.json["findings"]}
    assert done.status == 0, done.out
    for name in ("east", "west"):
        assert found["dns", name]["level"] == found["addresses", name]["level"] == "ok"
        assert "echo.shop.global is " in found["dns", name]["detail"]
        assert found["leader", name]["level"] == "ok"
