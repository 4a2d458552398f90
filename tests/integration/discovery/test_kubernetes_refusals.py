"""What real API servers do not let an agent write, or not yet: rules, names, versions, addresses, other writers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import yaml

from discovery.kube import crds
from discovery.kube.settings import KubernetesSettings
from discovery.mcs.desired import derived_name
from federation.aio.tasks import cancel
from federation.errors import IsthmusError, NotFound
from federation.model.ids import ServiceName

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
RBAC = "rbac.authorization.k8s.io/v1"
ALL = ["get", "list", "watch", "create", "patch", "update", "delete"]
SLICES = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ALL}
RULES = [
    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["services", "configmaps"], "verbs": ALL},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ALL},
    {"apiGroups": ["about.k8s.io"], "resources": ["clusterproperties"], "verbs": ALL},
    {
        "apiGroups": ["multicluster.x-k8s.io"],
        "resources": ["serviceimports", "serviceimports/status", "serviceexports", "serviceexports/status"],
        "verbs": ALL,
    },
]


@pytest.fixture
async def restricted(kube_clusters: Any, kube_namespace: str) -> AsyncIterator[Callable[[list[Any]], Awaitable[None]]]:
    """Gives the user "limited" of west a role with these rules."""
    west, name = kube_clusters[1], f"limited-{kube_namespace}"

    async def give(rules: list[Any]) -> None:
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        subject = {"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
        async with west.connect() as client:
            await client.apply(
                {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
                {
                    "apiVersion": RBAC,
                    "kind": "ClusterRoleBinding",
                    "metadata": {"name": name},
                    "roleRef": ref,
                    "subjects": [subject],
                },
            )

    yield give
    async with west.connect() as client:
        for kind in ("ClusterRoleBinding", "ClusterRole"):
            with contextlib.suppress(NotFound):
                await client.delete(RBAC, kind, name)


async def test_a_rule_that_is_missing_is_named_once_and_its_grant_is_noticed(
    sides: Any, kube_clusters: Any, restricted: Any, until: Until
) -> None:
    east, west = sides["east"], sides["west"]
    await restricted(RULES)
    await west.running.stop()
    kubeconfig = str(kube_clusters[1].kubeconfig_for(f"limited-{west.namespace}"))
    west.settings = KubernetesSettings(kubeconfig=kubeconfig, confirm=0.2, namespace=west.namespace)
    await west.start()
    for name in ("one", "two", "three"):
        await east.service(name)
        await east.export(name)

    def forbidden() -> list[Any]:
        return [p for p in west.running.agent.problems.all() if p.code == "kube_forbidden"]

    await until(forbidden)
    for name in ("one", "two", "three"):
        await until(lambda name=name: west.imported(name))  # what is allowed is written
    (problem,) = forbidden()
    assert 'resources: ["endpointslices"], verbs: ["create"]' in problem.detail
    await restricted([*RULES, SLICES])
    for name in ("one", "two", "three"):
        await until(lambda name=name: west.slices(name))
        await until(lambda name=name: west.ready(name))
    await until(lambda: not forbidden())


async def test_namespaces_are_created_where_that_is_wanted(
    sides: Any, kube_clusters: Any, kube_remove: Any, until: Until
) -> None:
    east, west = sides["east"], sides["west"]
    name = f"{east.namespace}-made"
    await west.running.stop()
    west.settings = KubernetesSettings(
        kubeconfig=west.settings.kubeconfig, confirm=0.2, namespace=west.namespace, create_namespaces=True
    )
    await west.start()
    await east.client.create_namespace(name)
    try:
        await east.service(namespace=name)
        await east.export(namespace=name)
        await until(lambda: west.imported(namespace=name))
        made = await west.client.get("v1", "Namespace", name)
        assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "isthmus"
    finally:
        await west.running.stop()  # it would create it again
        await asyncio.gather(*(kube_remove(cluster, name) for cluster in kube_clusters))


async def test_an_address_that_somebody_took_meanwhile(sides: Any, until: Until) -> None:
    """The agent is away, its derived Service is deleted, and another Service gets the address."""
    east = sides["east"]
    await east.service()
    await east.export()
    found = await until(east.ready)
    (taken, *_) = found["spec"]["ips"]
    await east.running.stop()
    await east.client.delete("v1", "Service", east.derived_name(), east.namespace)
    other = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "thief", "namespace": east.namespace},
        "spec": {"clusterIP": taken, "ports": [{"port": 80}]},
    }

    async def thief() -> bool:
        with contextlib.suppress(IsthmusError):  # its release takes a moment
            await east.client.create(other)
            return True
        return False

    await until(thief)
    await east.start()

    async def another() -> bool:
        imported, service = await east.ready(), await east.derived()
        return bool(
            imported
            and service
            and imported["spec"]["ips"] == service["spec"]["clusterIPs"]
            and taken not in imported["spec"]["ips"]
        )

    await until(another)
    assert list(east.running.seen(f"{east.namespace}/echo").ips) == (await east.imported())["spec"]["ips"]


async def test_names_of_all_lengths(sides: Any, until: Until) -> None:
    east, west = sides["east"], sides["west"]
    names = ["a", "b" * 62, "c" * 63]
    for name in names:
        await east.service(name)
        await east.export(name)
    for name in names:
        await until(lambda name=name: west.ready(name))
        await until(lambda name=name: west.slices(name))
        assert len(derived_name(ServiceName(west.namespace, name))) <= 63
        assert await until(lambda name=name: east.export_condition("Ready", name)) == ("True", "Exported")


async def test_somebody_who_edits_again_and_again_is_named_and_not_outrun(sides: Any, until: Until) -> None:
    east = sides["east"]
    await east.service()
    await east.export()
    await until(east.ready)
    await until(east.slices)
    edits = 0

    async def edit() -> None:
        nonlocal edits
        while True:
            with contextlib.suppress(IsthmusError):
                await east.client.patch(
                    "multicluster.x-k8s.io/v1beta1",
                    "ServiceImport",
                    "echo",
                    east.namespace,
                    merge={"spec": {"ips": [f"192.0.2.{edits % 200 + 1}"]}},
                )
            edits += 1
            await asyncio.sleep(0.02)

    editing = asyncio.create_task(edit(), name="edits")
    try:
        await until(lambda: "import_contested" in east.running.codes())
        wrote, before = east.running.agent.writer.applier.writes, edits
        await until(lambda: edits > before + 60)
        assert east.running.agent.writer.applier.writes - wrote < (edits - before) // 2
    finally:
        await cancel(editing)
    (ip, *_) = (await east.derived())["spec"]["clusterIPs"]

    async def repaired() -> bool:
        return bool(((await east.imported())["spec"]["ips"] or [""])[0] == ip)

    await until(repaired)
    await until(lambda: "import_contested" not in east.running.codes())


async def test_an_api_server_that_was_away_is_caught_up_with(sides: Any, kube_clusters: Any, until: Until) -> None:
    """What changed meanwhile is written; what did not is not touched, and nothing is deleted on the way."""
    east, west = sides["east"], sides["west"]
    for name in ("stays", "goes", "changes"):
        await east.service(name)
        await east.export(name)
        await until(lambda name=name: west.ready(name))
        await until(lambda name=name: west.slices(name))
    await until(lambda: west.running.agent.writer.idle)
    before = {name: await west.imported(name) for name in ("stays", "changes")}
    slices = await west.slices("stays")
    kube_clusters[1].kill()
    await east.unexport("goes")
    await east.export("changes", exportedLabels={"new": "1"})
    await east.service("comes")
    await east.export("comes")

    def seen(name: str) -> Any:
        return west.running.seen(f"{west.namespace}/{name}")

    await until(lambda: seen("comes") and seen("goes") is None and seen("changes").labels)
    await kube_clusters[1].heal()
    await until(lambda: west.ready("comes"))

    async def gone() -> bool:
        return not (await west.imported("goes") or await west.derived("goes"))

    async def changed() -> bool:
        return (await west.imported("changes"))["metadata"]["labels"].get("new") == "1"

    await until(gone)
    await until(changed)
    after = {name: await west.imported(name) for name in ("stays", "changes")}
    assert after["stays"]["metadata"]["resourceVersion"] == before["stays"]["metadata"]["resourceVersion"]
    assert after["changes"]["metadata"]["uid"] == before["changes"]["metadata"]["uid"]
    assert await west.slices("stays") == slices


async def test_crds_that_come_later_and_only_in_the_old_version(
    start_kube: Any, federation: Any, until: Until, side: Any, connect: Any, gateway: Any
) -> None:
    (cluster,) = await start_kube("east", install=())
    running = await federation.cluster("east", start=False)
    async with cluster.connect() as client:
        await client.create_namespace("shop")
        settings = KubernetesSettings(kubeconfig=str(cluster.kubeconfig), confirm=0.2, namespace="shop")
        one = side(running, client, "shop", settings)
        await one.start()
        async with connect(running, "isthmus-system/gateway", presence=gateway("10.1.0.1")):
            await until(lambda: {"crds_missing", "kube_not_found"} & running.codes())
            await one.service()
            await client.install_crds(*map(_old, crds.manifests()))
            mcs = "multicluster.x-k8s.io/v1alpha1"
            await client.apply(
                {"apiVersion": mcs, "kind": "ServiceExport", "metadata": {"name": "echo", "namespace": "shop"}}
            )

            async def ready() -> Any:
                with contextlib.suppress(NotFound):
                    found = await client.get(mcs, "ServiceImport", "echo", "shop")
                    conditions = {c["type"]: c for c in found.get("status", {}).get("conditions", ())}
                    return found if conditions.get("Ready", {}).get("status") == "True" else {}
                return {}

            found = await until(ready)
            service = await one.derived()
            assert found["spec"]["ips"] == service["spec"]["clusterIPs"]
            (owner,) = service["metadata"]["ownerReferences"]
            assert (owner["apiVersion"], owner["uid"]) == (mcs, found["metadata"]["uid"])
            await until(lambda: not {"crds_missing", "kube_not_found"} & running.codes())
        await running.stop()


def _old(text: str) -> dict[str, Any]:
    """The definition as a cluster has it that knows only v1alpha1."""
    found: dict[str, Any] = yaml.safe_load(text)
    versions = found["spec"]["versions"]
    if found["spec"]["group"] == "multicluster.x-k8s.io":
        schema = next(v for v in versions if "schema" in v)
        found["spec"]["versions"] = [{**schema, "name": "v1alpha1", "served": True, "storage": True}]
    return found
