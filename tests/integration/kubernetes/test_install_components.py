"""`fedctl install registry|agent|gateway|webhook`, `upgrade`, `uninstall` against a real API server without nodes."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.apiserver import LocalCluster, local_clusters, start_all, stop_all
from clusters.kubeclient import KubeClient
from clusters.waiting import START
from federation.cli.main import run
from federation.errors import NotFound
from federation.trust.token import JoinToken

pytestmark = pytest.mark.integration

SYSTEM = "isthmus-system"
RBAC = "rbac.authorization.k8s.io/v1"
LABELLED = {"labelSelector": "app.kubernetes.io/part-of=isthmus"}
NAMESPACED = (
    ("v1", "ServiceAccount"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Pod"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    (RBAC, "Role"),
    (RBAC, "RoleBinding"),
)
CLUSTER_WIDE = (
    (RBAC, "ClusterRole"),
    (RBAC, "ClusterRoleBinding"),
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
)


def apart(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine, apart from the event loop of a test."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


@pytest.fixture(scope="module")
def bare(testbed: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster without our custom resources, and without controllers: what is there, somebody has put there."""
    made = local_clusters(tmp_path_factory.mktemp("bare"), ("bare",), controllers=False)
    apart(start_all(made, install=()))
    yield made[0]
    stop_all(made, discard=True)


HOOK = ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "isthmus-injector")
BUNDLE = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="


class Place:
    """The cluster, and fedctl as its administrator or as somebody else."""

    def __init__(self, cluster: LocalCluster, client: KubeClient, capsys: pytest.CaptureFixture[str]) -> None:
        self.cluster, self.client, self.capsys = cluster, client, capsys
        self.kubeconfig = cluster.kubeconfig

    async def fedctl(self, *words: str, kubeconfig: Path | None = None) -> tuple[int, str, str]:
        """Exit status, output, errors."""
        where = ["--kubeconfig", str(kubeconfig or self.kubeconfig)]
        status = await asyncio.to_thread(run, [*words, *where])
        out, err = self.capsys.readouterr()
        return status, out, err

    async def done(self, *words: str) -> dict[str, str]:
        """What became of each object."""
        status, out, err = await self.fedctl(*words, "-o", "json")
        assert status == 0, err
        return {f"{one['kind']}/{one['name']}": one["done"] for one in json.loads(out)}

    async def refused(self, *words: str, **more: Any) -> tuple[str, int]:
        """Code and exit status of an error, which is one line with a hint."""
        status, _, err = await self.fedctl(*words, "-o", "json", **more)
        assert status, words
        error = json.loads(err.splitlines()[-1])["error"]
        assert error["hint"], error
        assert "\n" not in error["message"]
        return error["code"], status

    async def register(self) -> None:
        """Write a caBundle into the webhook, as the injector does."""
        names = [one["name"] for one in (await self.client.get(*HOOK))["webhooks"]]
        written = [{"name": name, "clientConfig": {"caBundle": BUNDLE}} for name in names]
        patch = {"apiVersion": HOOK[0], "kind": HOOK[1], "metadata": {"name": HOOK[2]}, "webhooks": written}
        await self.client.apply(patch, manager="isthmus-injector")

    async def ours(self) -> set[str]:
        """Everything that is labelled as of isthmus."""
        found = set()
        for version, kind in (*NAMESPACED, *CLUSTER_WIDE):
            for one in await self.client.list(version, kind, **LABELLED):
                found.add(f"{kind}/{one['metadata']['name']}")
        return found

    async def reads(self, component: str) -> str:
        """The ConfigMap that new pods of the component begin with."""
        kind = "StatefulSet" if component == "registry" else "Deployment"
        held = await self.client.get("apps/v1", kind, f"isthmus-{component}", SYSTEM)
        volumes = held["spec"]["template"]["spec"]["volumes"]
        (name,) = (str(one["configMap"]["name"]) for one in volumes if one["name"] == "settings")
        return name

    async def settings(self, component: str) -> dict[str, Any]:
        held = await self.client.get("v1", "ConfigMap", await self.reads(component), SYSTEM)
        settings: dict[str, Any] = yaml.safe_load(held["data"][f"{component}.yaml"])
        return settings


