"""`fedctl install dns` against a real API server: the ConfigMap of CoreDNS, as kubeadm writes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from clusters.waiting import until
from discovery.kube.client import KubeClient
from discovery.kube.settings import KubernetesSettings
from discovery.kube.stubdomain import edit
from federation import log
from federation.aio.clock import SystemClock
from federation.cli.main import run

pytestmark = pytest.mark.integration

COREFILE = ".:53 {\n    errors\n    kubernetes cluster.local\n    forward . /etc/resolv.conf\n    reload\n}\n"
Fedctl = Callable[..., Awaitable[int]]


class CoreDns:
    """The ConfigMap, in the namespace of the test."""

    def __init__(self, client: Any, namespace: str, kubeconfig: Any) -> None:
        self.client, self.namespace, self.kubeconfig = client, namespace, kubeconfig

    async def write(self, text: str, **more: str) -> None:
        await self.client.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "coredns", "namespace": self.namespace, "labels": {"k8s-app": "kube-dns"}},
                "data": {"Corefile": text, **more},
            }
        )

    async def held(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.client.get("v1", "ConfigMap", "coredns", self.namespace)
        return found

    async def text(self) -> str:
        return str((await self.held())["data"]["Corefile"])

    async def deploy(self) -> None:
        """The Deployment of CoreDNS, and another one; two pods of each are ready."""
        for name, configmap in (("coredns", "coredns"), ("other", "another")):
            template = {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [{"name": "x", "image": "x"}],
                    "volumes": [{"name": "config", "configMap": {"name": configmap}}],
                },
            }
            await self.client.apply(
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": name, "namespace": self.namespace},
                    "spec": {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": template},
                }
            )
            await self.progress(name, 2)

    async def progress(self, name: str, updated: int) -> None:
        """What the controller says when so many pods of the newest revision are ready, and no others are left."""
        held = await self.client.get("apps/v1", "Deployment", name, self.namespace)
        status = {
            "observedGeneration": held["metadata"]["generation"],
            "replicas": 2,
            "updatedReplicas": updated,
            "readyReplicas": 2,
        }
        await self.client.patch(
            "apps/v1", "Deployment", name, self.namespace, merge={"status": status}, subresource="status"
        )

    async def mark(self, name: str = "coredns") -> str:
        held = await self.client.get("apps/v1", "Deployment", name, self.namespace)
        annotations = held["spec"]["template"]["metadata"].get("annotations") or {}
        return str(annotations.get("isthmus.io/corefile", ""))

    async def fedctl(self, *words: str) -> int:
        where = ["--kubeconfig", str(self.kubeconfig), "--configmap", f"{self.namespace}/coredns"]
        return await asyncio.to_thread(run, ["install", "dns", *words, *where])


@pytest.fixture
async def coredns(kube_clusters: Any, kube_namespace: str) -> AsyncIterator[CoreDns]:
    async with kube_clusters[0].connect() as client:
        made = CoreDns(client, kube_namespace, kube_clusters[0].kubeconfig)
        await made.write(COREFILE, other="kept")
        yield made


async def test_a_dry_run_prints_the_change_and_does_nothing(coredns: CoreDns, capsys: Any) -> None:
    before = await coredns.held()
    assert await coredns.fedctl("--to", "10.96.0.53:5353", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "+clusterset.local:53 global:53 {" in told
    assert "+    forward . 10.96.0.53:5353" in told
    assert "would change" in told
    assert await coredns.held() == before


async def test_applied_twice_it_is_there_once_and_undo_restores_exactly(coredns: CoreDns, capsys: Any) -> None:
    assert await coredns.fedctl("--to", "10.96.0.53", "--to", "[fd00::35]:5353", "--suffix", "mesh.example") == 0
    made = await coredns.held()
    assert (
        "clusterset.local:53 mesh.example:53 {\n    errors\n    forward . 10.96.0.53:53 [fd00::35]:5353\n"
        in (made["data"]["Corefile"])
    )
    assert (made["data"]["other"], made["metadata"]["labels"]) == ("kept", {"k8s-app": "kube-dns"})
    assert await coredns.fedctl("--to", "10.96.0.53", "--to", "[fd00::35]:5353", "--suffix", "mesh.example") == 0
    assert (await coredns.held())["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    capsys.readouterr()
    assert await coredns.fedctl("--undo", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["done"] == "changed"
    assert await coredns.text() == COREFILE
    assert await coredns.fedctl("--undo") == 0
    assert "unchanged" in capsys.readouterr().out


async def test_it_returns_when_every_pod_has_begun_with_the_corefile(coredns: CoreDns, capsys: Any) -> None:
    """Installed, changed and taken out: each pod is restarted; the same again: none is."""
    await coredns.deploy()
    marks = [""]
    for words in (("--to", "10.96.0.53"), ("--to", "10.96.0.54"), ("--undo",)):
        asked = asyncio.create_task(coredns.fedctl(*words), name="install-dns")
        await until(lambda: differs(coredns, marks[-1]))
        marks.append(await coredns.mark())
        await coredns.progress("coredns", 1)
        await asyncio.wait({asked}, timeout=0.5)
        assert not asked.done(), "one pod has not begun with it"
        await coredns.progress("coredns", 2)
        assert await asked == 0
        told = capsys.readouterr().err
        assert f"Deployment {coredns.namespace}/coredns is restarted pod by pod" in told
        assert f"Deployment {coredns.namespace}/coredns: ready" in told
        assert await coredns.fedctl(*words, "-o", "json") == 0
        assert (await coredns.mark(), await coredns.mark("other")) == (marks[-1], "")
        again = json.loads(capsys.readouterr().out)
        assert (again["restarted"], again["readers"]) == ([], [f"Deployment {coredns.namespace}/coredns"])


async def test_no_pod_is_restarted_unless_it_is_wanted(coredns: CoreDns, capsys: Any) -> None:
    await coredns.deploy()
    assert await coredns.fedctl("--to", "10.96.0.53", "--dry-run") == 0
    assert f"Deployment {coredns.namespace}/coredns would be restarted pod by pod" in capsys.readouterr().err
    assert await coredns.fedctl("--to", "10.96.0.53", "--no-restart") == 0
    assert "each of its pods takes it up by itself, within minutes" in capsys.readouterr().err
    assert await coredns.mark() == ""


async def test_pods_that_do_not_come_back_end_it_with_a_reason(coredns: CoreDns, capsys: Any) -> None:
    await coredns.deploy()
    assert await coredns.fedctl("--to", "10.96.0.53", "--timeout", "1", "-o", "json") == 11
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error["code"] == "not_ready"
    assert "not taken up yet" in error["message"]
    assert error["hint"].startswith(f"kubectl -n {coredns.namespace} rollout status deployment/coredns")


async def differs(coredns: CoreDns, mark: str) -> bool:
    return await coredns.mark() != mark


async def test_a_foreign_edit_is_kept(coredns: CoreDns, capsys: Any) -> None:
    assert await coredns.fedctl("--to", "10.96.0.53") == 0
    edited = (await coredns.text()).replace("    reload\n", "    reload\n    loadbalance\n")
    await coredns.write(edited, other="kept")
    assert await coredns.fedctl("--to", "10.96.0.54") == 0
    assert "loadbalance" in await coredns.text()
    assert await coredns.fedctl("--undo") == 0
    assert await coredns.text() == COREFILE.replace("    reload\n", "    reload\n    loadbalance\n")


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (".:53 {\n  errors\n", 2, "is not understood"),
        ("global:53 {\n  whoami\n}\n", 7, "already"),
    ],
)
async def test_what_it_does_not_understand_it_refuses_in_one_line(
    coredns: CoreDns, capsys: Any, text: str, status: int, said: str
) -> None:
    await coredns.write(text)
    assert await coredns.fedctl("--to", "10.96.0.53") == status
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("error: ")
    assert said in told[0]
    assert await coredns.text() == text


async def test_wrong_usage_says_what_is_right(coredns: CoreDns, capsys: Any) -> None:
    await coredns.client.delete("v1", "ConfigMap", "coredns", coredns.namespace)
    for words, status in (
        (("--to", "10.96.0.53"), 3),
        ((), 3),  # no agent is installed
        (("--to", "10.96.0.53", "--undo"), 2),
        (("--to", "127.0.0.1"), 2),
        (("--to", "agent.example"), 2),
    ):
        assert await coredns.fedctl(*words) == status, words
        assert len(capsys.readouterr().err.splitlines()) <= 2


async def test_a_change_that_somebody_else_makes_meanwhile_is_not_lost(coredns: CoreDns) -> None:
    settings = KubernetesSettings(kubeconfig=str(coredns.kubeconfig))
    client = await KubeClient.open(settings, log=log.get("test"), clock=SystemClock())
    loop, seen = asyncio.get_running_loop(), []

    async def others() -> None:
        await coredns.write(COREFILE.replace("errors", "errors\n    log"))

    real = client.update

    async def update(*args: Any, **more: Any) -> bytes:
        if not seen:
            seen.append(loop)
            await others()
        return await real(*args, **more)

    client.update = update  # type: ignore[method-assign]
    try:
        await edit(client, coredns.namespace, "coredns", lambda text: text + "# ours\n")
    finally:
        await client.close()
    assert await coredns.text() == COREFILE.replace("errors", "errors\n    log") + "# ours\n"
