"""What is injected is what an API server takes: every kind of pod, every way, and the strictest Pod Security."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clusters.apiserver import LocalCluster
from clusters.kubeclient import KubeClient
from federation.errors import Denied
from sidecar.injector.inject import inject, injected
from sidecar.injector.manifests import TEMPLATES, inject_all
from sidecar.injector.options import ClusterDns, Options, Way

pytestmark = pytest.mark.integration

OPTIONS = Options(
    image="isthmus:0.1.0",
    trust_domain="east.test.isthmus",
    enrolment=("10.96.7.1:7446",),
    roots="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    dns=ClusterDns(servers=("10.96.0.10",), searches=("corp.example",)),
    gateway_dns="10.96.7.1",
)
STRICT = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER: dict[str, Any] = {"name": "web", "image": "web:1", "securityContext": STRICT}
LIMITS = {"limits": {"cpu": "1", "memory": "1Gi"}}
PODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "init": {"initContainers": [{**CONTAINER, "name": "init"}], "volumes": [{"name": "data", "emptyDir": {}}]},
    "native-sidecar": {"initContainers": [{**CONTAINER, "name": "proxy", "restartPolicy": "Always"}]},
    "guaranteed": {"containers": [{**CONTAINER, "resources": LIMITS}]},
    "dns-default": {"dnsPolicy": "Default"},
    "dns-none": {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}},
    "dns-config": {"dnsConfig": {"nameservers": ["192.0.2.1"], "options": [{"name": "edns0"}, {"name": "ndots"}]}},
    "dns-searches": {"dnsConfig": {"searches": [f"s{number}.example" for number in range(32)]}},
    "host-net-policy": {"dnsPolicy": "ClusterFirstWithHostNet"},
    "ports": {"containers": [{**CONTAINER, "ports": [{"containerPort": p} for p in (80, 15001, 15464)]}]},
    "sysctls": {"securityContext": {"fsGroup": 7, "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}},
    "no-token": {"automountServiceAccountToken": False},
}


def pod(name: str, way: Way) -> dict[str, Any]:
    metadata = {"name": f"{name}-{way.value}", "annotations": {"isthmus.io/way": way.value}}
    spec = {"containers": [CONTAINER], **PODS[name]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.fixture
async def client(kube_clusters: tuple[LocalCluster, LocalCluster]) -> AsyncIterator[KubeClient]:
    async with kube_clusters[0].connect() as found:
        yield found


async def enforce(client: KubeClient, namespace: str, level: str) -> None:
    labels = {f"pod-security.kubernetes.io/{key}": level for key in ("enforce", "warn")}
    await client.patch("v1", "Namespace", namespace, merge={"metadata": {"labels": labels}})


async def created(client: KubeClient, namespace: str, way: Way, name: str) -> dict[str, Any]:
    made = inject(pod(name, way), namespace=namespace, options=OPTIONS).pod
    made["metadata"]["namespace"] = namespace
    (there,) = await client.create(made)
    return there


@pytest.mark.parametrize("way", list(Way))
async def test_every_pod_is_taken(client: KubeClient, kube_namespace: str, way: Way) -> None:
    """Without privileges also where Pod Security is `restricted`."""
    await enforce(client, kube_namespace, "privileged" if way is Way.REDIRECT else "restricted")
    there = await asyncio.gather(*(created(client, kube_namespace, way, name) for name in PODS))
    for name, found in zip(PODS, there, strict=True):
        assert injected(found), name
        if way is Way.GATEWAY:
            continue
        assert found["spec"]["initContainers"][-1 if name == "plain" else 0]["image"] == "isthmus:0.1.0", name
        assert found["spec"]["dnsConfig"]["nameservers"] == ["127.0.0.1"], name
    if way is not Way.GATEWAY:
        assert there[list(PODS).index("guaranteed")]["status"]["qosClass"] == "Guaranteed"


async def test_the_redirect_way_needs_a_namespace_that_allows_it(client: KubeClient, kube_namespace: str) -> None:
    await enforce(client, kube_namespace, "baseline")
    with pytest.raises(Denied, match=r'isthmus-redirect.* must not include "NET_ADMIN"'):
        await created(client, kube_namespace, Way.REDIRECT, "plain")
    await created(client, kube_namespace, Way.LOOPBACK, "plain")


async def test_the_templates_of_every_workload_are_taken(client: KubeClient, kube_namespace: str) -> None:
    versions = {"CronJob": "batch/v1", "Job": "batch/v1"} | dict.fromkeys(
        ("Pod", "PodTemplate", "ReplicationController"), "v1"
    )
    documents = []
    for kind, path in TEMPLATES.items():
        restarts = {"restartPolicy": "Never"} if "Job" in kind else {}
        template: dict[str, Any] = {"spec": {"containers": [CONTAINER], **restarts}}
        if kind not in ("Pod", "Job", "CronJob"):
            template["metadata"] = {"labels": {"app": "web"}}
        inner: Any = template
        for key in reversed(path):
            inner = {key: inner}
        made = {"apiVersion": versions.get(kind, "apps/v1"), "kind": kind, **inner}
        made["metadata"] = {"name": f"web-{kind.lower()}", "namespace": kube_namespace}
        if kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"):
            made["spec"] = {**made["spec"], "selector": {"matchLabels": {"app": "web"}}}
        if kind == "CronJob":
            made["spec"] = {**made["spec"], "schedule": "0 0 1 1 *"}
        documents.append(made)
    changed, done = inject_all(documents, namespace="", options=OPTIONS)
    assert [one.way for one in done] == [Way.REDIRECT] * len(TEMPLATES)
    for made in changed:
        path = (await client.resource(made["apiVersion"], made["kind"])).path(kube_namespace)
        there = await client.request("POST", path, made, query={"dryRun": "All"})
        inner = there
        for key in TEMPLATES[made["kind"]]:
            inner = inner[key]
        assert injected(inner), made["kind"]