@pytest.fixture
async def place(bare: LocalCluster, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Place]:
    async with bare.connect() as client:
        yield Place(bare, client, capsys)
        for namespace in (SYSTEM, "mesh"):
            await client.remove_namespace(namespace, kinds=NAMESPACED)
        for version, kind in CLUSTER_WIDE:
            for one in await client.list(version, kind, **LABELLED):
                await client.delete(version, kind, one["metadata"]["name"])
        for one in await client.list("apiextensions.k8s.io/v1", "CustomResourceDefinition"):
            await client.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", one["metadata"]["name"])


def token(cluster: str) -> str:
    return JoinToken.new(registry="192.0.2.1:7401", ca_fingerprint=f"sha256:{'0' * 64}", cluster=cluster).encode()


async def test_from_nothing_to_all_of_it_and_back(place: Place) -> None:
    # 1. Each component brings its own, and the values of those before it are remembered.
    first = await place.done("install", "registry", "--federation", "example.isthmus", "--address", "192.0.2.10")
    assert first["Namespace/isthmus-system"] == first["StatefulSet/isthmus-registry"] == "created"
    namespace = await place.client.get("v1", "Namespace", SYSTEM)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    second = await place.done("install", "agent", "--token", token("east"), "--set", "agent.replicas=1")
    assert second["CustomResourceDefinition/serviceexports.multicluster.x-k8s.io"] == "created"
    assert second["StatefulSet/isthmus-registry"] == "unchanged"
    await place.done("install", "gateway", "--set", "gateway.service.nodePort=32100")
    await place.done("install", "webhook", "--set", "injector.replicas=1")
    assert (await place.settings("registry"))["advertise"] == "192.0.2.10:31400"
    assert (await place.settings("agent"))["cluster"] == "east"
    assert (await place.settings("gateway"))["port"] == 32100

    # 2. The token is in its Secret alone.
    secret = await place.client.get("v1", "Secret", "isthmus-join", SYSTEM)
    assert set(secret["data"]) == {"token"}
    record = await place.client.get("v1", "ConfigMap", "isthmus-values", SYSTEM)
    assert token("east")[:20] not in json.dumps(record)

    # 3. What is there already stays as it is; a changed value rolls the pods that read it, and no others.
    again = await place.done("install", "gateway")
    assert set(again.values()) == {"unchanged"}
    former = await place.reads("gateway")
    rolled = await place.done("install", "gateway", "--set", "gateway.drainSeconds=30")
    assert {name: done for name, done in rolled.items() if done != "unchanged"} == {
        f"ConfigMap/{await place.reads('gateway')}": "created",
        "Deployment/isthmus-gateway": "changed",
    }

    # 4. What the injector writes into its webhook survives: nobody else owns that field.
    await place.register()
    same = await place.done("upgrade", "--no-wait")
    assert {name: done for name, done in same.items() if done != "unchanged"} == {f"ConfigMap/{former}": "removed"}
    assert {one["clientConfig"]["caBundle"] for one in (await place.client.get(*HOOK))["webhooks"]} == {BUNDLE}

    # 5. What is no longer rendered goes, with nothing else.
    mine = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "mine", "namespace": SYSTEM, "labels": {"app.kubernetes.io/part-of": "isthmus"}},
    }
    await place.client.apply(mine)
    pruned = await place.done("upgrade", "--no-wait", "--set", "gateway.service.type=None")
    assert {name for name, done in pruned.items() if done == "removed"} == {"Service/isthmus-gateway"}
    assert (await place.settings("gateway"))["address"] == ""

    # 6. One component goes; the others do not notice. The agent is needed by others.
    assert await place.refused("uninstall", "agent") == ("needed_by", 7)
    gone = await place.done("uninstall", "webhook")
    assert set(gone.values()) == {"removed"}
    assert {"MutatingWebhookConfiguration/isthmus-injector", "ClusterRole/isthmus-injector"} <= gone.keys()
    assert not [name for name in await place.ours() if "injector" in name]
    assert (await place.client.get("apps/v1", "Deployment", "isthmus-gateway", SYSTEM))["metadata"]["generation"] == 3

    # 7. All goes but what was promised to stay: identities, volumes, the custom resources, and what others have made.
    for kind, name in (("Secret", "isthmus-identity"), ("PersistentVolumeClaim", "state-isthmus-registry-0")):
        spec = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
        made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": SYSTEM}}
        await place.client.apply(made | (spec if kind != "Secret" else {}))
    status, _, err = await place.fedctl("uninstall", "all")
    assert status == 0
    assert "kept: custom resources" in err
    assert "kept: namespace isthmus-system with identities and volumes" in err
    assert await place.ours() == {"ConfigMap/mine"}
    await place.client.get("v1", "Secret", "isthmus-identity", SYSTEM)
    await place.client.get("v1", "PersistentVolumeClaim", "state-isthmus-registry-0", SYSTEM)
    assert await place.refused("uninstall", "all") == ("not_installed", 3)

    # 8. With --purge and --crds that goes, too.
    await place.done("install", "agent", "--cluster", "east", "--set", "agent.replicas=1")
    status, _, err = await place.fedctl("uninstall", "all", "--purge", "--crds")
    assert status == 0
    with pytest.raises(NotFound):
        await place.client.get("v1", "Secret", "isthmus-identity", SYSTEM)
    assert "kept" not in err
    assert (await place.client.get("v1", "Namespace", SYSTEM))["metadata"]["deletionTimestamp"]
    for one in await place.client.list("apiextensions.k8s.io/v1", "CustomResourceDefinition"):
        assert one["metadata"]["deletionTimestamp"]  # its controller takes its time


