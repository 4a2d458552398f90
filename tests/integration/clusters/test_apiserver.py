"""Two real API servers: apart from each other, guarded by RBAC, with their controllers, and broken part by part."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from clusters.apiserver import LocalCluster
from clusters.kubeclient import Gone, KubeClient
from federation.errors import AlreadyExists, Conflict, Denied, InvalidInput, NotFound, TimedOut, Unavailable

pytestmark = pytest.mark.integration

Pair = tuple[LocalCluster, LocalCluster]
V1BETA1, V1ALPHA1 = "multicluster.x-k8s.io/v1beta1", "multicluster.x-k8s.io/v1alpha1"


def service(namespace: str, name: str, **spec: object) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"name": "http", "port": 80}], **spec},
    }


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


class TestClusters:
    async def test_what_is_made_in_one_is_not_in_the_other(self, kube_clusters: Pair, kube_namespace: str) -> None:
        east, west = kube_clusters
        async with east.connect() as here, west.connect() as there:
            await here.create(service(kube_namespace, "echo"))
            assert (await here.get("v1", "Service", "echo", kube_namespace))["spec"]["ports"][0]["port"] == 80
            with pytest.raises(NotFound):
                await there.get("v1", "Service", "echo", kube_namespace)

    async def test_neither_trusts_the_others_users(self, kube_clusters: Pair) -> None:
        east, west = kube_clusters
        mixed = west.kubeconfig_at(west.place.api_port)
        text = mixed.read_text().replace(west.place.server, east.place.server)
        mixed.write_text(text)
        async with west.connect(mixed) as client:
            with pytest.raises(Unavailable, match="certificate"):
                await client.list("v1", "Namespace")

    async def test_each_has_its_own_service_ranges_of_both_families(
        self, kube_clusters: Pair, kube_namespace: str
    ) -> None:
        seen = set()
        for cluster in kube_clusters:
            async with cluster.connect() as client:
                (made,) = await client.create(service(kube_namespace, "dual", ipFamilyPolicy="RequireDualStack"))
                first, second = made["spec"]["clusterIPs"]
                assert "." in first
                assert ":" in second
                seen |= {".".join(first.split(".")[:2]), second.split("::")[0]}
        assert len(seen) == 4

    async def test_objects_as_text_are_applied_and_changed(self, kube_clusters: Pair, kube_namespace: str) -> None:
        text = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: one, namespace: {kube_namespace}}}
data: {{key: first}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: two, namespace: {kube_namespace}, labels: {{which: second}}}}
"""
        async with kube_clusters[0].connect() as client:
            one, _ = await client.apply(text)
            again, _ = await client.apply(text)
            assert again["metadata"]["resourceVersion"] == one["metadata"]["resourceVersion"]
            with pytest.raises(AlreadyExists):
                await client.create(config_map(kube_namespace, "one"))
            changed = await client.patch("v1", "ConfigMap", "one", kube_namespace, merge={"data": {"key": "second"}})
            assert changed["data"] == {"key": "second"}
            with pytest.raises(Conflict):
                await client.replace({**one, "data": {}})
            found = await client.list("v1", "ConfigMap", kube_namespace, labelSelector="which=second")
            assert [item["metadata"]["name"] for item in found] == ["two"]
            await client.delete("v1", "ConfigMap", "two", kube_namespace)
            await client.gone("v1", "ConfigMap", "two", kube_namespace)


