"""`fedctl cluster leave` takes away what the agents wrote in a Kubernetes cluster, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.network import free_port
from discovery.agent import Agent
from discovery.departure import retire
from discovery.kube.about import CLUSTER, CLUSTERSET
from discovery.kube.install import install
from discovery.kube.rbac import ACCOUNT, manifests
from discovery.kube.settings import KubernetesSettings
from discovery.settings import AgentSettings, load
from federation import log
from federation.aio.clock import SystemClock
from federation.cli.home import Home
from federation.cli.main import run
from federation.errors import Conflict, NotFound
from federation.model.ids import ServiceName

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
ABOUT, MCS, LEASES = "about.k8s.io/v1beta1", "multicluster.x-k8s.io/v1beta1", "coordination.k8s.io/v1"
KINDS = (
    (MCS, "ServiceImport"),
    ("v1", "Service"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    (LEASES, "Lease"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
)
OURS = {"app.kubernetes.io/managed-by": "isthmus"}
IMPORTS = {"ServiceImport", "Service", "EndpointSlice"}


class Member:
    """East, a Kubernetes cluster that has joined by fedctl and imports `echo` of west; it exports `api`."""

    def __init__(self, federation: Any, cluster: Any, client: Any, namespace: str, root: Path) -> None:
        self.federation, self.cluster, self.client, self.namespace = federation, cluster, client, namespace
        self.home, self.state = root / "home", root / "east"
        self.agent: Agent
        self._task: asyncio.Task[None] | None = None

    def fedctl(self, *words: str) -> Awaitable[int]:
        return asyncio.to_thread(run, ["--home", str(self.home), *words])

    async def leave(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
        """(exit status, what was printed)."""
        capsys.readouterr()
        status = await self.fedctl("cluster", "leave", "east", "-o", "json", *words)
        printed = re.search(r"^\{$.*?^\}$", capsys.readouterr().out, re.DOTALL | re.MULTILINE)  # beside the agent's log
        assert printed is not None
        return status, json.loads(printed[0])

    async def join(self) -> None:
        async with self.federation.operator() as operator:
            token = (await operator.issue_token("east")).token
        where = ["--kubeconfig", str(self.cluster.kubeconfig), "--namespace", self.namespace]
        words = ["--token", token, "--directory", str(self.state), *where, "--listen", f"127.0.0.1:{free_port()}"]
        assert await self.fedctl("cluster", "join", "east", *words) == 0
        tree = yaml.safe_load((self.state / "settings.yaml").read_text())
        tree["kubernetes"] |= {"lease": 3.0, "renew": 0.5, "confirm": 0.2}
        (self.state / "settings.yaml").write_text(yaml.safe_dump({**tree, "save": 0.05}))

    def settings(self) -> AgentSettings:
        return load(self.state / "settings.yaml")

    async def start(self, until: Until) -> None:
        self.agent = Agent(self.settings(), log=log.get("east"))
        self._task = asyncio.create_task(self.agent.run(), name="agent-east")
        await until(lambda: self.agent.serving or (self._task is not None and self._task.done()))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    async def objects(self) -> dict[str, str]:
        """uid by "Kind namespace/name" of what is in the namespace, and of the ClusterProperties."""
        found = {}
        for version, kind in KINDS:
            for one in await self.client.list(version, kind, self.namespace):
                if one["metadata"]["name"] != "kube-root-ca.crt":  # of Kubernetes, in every namespace
                    found[f"{kind} {self.namespace}/{one['metadata']['name']}"] = one["metadata"]["uid"]
        for name in (CLUSTER, CLUSTERSET):
            try:
                one = await self.client.get(ABOUT, "ClusterProperty", name)
            except NotFound:
                continue
            found[f"ClusterProperty {name}"] = one["metadata"]["uid"]
        return found

    async def conditions(self) -> set[str]:
        """Of the ServiceExport."""
        found = await self.client.get(MCS, "ServiceExport", "api", self.namespace)
        return {c["type"] for c in found.get("status", {}).get("conditions", ())}

    async def whole(self) -> bool:
        """All that an agent writes is there."""
        found = await self.objects()
        kinds = {what.partition(" ")[0] for what in found if "isthmus" in what or "clusterset" in what}
        wanted = {"Service", "EndpointSlice", "Lease", "ConfigMap", "Secret", "ClusterProperty"}
        each = {f"ServiceImport {self.namespace}/{name}" for name in ("api", "echo")}
        each |= {f"ClusterProperty {name}" for name in (CLUSTER, CLUSTERSET)}
        return found.keys() >= each and kinds >= wanted and await self.conditions() >= {"Valid", "Ready", "Conflict"}

    async def strangers(self) -> set[str]:
        """Objects of others that look like ours in one way or another; what is in them besides."""
        place = {"namespace": self.namespace}
        made = [
            {"apiVersion": MCS, "kind": "ServiceImport", "metadata": {"name": "theirs", **place}},
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {
                    "name": "isthmus-theirs",
                    **place,
                    "labels": {**OURS, "multicluster.kubernetes.io/service-name": "theirs"},
                    "annotations": {"isthmus.io/epoch": "7"},
                },
                "spec": {"ports": [{"port": 80}]},
            },
            {"apiVersion": LEASES, "kind": "Lease", "metadata": {"name": "theirs", **place, "labels": OURS}},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", **place, "labels": OURS}},
        ]
        for one in made:
            if one["kind"] == "ServiceImport":
                one["spec"] = {"type": "Headless", "ports": []}
        await self.client.create(*made)
        condition = {
            "type": "Seen",
            "status": "True",
            "reason": "Seen",
            "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }
        export = {"apiVersion": MCS, "kind": "ServiceExport", "metadata": {"name": "api", **place}}
        await self.client.apply({**export, "status": {"conditions": [condition]}}, subresource="status")
        return {f"{one['kind']} {self.namespace}/{one['metadata']['name']}" for one in made}  # type: ignore[index]


@pytest.fixture
async def member(
    federation: Any,
    kube_clusters: Any,
    kube_namespace: str,
    manifest: Any,
    gateway: Any,
    connect: Any,
    until: Until,
    tmp_path: Path,
) -> AsyncIterator[Member]:
    Home(directory=tmp_path / "home").with_operator(tmp_path / "registry" / "operator").save()
    cluster = kube_clusters[0]
    async with cluster.connect() as client:
        made = Member(federation, cluster, client, kube_namespace, tmp_path)
        await _without_properties(client)  # the cluster may have been a member of another test's federation
        await made.join()
        api = {"name": "api", "namespace": kube_namespace}
        await client.apply(
            {"apiVersion": "v1", "kind": "Service", "metadata": api, "spec": {"ports": [{"port": 80}]}},
            {"apiVersion": MCS, "kind": "ServiceExport", "metadata": api},
        )
        west = await federation.cluster("west")
        west.write("echo.yaml", manifest("echo", "10.0.0.1").replace("namespace: shop", f"namespace: {kube_namespace}"))
        await made.start(until)
        federation.agents["east"] = made  # for its `state`
        await federation.link("east", "west")
        try:
            async with connect(made, "isthmus-system/gateway", presence=gateway("10.1.0.1")):
                await until(made.whole)
                yield made
        finally:
            await made.stop()
            del federation.agents["east"]
            await _without_properties(client)


async def _without_properties(client: Any) -> None:
    for name in (CLUSTER, CLUSTERSET):
        with contextlib.suppress(NotFound):
            await client.delete(ABOUT, "ClusterProperty", name)


async def test_all_that_is_ours_goes_while_the_agent_runs_and_is_not_written_again(
    member: Member, capsys: pytest.CaptureFixture[str], until: Until
) -> None:
    theirs = await member.strangers()
    before = await member.objects()
    services = {f"Service {member.namespace}/api"}
    status, said = await member.leave(capsys, "--dry-run")
    assert (status, said["left"]) == (0, False)
    assert await member.objects() == before
    assert set(said["removed"]) == before.keys() - theirs - services | {
        f"conditions of ServiceExport {member.namespace}/api"
    }
    would = set(said["removed"])

    status, said = await member.leave(capsys)
    assert (status, said["left"], said["failed"]) == (0, True, [])
    assert set(said["removed"]) == would
    assert (await member.objects()).keys() == theirs | services
    assert await member.conditions() == {"Seen"}

    # it knows, says so, and writes nothing whatever happens
    assert {p.code for p in member.agent.problems.all()} >= {"cluster_left"}
    writer = member.agent.writer
    assert writer is not None
    writer.names_changed([ServiceName(member.namespace, name) for name in ("echo", "api")])
    await until(lambda: writer.idle)
    assert (await member.objects()).keys() == theirs | services
    await member.stop()
    await member.start(until)
    writer = member.agent.writer
    assert writer is not None
    await until(lambda: writer.idle)
    assert (await member.objects()).keys() == theirs | services
    assert await member.conditions() == {"Seen"}
    # it is done
    assert await member.fedctl("cluster", "leave", "east") == 3
    assert (await retire(member.settings())).removed == ()


async def test_imports_may_stay_what_is_refused_is_said_and_it_is_safe_to_repeat(
    member: Member, capsys: pytest.CaptureFixture[str], until: Until
) -> None:
    await _install(member)
    account = await member.cluster.kubeconfig_for_account(member.namespace, ACCOUNT)
    await member.stop()
    before = await member.objects()
    status, said = await member.leave(capsys, "--keep-imports", "--kubeconfig", str(account))
    assert status == 6
    assert {f["what"].partition(" ")[0] for f in said["failed"]} == {"ClusterProperty", "ConfigMap", "Secret"}
    assert {f["code"] for f in said["failed"]} == {"kube_forbidden"}
    after = await member.objects()
    kinds = {what.partition(" ")[0] for what in before.keys() - after.keys()}
    assert kinds == {"Lease"}
    assert await member.conditions() == set()

    # fedctl knows the cluster still; with an administrator's rights it comes to its end
    status, said = await member.leave(capsys, "--keep-imports", "--kubeconfig", str(member.cluster.kubeconfig))
    assert (status, said["failed"]) == (0, [])
    assert {what.partition(" ")[0] for what in await member.objects()} == IMPORTS
    removed = (await retire(member.settings())).removed
    assert {what.partition(" ")[0] for what in removed} == IMPORTS
    assert (await member.objects()).keys() == {f"Service {member.namespace}/api"}


async def test_what_another_identity_has_written_since_is_left(member: Member, until: Until) -> None:
    before = await member.objects()
    secret = await member.client.get("v1", "Secret", "isthmus-identity", member.namespace)
    secret["data"]["root.pem"] = "b3RoZXI="
    await member.client.replace(secret)
    with pytest.raises(Conflict, match="another agent has joined"):
        await retire(member.settings())
    assert await member.objects() == before
    assert member.agent.membership.lasts


async def _install(member: Member) -> None:
    from discovery.kube.client import KubeClient

    clock = SystemClock()
    settings = KubernetesSettings(kubeconfig=str(member.cluster.kubeconfig))
    client = await KubeClient.open(settings, log=log.get("test"), clock=clock)
    try:
        await install(client, manifests(namespace=member.namespace), clock=clock)
    finally:
        await client.close()