async def test_settings_stay_as_long_as_a_pod_may_begin_anew_with_them(place: Place) -> None:
    """An upgrade that waits, or is stuck, leaves pods of before, whose version need not know the new keys."""
    await place.done("install", "gateway", "--set", "gateway.replicas=1")
    await place.done("install", "registry", "--federation", "example.isthmus")
    first = await place.reads("gateway")
    change = ("install", "gateway", "--set")

    async def settings() -> set[str]:
        """Those of gateways that are there."""
        found = await place.client.list("v1", "ConfigMap", SYSTEM, **LABELLED)
        names = {one["metadata"]["name"] for one in found}
        return {name for name in names if name.startswith("isthmus-gateway")}

    async def uses(pod: str, name: str) -> None:
        labels = {"app.kubernetes.io/part-of": "isthmus", "app.kubernetes.io/component": "gateway"}
        metadata = {"name": pod, "namespace": SYSTEM, "labels": labels}
        volumes = [{"name": "settings", "configMap": {"name": name}}]
        spec = secure({"containers": [{"name": "gateway", "image": "isthmus"}], "volumes": volumes})
        await place.client.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    # 1. Nothing is waited for: what the workload says before stays, though no pod was seen that reads it.
    await place.done(*change, "gateway.drainSeconds=30")
    second = await place.reads("gateway")
    assert await settings() == {first, second}
    await uses("old", first)
    assert set((await place.done("install", "gateway")).values()) == {"unchanged"}

    # 2. The next ones are waited for, in vain: all stay. Whoever comes then takes only those that nobody reads.
    assert await place.refused(*change, "gateway.drainSeconds=40", "--wait", "--timeout", "0.2") == ("not_ready", 11)
    third = await place.reads("gateway")
    assert await settings() == {first, second, third}
    assert f"ConfigMap/{second}" in await place.done("uninstall", "registry")
    assert await settings() == {first, third}

    # 3. When all pods are of the last ones, and those before have ended, the others go.
    rollout = {"status": {"observedGeneration": 3, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}}
    where = ("apps/v1", "Deployment", "isthmus-gateway", SYSTEM)
    await place.client.patch(*where, merge=rollout, subresource="status")
    await place.client.delete("v1", "Pod", "old", SYSTEM)
    await uses("new", third)
    gone = await place.done("install", "gateway", "--wait")
    assert {name for name, done in gone.items() if done == "removed"} == {f"ConfigMap/{first}"}
    assert await settings() == {third}

    # 4. Settings of before may come again, and uninstalling leaves none, whoever reads them.
    await place.done(*change, "gateway.drainSeconds=30")
    assert (await settings(), await place.reads("gateway")) == ({second, third}, second)
    await place.done("uninstall", "all")
    assert await settings() == set()