class TestCustomResources:
    async def test_both_versions_are_served_and_mean_the_same(self, kube_clusters: Pair, kube_namespace: str) -> None:
        async with kube_clusters[0].connect() as client:
            spec = {"type": "ClusterSetIP", "ports": [{"port": 80}], "ips": ["240.0.0.1"], "ipFamilies": ["IPv4"]}
            for kind, body in (("ServiceExport", {"exportedLabels": {"a": "b"}}), ("ServiceImport", spec)):
                metadata = {"name": "echo", "namespace": kube_namespace}
                await client.create({"apiVersion": V1ALPHA1, "kind": kind, "metadata": metadata, "spec": body})
                assert (await client.get(V1BETA1, kind, "echo", kube_namespace))["spec"] == body

    async def test_the_schema_is_enforced(self, kube_clusters: Pair, kube_namespace: str) -> None:
        bad = {
            "apiVersion": V1BETA1,
            "kind": "ServiceImport",
            "metadata": {"name": "echo", "namespace": kube_namespace},
            "spec": {"type": "Wrong", "ports": []},
        }
        async with kube_clusters[0].connect() as client:
            with pytest.raises(InvalidInput, match="Unsupported value"):
                await client.create(bad)

    async def test_status_is_a_resource_of_its_own(self, kube_clusters: Pair, kube_namespace: str) -> None:
        export = {
            "apiVersion": V1BETA1,
            "kind": "ServiceExport",
            "metadata": {"name": "e", "namespace": kube_namespace},
        }
        condition = {
            "type": "Conflict",
            "status": "True",
            "reason": "PortConflict,TypeConflict",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        async with kube_clusters[0].connect() as client:
            await client.create({**export, "status": {"conditions": [condition]}})
            assert "status" not in await client.get(V1BETA1, "ServiceExport", "e", kube_namespace)
            await client.apply({**export, "status": {"conditions": [condition]}}, subresource="status")
            got = await client.get(V1ALPHA1, "ServiceExport", "e", kube_namespace)
            assert got["status"]["conditions"] == [condition]

    async def test_cluster_properties(self, kube_clusters: Pair) -> None:
        async with kube_clusters[0].connect() as client:
            metadata = {"name": "test.isthmus"}
            for version in ("about.k8s.io/v1beta1", "about.k8s.io/v1alpha1"):
                body = {"apiVersion": version, "kind": "ClusterProperty", "metadata": metadata, "spec": {"value": "x"}}
                await client.apply(body)
                got = await client.get("about.k8s.io/v1beta1", "ClusterProperty", "test.isthmus")
                assert got["spec"] == {"value": "x"}
            await client.delete("about.k8s.io/v1beta1", "ClusterProperty", "test.isthmus")


class TestAuthorization:
    async def test_a_user_may_do_what_a_role_says_and_nothing_else(
        self, kube_clusters: Pair, kube_namespace: str
    ) -> None:
        east, _ = kube_clusters
        async with east.connect() as admin, east.connect(east.kubeconfig_for("jane", "readers")) as jane:
            with pytest.raises(Denied, match="jane"):
                await jane.list("v1", "Service", kube_namespace)
            await admin.apply(*_reader(kube_namespace, {"kind": "Group", "name": "readers"}))
            await admin.until(lambda: _allowed(jane, kube_namespace))
            with pytest.raises(Denied):
                await jane.create(service(kube_namespace, "echo"))
            with pytest.raises(Denied):
                await jane.list("v1", "Service", "default")

    async def test_a_service_account_is_known_by_its_token(self, kube_clusters: Pair, kube_namespace: str) -> None:
        east, west = kube_clusters
        metadata = {"name": "agent", "namespace": kube_namespace}
        async with east.connect() as admin:
            await admin.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
            config = await east.kubeconfig_for_account(kube_namespace, "agent")
            async with east.connect(config) as agent:
                with pytest.raises(Denied, match=f"system:serviceaccount:{kube_namespace}:agent"):
                    await agent.list("v1", "Service", kube_namespace)
                await admin.apply(*_reader(kube_namespace, {"kind": "ServiceAccount", **metadata}))
                await admin.until(lambda: _allowed(agent, kube_namespace))
            review = {"spec": {"token": await admin.token(kube_namespace, "agent")}}
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, **review}
            assert (await admin.create(body))[0]["status"]["authenticated"] is True
        async with west.connect() as other:
            assert "authenticated" not in (await other.create(body))[0]["status"]


