"""`fedctl inject` asks the cluster for what it is not told: the injector's settings, the roots, the addresses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.apiserver import LocalCluster
from federation.aio.clock import SystemClock
from federation.cli.main import run
from federation.trust.authority import Authority
from federation.trust.pem import armour

pytestmark = pytest.mark.integration

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: web, image: 'web:1'}]\n"


def config_map(name: str, key: str, text: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {key: text}}


def deployment(name: str, settings: str) -> dict[str, Any]:
    labels = {"app": name}
    pod = {
        "containers": [{"name": "injector", "image": "isthmus"}],
        "volumes": [{"name": "settings", "configMap": {"name": settings}}],
    }
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def service(name: str) -> dict[str, Any]:
    spec = {"ports": [{"port": 53}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


async def test_the_cluster_tells_what_pods_get(
    kube_clusters: tuple[LocalCluster, LocalCluster],
    kube_namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = kube_clusters[0]
    (tmp_path / "pod.yaml").write_text(POD)
    authority = Authority.open(tmp_path / "ca", trust_domain="east.test.isthmus", clock=SystemClock())
    roots = armour(authority.bundle.roots).decode()
    words = ["inject", str(tmp_path / "pod.yaml"), "--kubeconfig", str(cluster.kubeconfig), "-n", "shop"]
    words += ["--system", kube_namespace]

    async def fedctl(*more: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(run, [*words, *more])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    async with cluster.connect() as client:

        async def apply(made: dict[str, Any]) -> dict[str, Any]:
            made["metadata"]["namespace"] = kube_namespace
            (there,) = await client.apply(made)
            return there

        # One after the other is missing, and named.
        status, _, err = await fedctl("-o", "json")
        error = json.loads(err)["error"]
        assert (status, error["message"]) == (
            3,
            f"there is no Deployment {kube_namespace}/isthmus-injector in the cluster",
        )
        assert "is the injector installed" in error["hint"]
        await apply(deployment("isthmus-injector", "isthmus-injector-0123456789"))
        status, _, err = await fedctl()
        assert (status, f"no ConfigMap {kube_namespace}/isthmus-injector-0123456789" in err) == (3, True), err
        settings = {
            "state_directory": "/var/lib/isthmus",
            "image": "isthmus:0.1.0",
            "agent": {
                "enrolment": [f"isthmus-agent.{kube_namespace}.svc:7446"],
                "anchors": "/etc/isthmus/trust/root.pem",
                "service_account_token": "/var/run/secrets/isthmus/token",
            },
            "pods": {"way": "loopback"},
        }
        await apply(config_map("isthmus-injector-0123456789", "injector.yaml", "surprise: 1"))
        status, _, err = await fedctl()
        assert (status, f"ConfigMap {kube_namespace}/isthmus-injector-0123456789, injector.yaml" in err) == (2, True), (
            err
        )
        await apply(config_map("isthmus-injector-0123456789", "injector.yaml", yaml.safe_dump(settings)))
        status, _, err = await fedctl()
        assert (status, f"no ConfigMap {kube_namespace}/isthmus-trust" in err) == (3, True), err
        await apply(config_map("isthmus-trust", "root.pem", roots))
        status, _, err = await fedctl()
        assert (status, f"no Service {kube_namespace}/isthmus-agent" in err) == (3, True), err
        agent = (await apply(service("isthmus-agent")))["spec"]["clusterIP"]
        status, _, err = await fedctl()
        assert (status, "no Service kube-system/kube-dns" in err, "--dns" in err) == (3, True, True), err

        status, out, err = await fedctl("--dns", "10.96.0.10")
        assert (status, err) == (0, "Pod shop/web: loopback way\n")
        pod = yaml.safe_load(out)
        assert pod["metadata"]["annotations"]["isthmus.io/trust"] == roots
        found = yaml.safe_load(pod["metadata"]["annotations"]["isthmus.io/sidecar"])
        assert found["agent"]["enrolment"] == [f"{agent}:7446"]
        assert found["dns"]["upstream"] == ["10.96.0.10"]
        assert pod["spec"]["dnsConfig"]["searches"][0] == "shop.svc.cluster.local"