async def test_a_registry_of_before_is_made_anew_around_its_pod(place: Place) -> None:
    """Whether pods come one after the other cannot be changed. Garbage is collected by nobody here: a test does it."""
    await place.done("install", "registry", "--federation", "example.isthmus")
    where = ("apps/v1", "StatefulSet", "isthmus-registry", SYSTEM)
    made = await place.client.get(*where)
    assert made["spec"]["podManagementPolicy"] == "Parallel"
    await place.client.delete(*where)
    spec = {**made["spec"], "podManagementPolicy": "OrderedReady"}
    metadata = {key: made["metadata"][key] for key in ("name", "namespace", "labels")}
    old = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec}
    (old,) = await place.client.apply(old, manager="isthmus-install")
    upgrade = asyncio.create_task(place.done("upgrade", "--no-wait"), name="upgrade")

    async def orphaning() -> bool:
        held = (await place.client.get(*where))["metadata"]
        return held.get("deletionTimestamp") is not None and held["finalizers"] == ["orphan"]

    try:
        await place.client.until(orphaning, timeout=START)  # its pods are to stay
        assert not upgrade.done()
        await place.client.patch(*where, merge={"metadata": {"finalizers": None}})
        assert (await upgrade)["StatefulSet/isthmus-registry"] == "created"
    finally:
        upgrade.cancel()
    held = await place.client.get(*where)
    assert (held["spec"]["podManagementPolicy"], held["metadata"]["uid"] != old["metadata"]["uid"]) == (
        "Parallel",
        True,
    )