def _reader(namespace: str, subject: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    group, metadata = "rbac.authorization.k8s.io", {"name": "reader", "namespace": namespace}
    if subject["kind"] != "ServiceAccount":
        subject = {**subject, "apiGroup": group}
    rules = [{"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list"]}]
    reference = {"apiGroup": group, "kind": "Role", "name": "reader"}
    return (
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": reference,
            "subjects": [subject],
        },
    )


async def _allowed(client: KubeClient, namespace: str) -> bool:
    """Whether the role has reached the authoriser, which follows roles by a watch."""
    with suppress(Denied):
        await client.list("v1", "Service", namespace)
        return True
    return False


class TestControllers:
    async def test_what_is_owned_goes_with_its_owner(self, kube_clusters: Pair, kube_namespace: str) -> None:
        async with kube_clusters[0].connect() as client:
            (owner,) = await client.create(
                {
                    "apiVersion": V1BETA1,
                    "kind": "ServiceImport",
                    "metadata": {"name": "echo", "namespace": kube_namespace},
                    "spec": {"type": "Headless", "ports": [{"port": 80}]},
                }
            )
            reference = {
                "apiVersion": V1BETA1,
                "kind": "ServiceImport",
                "name": "echo",
                "uid": owner["metadata"]["uid"],
            }
            await client.create(
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {"name": "echo-1", "namespace": kube_namespace, "ownerReferences": [reference]},
                    "addressType": "IPv4",
                    "endpoints": [],
                }
            )
            await client.delete(V1BETA1, "ServiceImport", "echo", kube_namespace)
            await client.gone("discovery.k8s.io/v1", "EndpointSlice", "echo-1", kube_namespace)

    async def test_a_namespace_goes_with_what_is_in_it(self, kube_clusters: Pair, kube_namespace: str) -> None:
        async with kube_clusters[0].connect() as client:
            own = f"{kube_namespace}-2"
            await client.create_namespace(own, purpose="test")
            await client.create(service(own, "echo"), config_map(own, "one"))
            await client.delete("v1", "Namespace", own)
            await client.gone("v1", "Namespace", own)
            with pytest.raises(NotFound):
                await client.get("v1", "ConfigMap", "one", own)

    async def test_a_namespace_can_go_at_once(self, kube_clusters: Pair, kube_namespace: str) -> None:
        async with kube_clusters[0].connect() as client:
            own = f"{kube_namespace}-3"
            await client.create_namespace(own)
            await client.create(config_map(own, "one"))
            await client.remove_namespace(own, kinds=[("v1", "ConfigMap"), ("v1", "ServiceAccount")])
            with pytest.raises(NotFound):
                await client.get("v1", "Namespace", own)
            assert await client.list("v1", "ConfigMap", own) == []

    async def test_endpoints_of_pods_become_slices(self, kube_clusters: Pair, kube_namespace: str) -> None:
        metadata = {"name": "echo-0", "namespace": kube_namespace, "labels": {"app": "echo"}}
        spec = {"containers": [{"name": "echo", "image": "none"}], "nodeName": kube_namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        ready = {"type": "Ready", "status": "True"}
        status = {"phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}], "conditions": [ready]}
        async with kube_clusters[0].connect() as client:
            zone = {"topology.kubernetes.io/zone": "eu-1"}
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": kube_namespace, "labels": zone}}
            await client.create(node)
            await client.until(lambda: client.get("v1", "ServiceAccount", "default", kube_namespace))
            await client.create(service(kube_namespace, "echo", selector={"app": "echo"}), pod)
            await client.patch("v1", "Pod", "echo-0", kube_namespace, merge={"status": status}, subresource="status")

            async def addresses() -> bool:
                slices = await client.list("discovery.k8s.io/v1", "EndpointSlice", kube_namespace)
                found = [(e["addresses"], e.get("zone")) for s in slices for e in s["endpoints"] or ()]
                return found == [(["10.1.2.3"], "eu-1")]

            await client.until(addresses)
            await client.delete("v1", "Node", kube_namespace)


async def _up(client: KubeClient) -> bool:
    return await client.request("GET", "/readyz") == "ok"


async def _down(client: KubeClient) -> bool:
    try:
        await client.request("GET", "/readyz", timeout=5)
    except (Unavailable, TimedOut):
        return True
    return False


class TestFaults:
    @pytest.mark.parametrize("part", ["apiserver", "etcd"])
    async def test_a_part_that_was_killed_comes_back_with_its_data(
        self, kube_clusters: Pair, kube_namespace: str, part: str
    ) -> None:
        east, west = kube_clusters
        async with east.connect() as client, west.connect() as other:
            await client.create(config_map(kube_namespace, "kept", part=part))
            east.kill(part)  # type: ignore[arg-type]
            await client.until(lambda: _down(client))
            await other.until(lambda: _up(other))
            await east.heal()
            found = await client.until(lambda: client.get("v1", "ConfigMap", "kept", kube_namespace))
            assert found["data"] == {"part": part}

    async def test_a_paused_server_is_silent_and_goes_on(self, kube_clusters: Pair) -> None:
        east, _ = kube_clusters
        async with east.connect() as client:
            await client.until(lambda: _up(client))
            east.pause()
            with pytest.raises(TimedOut):
                await client.request("GET", "/readyz", timeout=0.5)
            east.resume()
            await client.until(lambda: _up(client))

    async def test_history_can_be_forgotten(self, kube_clusters: Pair, kube_namespace: str) -> None:
        east, _ = kube_clusters
        async with east.connect() as client:
            await client.create(*(config_map(kube_namespace, f"c{n}") for n in range(3)))
            path = f"/api/v1/namespaces/{kube_namespace}/configmaps"
            page = (await client.request("GET", path, query={"limit": 2}))["metadata"]
        await east.forget_history()
        async with east.connect() as client:
            with pytest.raises(Gone):
                await client.request("GET", path, query={"limit": 2, "continue": page["continue"]})
            query = {"watch": "true", "resourceVersion": page["resourceVersion"], "timeoutSeconds": "5"}
            # A watch is refused by an event of its stream, not by the status of the reply.
            refusal = await client.request("GET", path, query=query)
            assert (refusal["type"], refusal["object"]["code"]) == ("ERROR", 410)
            fresh = (await client.request("GET", path, query={"limit": 2}))["metadata"]["resourceVersion"]
            # Of one that nobody changes: who publishes root certificates puts its own there when it likes.
            query |= {"resourceVersion": fresh, "timeoutSeconds": "1", "fieldSelector": "metadata.name=c0"}
            assert await client.request("GET", path, query=query) == ""

    async def test_a_proxy_stands_between(self, kube_clusters: Pair) -> None:
        east, _ = kube_clusters
        with east.proxy() as proxy:
            async with east.connect(east.kubeconfig_at(proxy.port)) as client:
                await client.until(lambda: _up(client))
                proxy.stall()
                with pytest.raises(TimedOut):
                    await client.request("GET", "/readyz", timeout=0.5)
                proxy.heal()
                await client.until(lambda: _up(client))
                proxy.refuse()
                with pytest.raises(Unavailable):
                    await client.request("GET", "/readyz")
                assert proxy.accepted >= 1


class TestLife:
    async def test_one_without_controllers_is_ready_and_ends_in_any_state(
        self, start_kube: Callable[..., Awaitable[tuple[LocalCluster, ...]]]
    ) -> None:
        (one,) = await start_kube("one", controllers=False, install=())
        async with one.connect() as client:
            assert (await client.request("GET", "/version"))["gitVersion"].startswith("v1.")
            with pytest.raises(NotFound):
                await client.resource(V1BETA1, "ServiceImport")
        assert set(one.resident()) == {"etcd", "apiserver"}
        one.kill("etcd")
        one.pause("apiserver")
        await asyncio.to_thread(one.stop)
        assert not any(program.alive for program in one.parts.values())
        assert (one.place.directory / "etcd").exists()
        one.stop(discard=True)
        assert not (one.place.directory / "etcd").exists()
