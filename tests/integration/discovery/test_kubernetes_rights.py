"""An agent with exactly the rights that `fedctl install rbac` gives it, against an API server with RBAC on."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from clusters.waiting import until
from discovery.kube.client import KubeClient
from discovery.kube.crds import manifests as crds
from discovery.kube.install import install
from discovery.kube.rbac import ACCOUNT, manifests
from discovery.kube.settings import KubernetesSettings
from discovery.kube.tokens import TokenReviews
from discovery.vms.plans import Invitation, Invited
from federation import log
from federation.aio.clock import SystemClock
from federation.errors import Denied, InvalidInput
from federation.model.ids import ServiceName
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
MCS = "multicluster.x-k8s.io/v1beta1"
RBAC = "rbac.authorization.k8s.io/v1"
ADMISSION = "admissionregistration.k8s.io/v1"
MANAGED_BY, SERVICE_NAME = "app.kubernetes.io/managed-by", "multicluster.kubernetes.io/service-name"


async def apply(kubeconfig: Any, texts: tuple[str, ...]) -> dict[str, str]:
    """What became of each object."""
    clock = SystemClock()
    client = await KubeClient.open(KubernetesSettings(kubeconfig=str(kubeconfig)), log=log.get("test"), clock=clock)
    try:
        return {f"{one.kind}/{one.name}": one.done for one in await install(client, texts, clock=clock)}
    finally:
        await client.close()


@pytest.fixture
async def east(kube_clusters: Any, kube_namespace: str) -> AsyncIterator[Any]:
    """The cluster with the rights installed, in the namespace of the test."""
    cluster = kube_clusters[0]
    await apply(cluster.kubeconfig, manifests(namespace=kube_namespace))
    yield cluster
    await cluster.heal()
    async with cluster.connect() as client:
        for version, kind in (
            (ADMISSION, "ValidatingAdmissionPolicyBinding"),
            (ADMISSION, "ValidatingAdmissionPolicy"),
            (RBAC, "ClusterRoleBinding"),
            (RBAC, "ClusterRole"),
        ):
            await client.delete(version, kind, "isthmus-agent")


def presence(address: str) -> pb.Presence:
    gateway = records_pb2.Gateway(name="gw-1", address="127.0.0.1", port=15443, weight=1, egress=address)
    return pb.Presence(role=pb.Presence.GATEWAY_PROCESS, name="gw-1", gateway=gateway)


async def test_what_is_installed_twice_is_unchanged_and_what_others_installed_is_kept(
    east: Any, kube_namespace: str
) -> None:
    again = await apply(east.kubeconfig, manifests(namespace=kube_namespace))
    assert set(again.values()) == {"unchanged"}
    assert set((await apply(east.kubeconfig, crds())).values()) == {"kept"}  # the harness did


async def test_an_agent_does_all_its_work_with_exactly_these_rights(
    east: Any, kube_clusters: Any, kube_namespace: str, federation: Any, connect: Any, until: Until
) -> None:
    account = await east.kubeconfig_for_account(kube_namespace, ACCOUNT)
    running = {}
    for cluster, kubeconfig in zip(kube_clusters, (account, kube_clusters[1].kubeconfig), strict=True):
        running[cluster.name] = agent = await federation.cluster(cluster.name, start=False)
        settings = KubernetesSettings(kubeconfig=str(kubeconfig), confirm=0.2, namespace=kube_namespace)
        await agent.start(files=None, kubernetes=settings)
    await federation.link("east", "west")
    agent = running["east"]
    name = ServiceName(kube_namespace, "echo")
    metadata = {"name": "echo", "namespace": kube_namespace}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}
    async with (
        kube_clusters[0].connect() as here,
        kube_clusters[1].connect() as there,
        connect(agent, "isthmus-system/gateway", presence=presence("10.1.0.1")),
    ):
        # exports: by `fedctl export`, and what becomes of it
        await here.apply(service)
        await until(lambda: name in agent.agent.source.state.value.services)
        await agent.agent.source.export(name, ())

        async def exported() -> bool:
            found = await here.get(MCS, "ServiceExport", "echo", kube_namespace)
            conditions = {c["type"]: c["status"] for c in found.get("status", {}).get("conditions", ())}
            return conditions == {"Valid": "True", "Ready": "True", "Conflict": "False"}

        await here.until(exported)
        await until(lambda: running["west"].clusters(str(name)) != {})
        await agent.agent.source.unexport(name)
        # imports: all objects of one, repaired, and taken away
        await here.delete("v1", "Service", "echo", kube_namespace)
        await there.apply(service, {"apiVersion": MCS, "kind": "ServiceExport", "metadata": metadata})

        async def imported() -> Any:
            found = await here.get(MCS, "ServiceImport", "echo", kube_namespace)
            conditions = {c["type"]: c["status"] for c in found.get("status", {}).get("conditions", ())}
            return found if conditions.get("Ready") == "True" and found["spec"]["ips"] else None

        made = await here.until(imported)
        derived = next(
            s
            for s in await here.list("v1", "Service", kube_namespace)
            if s["metadata"]["name"].startswith("isthmus-echo")
        )
        merge = {"metadata": {"labels": {"app.kubernetes.io/managed-by": "nobody"}}, "spec": {"ports": [{"port": 99}]}}
        await here.patch(MCS, "ServiceImport", "echo", kube_namespace, merge=merge)

        async def repaired() -> bool:
            now = await imported()
            return bool(now and now["spec"]["ports"] == made["spec"]["ports"])

        await here.until(repaired)
        await here.delete("v1", "Service", derived["metadata"]["name"], kube_namespace)
        await here.until(lambda: here.get("v1", "Service", derived["metadata"]["name"], kube_namespace))
        await there.delete(MCS, "ServiceExport", "echo", kube_namespace)

        async def gone() -> bool:
            imports = await here.list(MCS, "ServiceImport", kube_namespace)
            slices = await here.list("discovery.k8s.io/v1", "EndpointSlice", kube_namespace)
            return not imports and not [s for s in slices if s["metadata"]["name"].startswith("isthmus-")]

        await until(gone)
        # virtual machines: the table that replicas share, made, changed, read again
        vms = agent.agent.vms
        await vms.issue(Invited("vm-1", "shop", "web"), Invitation(b"t" * 32, agent.agent.clock.wall_ns() + 10**12))
        await vms.redeem("vm-1", b"t" * 32, "sha256:k")
        assert (await here.get("v1", "ConfigMap", "isthmus-vms", kube_namespace))["data"]
        await vms.remove("vm-1")
        # pods: the API server tells whose a token is
        token = await here.token(kube_namespace, ACCOUNT, audiences=["isthmus"])
        reviewed = await TokenReviews(agent.agent.source.client).review(token)
        assert reviewed.user.username == f"system:serviceaccount:{kube_namespace}:{ACCOUNT}"
        lease = await here.get("coordination.k8s.io/v1", "Lease", "isthmus-agent", kube_namespace)
        assert lease["spec"]["holderIdentity"]
        assert not {c for c in agent.codes() if c.startswith("kube_")}, agent.agent.problems.all()


async def test_the_account_reads_no_secret_and_writes_nothing_else(east: Any, kube_namespace: str) -> None:
    account = await east.kubeconfig_for_account(kube_namespace, ACCOUNT)
    async with east.connect() as admin:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other", "namespace": kube_namespace}}
        await admin.create(secret)
    async with east.connect(account) as client:
        for namespace in (None, kube_namespace):
            with pytest.raises(Denied):
                await client.list("v1", "Secret", namespace)
        with pytest.raises(Denied):
            await client.get("v1", "Secret", "other", kube_namespace)
        for kind in ("Pod", "ConfigMap"):
            with pytest.raises(Denied):
                await client.list("v1", kind, "default")
        with pytest.raises(Denied):
            await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "made"}})


async def test_the_account_writes_no_service_but_those_of_imports(east: Any, kube_namespace: str) -> None:
    """Rules of RBAC let it write all of them; the admission policy does not."""
    mine = {MANAGED_BY: "isthmus", SERVICE_NAME: "echo"}

    def service(name: str, labels: dict[str, str], namespace: str = kube_namespace) -> dict[str, Any]:
        metadata = {"name": name, "namespace": namespace, "labels": labels}
        return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}

    def endpoints(name: str, labels: dict[str, str], namespace: str = kube_namespace) -> dict[str, Any]:
        metadata = {"name": name, "namespace": namespace, "labels": labels}
        version = "discovery.k8s.io/v1"
        return {
            "apiVersion": version,
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": "IPv4",
            "endpoints": [],
        }

    account = await east.kubeconfig_for_account(kube_namespace, ACCOUNT)
    async with east.connect() as admin, east.connect(account) as agent:
        await admin.create(
            service("db", {}), endpoints("db-1", {}), service("isthmus-registry", {MANAGED_BY: "isthmus"})
        )

        async def refused() -> bool:
            try:
                await agent.create(service(f"x-{uuid.uuid4().hex[:8]}", {}))
            except (Denied, InvalidInput):
                return True
            return False

        await until(refused, what="the API server's hearing of the policy")
        takes = {"metadata": {"labels": mine}, "spec": {"externalName": "elsewhere.example", "type": "ExternalName"}}
        for attempt in (
            lambda: agent.create(service("new", {MANAGED_BY: "isthmus"})),
            lambda: agent.create(endpoints("new", {})),
            lambda: agent.patch("v1", "Service", "db", kube_namespace, merge=takes),
            lambda: agent.patch("v1", "Service", "isthmus-registry", kube_namespace, merge=takes),
            lambda: agent.delete("v1", "Service", "db", kube_namespace),
            lambda: agent.delete("discovery.k8s.io/v1", "EndpointSlice", "db-1", kube_namespace),
        ):
            with pytest.raises((Denied, InvalidInput), match="only what it has made itself"):
                await attempt()
        for made in (service("new", mine, "kube-system"), endpoints("new", mine, "kube-system")):
            with pytest.raises((Denied, InvalidInput), match="nothing in kube-system"):
                await agent.create(made)
        await agent.create(service("isthmus-echo", mine), endpoints("isthmus-echo-1", mine))
        unlabelled = {"metadata": {"labels": {MANAGED_BY: None}}}
        with pytest.raises((Denied, InvalidInput), match="only what it has made itself"):  # nor can it let go of one
            await agent.patch("v1", "Service", "isthmus-echo", kube_namespace, merge=unlabelled)
        await agent.delete("v1", "Service", "isthmus-echo", kube_namespace)


async def test_a_rule_that_is_missing_is_named(
    east: Any, kube_namespace: str, federation: Any, connect: Any, until: Until
) -> None:
    async with east.connect() as admin:
        role = await admin.get(RBAC, "Role", "isthmus-agent", kube_namespace)
        role["rules"] = [rule for rule in role["rules"] if "leases" not in rule["resources"]]
        await admin.replace(role)
        account = await east.kubeconfig_for_account(kube_namespace, ACCOUNT)
        agent = await federation.cluster("east", start=False)
        settings = KubernetesSettings(kubeconfig=str(account), namespace=kube_namespace)
        await agent.start(files=None, kubernetes=settings)  # it serves all the same

        def told() -> str:
            return " ".join(p.detail for p in agent.agent.problems.all() if p.code == "kube_forbidden")

        await until(lambda: 'resources: ["leases"]' in told())
        assert agent.agent.serving
    await apply(east.kubeconfig, manifests(namespace=kube_namespace))
    await until(lambda: not told())