async def test_an_agent_that_is_needed_goes_only_with_all(place: Place) -> None:
    """Sidecars and gateways go on without it only until their certificates expire."""
    await place.done("install", "agent", "--cluster", "east")
    await place.client.create_namespace("mesh")
    injected = {"name": "web", "namespace": "mesh", "annotations": {"isthmus.io/injected": "0.1.0"}}
    spec = {"containers": [{"name": "web", "image": "web"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": injected, "spec": spec}
    ours = {"name": "echo", "namespace": "mesh", "labels": {"app.kubernetes.io/managed-by": "isthmus"}}
    ports = [{"port": 80, "protocol": "TCP"}]
    shape = {
        "apiVersion": "multicluster.x-k8s.io/v1beta1",
        "kind": "ServiceImport",
        "metadata": ours,
        "spec": {"type": "ClusterSetIP", "ports": ports},
    }
    await place.client.apply(pod, shape)
    status, _, err = await place.fedctl("uninstall", "agent")
    assert status == 7
    assert "error: the agent is needed by 1 pod with a sidecar (mesh/web), 1 import (mesh/echo)" in err
    assert "fedctl cluster leave east" in err
    assert await place.refused("uninstall", "agent", "--dry-run") == ("needed_by", 7)
    would = await place.done("uninstall", "agent", "--dry-run", "--force")
    assert would["Deployment/isthmus-agent"] == "would go"
    # What nobody runs any more, and what another controller imports, needs nothing.
    await place.client.delete("v1", "Pod", "web", "mesh")
    other = {**shape, "metadata": {**ours, "labels": {"app.kubernetes.io/managed-by": "other"}}}
    await place.client.apply(other)
    assert (await place.done("uninstall", "agent", "--dry-run"))["Deployment/isthmus-agent"] == "would go"
    # All at once goes, and says who is left without.
    await place.client.apply(pod, shape)
    status, _, err = await place.fedctl("uninstall", "all")
    assert (status, "without an agent: 1 pod with a sidecar (mesh/web)" in err) == (0, True), err


async def test_the_namespace_that_was_made_goes_unless_others_have_something_in_it(place: Place) -> None:
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", "namespace": SYSTEM}}
    await place.done("install", "registry", "--federation", "example.isthmus")
    await place.client.apply(theirs)
    status, _, err = await place.fedctl("uninstall", "registry", "--purge")
    assert status == 0
    assert (await place.client.get("v1", "Namespace", SYSTEM))["metadata"].get("deletionTimestamp") is None
    assert "kept: namespace isthmus-system, which holds ConfigMap theirs of somebody else" in err
    await place.client.get("v1", "ConfigMap", "theirs", SYSTEM)


async def test_it_goes_otherwise(place: Place) -> None:
    await place.done("install", "registry", "--federation", "example.isthmus")
    gone = await place.done("uninstall", "all", "--purge")
    assert gone["Namespace/isthmus-system"] == "removed"
    namespace = await place.client.get("v1", "Namespace", SYSTEM)
    assert namespace["metadata"]["deletionTimestamp"]


async def test_one_that_was_there_keeps_its_labels_and_stays(place: Place) -> None:
    await place.client.create_namespace(SYSTEM, team="mesh")
    made = await place.done("install", "registry", "--federation", "example.isthmus")
    assert "Namespace/isthmus-system" not in made
    gone = await place.done("uninstall", "all", "--purge")
    assert "Namespace/isthmus-system" not in gone
    namespace = await place.client.get("v1", "Namespace", SYSTEM)
    assert "deletionTimestamp" not in namespace["metadata"]
    assert "pod-security.kubernetes.io/enforce" not in namespace["metadata"]["labels"]


async def test_a_dry_run_changes_nothing_and_hides_the_token(place: Place) -> None:
    secret = token("east")
    status, out, _ = await place.fedctl("install", "agent", "--token", secret, "--dry-run")
    assert status == 0
    documents = [one for one in yaml.safe_load_all(out) if one]
    kinds = {one["kind"] for one in documents}
    assert {"Namespace", "CustomResourceDefinition", "Deployment", "NetworkPolicy", "Secret"} <= kinds
    assert documents[0]["kind"] == "Namespace"
    assert secret not in out
    _, out, _ = await place.fedctl("install", "agent", "--token", secret, "--dry-run", "--show-secrets")
    assert secret in out
    with pytest.raises(NotFound):
        await place.client.get("v1", "Namespace", SYSTEM)
    # The values of a cluster count where it is named; the other components are not printed.
    await place.done("install", "registry", "--federation", "example.isthmus", "--set", "log.level=debug")
    status, out, _ = await place.fedctl("install", "gateway", "--dry-run", "--context", place.cluster.name)
    assert status == 0
    assert "level: debug" in out
    assert "isthmus-registry" not in out


async def test_what_cannot_be_is_refused_before_anything_is_done(place: Place, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("agent:\n  replica: 3\n")
    refused = place.refused
    assert await refused("install", "agent", "--cluster", "east", "--values", str(values)) == ("unknown_value", 2)
    _, _, err = await place.fedctl("install", "agent", "--cluster", "east", "--values", str(values))
    assert "there is no value agent.replica\n  next: did you mean agent.replicas?" in err
    assert await refused("install", "agent") == ("value_missing", 2)
    assert await refused("install", "registry", "--federation", "Example") == ("invalid_name", 2)
    assert await refused("install", "agent", "--cluster", "west", "--token", token("east")) == (
        "token_of_another_cluster",
        2,
    )
    assert await refused("install", "agent", "--cluster", "east", "--skip-crds") == ("crds_missing", 3)
    assert await refused("upgrade") == ("not_installed", 3)
    assert await refused("uninstall", "gateway") == ("not_installed", 3)
    assert await refused("uninstall", "gateways") == ("usage", 2)
    assert await refused("uninstall", "gateway", "--crds") == ("usage", 2)
    assert await refused("install", "registry", "--federation", "a.b", "-n", "No_Label") == ("invalid_name", 2)
    assert await place.ours() == set()

    # Two clusters of one name, and one cluster of two names.
    await place.done("install", "agent", "--cluster", "east")
    assert await refused("uninstall", "gateway") == ("not_installed", 3)
    assert await refused("install", "agent", "--cluster", "west") == ("cluster_renamed", 7)
    assert await refused("install", "agent", "--token", token("west")) == ("cluster_renamed", 7)
    # Another installation in the cluster would write the same roles.
    assert await refused("install", "registry", "--federation", "a.b", "-n", "mesh") == ("installed_elsewhere", 7)
    assert await refused("upgrade", "-n", "mesh") == ("not_installed", 3)


async def test_what_others_have_made_is_not_taken_over(place: Place) -> None:
    await place.client.create_namespace(SYSTEM)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "gateway", "namespace": SYSTEM}}
    await place.client.apply(account, manager="kubectl")
    assert await place.refused("install", "gateway") == ("not_ours", 7)
    annotated = {**account, "metadata": {**account["metadata"], "annotations": {"meta.helm.sh/release-name": "mesh"}}}
    await place.client.apply(annotated, manager="kubectl")
    assert await place.refused("install", "gateway") == ("managed_by_helm", 7)
    assert await place.ours() == set()
    # What somebody made anew under a name of ours is theirs when we go.
    await place.client.delete("v1", "ServiceAccount", "gateway", SYSTEM)
    await place.done("install", "gateway")
    await place.client.delete("v1", "ServiceAccount", "gateway", SYSTEM)
    await place.client.apply(account, manager="kubectl")
    assert (await place.done("uninstall", "gateway"))["ServiceAccount/gateway"] == "kept"
    await place.client.get("v1", "ServiceAccount", "gateway", SYSTEM)


async def test_who_lacks_rights_is_told_which(place: Place) -> None:
    nobody = place.cluster.kubeconfig_for("nobody")
    status, _, err = await place.fedctl("install", "gateway", kubeconfig=nobody)
    assert status == 5
    assert err.startswith("error: not allowed: list configmaps.core\n  next: the user of the kubeconfig lacks {")
    assert await place.refused("install", "gateway", kubeconfig=nobody) == ("kube_forbidden", 5)


async def test_versions_follow_each_other_or_are_refused(place: Place) -> None:
    await place.done("install", "gateway", "--image", "registry.example.com/isthmus:0.1.0")

    async def images() -> str:
        held = await place.client.get("apps/v1", "Deployment", "isthmus-gateway", SYSTEM)
        return str(held["spec"]["template"]["spec"]["containers"][0]["image"])

    assert await place.refused("install", "agent", "--cluster", "east", "--set", "image.tag=0.2.0") == (
        "upgrade_first",
        7,
    )
    await place.done("upgrade", "--no-wait", "--to", "0.2.0")
    assert await images() == "registry.example.com/isthmus:0.2.0"
    assert await place.refused("upgrade", "--to", "0.1.0") == ("downgrade_refused", 7)
    assert await place.refused("upgrade") == ("downgrade_refused", 7)
    assert await place.refused("upgrade", "--to", "0.4.0") == ("version_skew", 7)
    assert await place.refused("upgrade", "--to", "latest") == ("invalid_version", 2)
    await place.done("upgrade", "--no-wait", "--to", "0.2.3")
    await place.done("upgrade", "--no-wait", "--image", "mirror.example.com:5000/mesh/isthmus:0.2.1")
    assert await images() == "mirror.example.com:5000/mesh/isthmus:0.2.1"
    assert (await place.settings("gateway"))["port"] == 31443


async def test_an_upgrade_that_was_killed_leads_on_and_not_back(place: Place) -> None:
    """The registry may have written to its disk what the version before cannot read: the gateway's is still that."""
    await place.done("install", "registry", "--federation", "a.b", "--image", "isthmus:0.1.0")
    await place.done("install", "gateway")

    async def images() -> dict[str, str]:
        found = {}
        for kind, name in (("StatefulSet", "isthmus-registry"), ("Deployment", "isthmus-gateway")):
            held = await place.client.get("apps/v1", kind, name, SYSTEM)
            found[name] = held["spec"]["template"]["spec"]["containers"][0]["image"].partition(":")[2]
        return found

    program = Path(sys.executable).with_name("fedctl")
    words = ("upgrade", "--to", "0.2.0", "--kubeconfig", str(place.kubeconfig))
    upgrade = await asyncio.create_subprocess_exec(program, *words, stdout=DEVNULL, stderr=DEVNULL)

    async def waits_for_the_registry() -> bool:
        assert upgrade.returncode is None
        return (await images())["isthmus-registry"] == "0.2.0"

    try:
        await place.client.until(waits_for_the_registry, timeout=START)
    finally:
        upgrade.kill()
        await upgrade.wait()
    assert (await images())["isthmus-gateway"] == "0.1.0"
    assert await place.refused("upgrade", "--to", "0.1.0") == ("downgrade_refused", 7)
    assert await place.refused("upgrade", "--to", "0.3.0") == ("version_skew", 7)
    for version in ("0.1.0", "0.2.0"):
        beside = ("install", "webhook", "--image", f"isthmus:{version}")
        assert await place.refused(*beside) == ("upgrade_first", 7)
    await place.done("upgrade", "--no-wait", "--to", "0.2.0")
    assert set((await images()).values()) == {"0.2.0"}
    assert await place.refused("upgrade", "--to", "0.1.0") == ("downgrade_refused", 7)
    await place.done("install", "webhook")


async def test_waiting_says_what_is_not_ready_and_why(place: Place) -> None:
    """No node runs the pods: a test says what a kubelet and the controllers would say."""
    await place.done("install", "gateway", "--image", "isthmus:nowhere")
    labels = {"app.kubernetes.io/part-of": "isthmus", "app.kubernetes.io/component": "gateway"}
    metadata = {"name": "isthmus-gateway-x", "namespace": SYSTEM, "labels": labels}
    spec = {"containers": [{"name": "gateway", "image": "isthmus:nowhere"}]}
    await place.client.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": secure(spec)})
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "isthmus:nowhere"'}
    container = {"name": "gateway", "ready": False, "restartCount": 0, "image": "", "imageID": ""}
    status = {"phase": "Pending", "containerStatuses": [{**container, "state": {"waiting": waiting}}]}
    await place.client.patch("v1", "Pod", metadata["name"], SYSTEM, merge={"status": status}, subresource="status")
    rollout = {"status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 1}}
    where = ("apps/v1", "Deployment", "isthmus-gateway", SYSTEM)
    await place.client.patch(*where, merge=rollout, subresource="status")
    code, _, err = await place.fedctl("install", "gateway", "--wait", "--timeout", "1.5")
    assert code == 11
    assert "gateway: 1 of 2 replicas are ready (pod isthmus-gateway-x: ImagePullBackOff: Back-off pulling" in err
    assert "error: gateway is not ready after 1.5 s: 1 of 2 replicas are ready; pod isthmus-gateway-x" in err
    assert (await place.refused("install", "gateway", "--wait", "--timeout", "0.1")) == ("not_ready", 11)
    # It goes on to wait while it is not, and is done as soon as it is.
    waiter = asyncio.create_task(place.fedctl("install", "gateway", "--wait", "--timeout", "60"))
    await place.client.patch(*where, merge={"status": {"readyReplicas": 2}}, subresource="status")
    code, _, err = await waiter
    assert code == 0
    assert "gateway: ready" in err


async def test_waiting_for_the_webhook_lasts_until_api_servers_can_call_it(place: Place) -> None:
    """Its pods answer before the injector has written what API servers need: pods made then would get no sidecar."""
    await place.done("install", "webhook", "--set", "injector.replicas=1")
    where = ("apps/v1", "Deployment", "isthmus-injector", SYSTEM)
    rollout = {"status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}}
    await place.client.patch(*where, merge=rollout, subresource="status")
    code, _, err = await place.fedctl("install", "webhook", "--wait", "--timeout", "1.5")
    assert code == 11
    four = [f"{who}{level}.inject.isthmus.io" for who in ("namespace", "pod") for level in ("", ".unprivileged")]
    assert f"webhook: no certificates yet for {', '.join(four)}: pods get" in err
    assert "error: webhook is not registered after 1.5 s" in err
    waiter = asyncio.create_task(place.fedctl("install", "webhook", "--wait", "--timeout", "60"))
    await place.register()
    code, _, err = await waiter
    assert code == 0, err


def secure(spec: dict[str, Any]) -> dict[str, Any]:
    """As the namespace demands it."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for container in spec["containers"]:
        container["securityContext"] = security
    return {**spec, "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}


async def test_components_may_be_installed_at_the_same_time(place: Place) -> None:
    await place.done("install", "agent", "--cluster", "east")
    words = (("gateway", "--set", "gateway.replicas=3"), ("webhook",), ("registry", "--federation", "example.isthmus"))
    done = await asyncio.gather(*(place.fedctl("install", *one) for one in words))
    assert [status for status, _, _ in done] == [0, 0, 0], done
    record = await place.client.get("v1", "ConfigMap", "isthmus-values", SYSTEM)
    values = yaml.safe_load(record["data"]["values.yaml"])
    assert [values[key]["enabled"] for key in ("agent", "gateway", "injector", "registry")] == [True] * 4
    assert values["gateway"]["replicas"] == 3
    listed = {"/".join(line.split("/")[::2]) for line in record["data"]["objects"].split()}
    assert listed - {"Namespace/isthmus-system"} == await place.ours() - {"ConfigMap/isthmus-values"}


async def test_who_never_gets_a_turn_says_so_and_has_done_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from federation.cli.installation import lifecycle
    from federation.cli.installation.work import Worker

    await place.done("install", "gateway")
    real: Callable[..., Any] = Worker.check
    tries = []

    async def overtaken(self: Worker, plan: Any) -> None:
        tries.append(plan)
        async with place.cluster.connect() as other:  # between our reading and our writing
            merge = {"metadata": {"annotations": {"tries": str(len(tries))}}}
            await other.patch("v1", "ConfigMap", "isthmus-values", SYSTEM, merge=merge)
        await real(self, plan)

    monkeypatch.setattr(Worker, "check", overtaken)
    monkeypatch.setattr(lifecycle, "_PAUSES", (0.0, 0.0))
    assert await place.refused("install", "gateway", "--set", "gateway.replicas=3") == ("installation_busy", 7)
    assert len(tries) == 3
    held = await place.client.get("apps/v1", "Deployment", "isthmus-gateway", SYSTEM)
    assert held["spec"]["replicas"] == 2


async def test_dns_leads_to_the_agents_of_the_installation(place: Place) -> None:
    corefile = ".:53 {\n    kubernetes cluster.local\n    reload\n}\n"
    await place.client.create_namespace("mesh")
    config = {"name": "coredns", "namespace": "mesh"}
    await place.client.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": config, "data": {"Corefile": corefile}}
    )
    assert await place.refused("install", "dns", "--configmap", "mesh/coredns") == ("no_agent", 3)
    await place.done("install", "agent", "--cluster", "east")
    status, _, err = await place.fedctl("install", "dns", "--configmap", "mesh/coredns")
    assert status == 0, err
    address = (await place.client.get("v1", "Service", "isthmus-agent", SYSTEM))["spec"]["clusterIP"]
    held = await place.client.get("v1", "ConfigMap", "coredns", "mesh")
    assert f"forward . {address}" in held["data"]["Corefile"]
