"""In a pod: the API server, its certificate and the agent's token are where a kubelet puts them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from clusters.apiserver import LocalCluster
from clusters.waiting import until
from discovery.kube import connection
from discovery.kube.settings import KubernetesSettings
from discovery.sources.kubernetes import KubernetesSource
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.tasks import cancel
from federation.errors import InvalidSettings
from federation.model.ids import ServiceName
from federation.model.service import Locality

pytestmark = pytest.mark.integration


@pytest.fixture
async def pod(east: LocalCluster, kube_namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the service account that this process has, and may read everything with."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent", "namespace": kube_namespace}}
    bound = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"agent-{kube_namespace}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": kube_namespace}],
    }
    directory = tmp_path / "serviceaccount"
    directory.mkdir()
    async with east.connect() as kube:
        await kube.create(account, bound)
        (directory / "token").write_text(await kube.token(kube_namespace, "agent"))
    (directory / "ca.crt").write_bytes((east.place.pki / "ca.crt").read_bytes())
    server = urlsplit(east.place.server)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(server.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.setattr(connection, "SERVICE_ACCOUNT", str(directory))
    return directory


def source(tmp_path: Path) -> KubernetesSource:
    return KubernetesSource(
        KubernetesSettings(),
        cache_path=tmp_path / "kubernetes.state",
        locality=Locality("home", "home-1"),
        clock=SystemClock(),
        log=log.get("test"),
    )


async def test_an_agent_in_a_pod_reads_as_its_service_account(
    pod: Path, make: Any, east: LocalCluster, kube_namespace: str, tmp_path: Path
) -> None:
    read = source(tmp_path)
    running = asyncio.create_task(read.run(), name="source")
    try:
        async with east.connect() as kube:
            await kube.create(
                make.service(kube_namespace),
                make.slice_(kube_namespace, make.at("10.1.0.1")),
                make.export(kube_namespace),
            )
        name = ServiceName(kube_namespace, "echo")
        await until(lambda: running.done() or name in read.state.value.exports)
        assert [e.address for e in read.state.value.exports[name].endpoints] == ["10.1.0.1"]
        assert read.client.host == east.place.server
    finally:
        await cancel(running)


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
async def test_a_pod_without_its_account_is_told_in_one_line(pod: Path, missing: str, tmp_path: Path) -> None:
    (pod / missing).unlink()
    with pytest.raises(InvalidSettings, match="does not run in a pod") as raised:
        await source(tmp_path).run()
    assert "\n" not in str(raised.value)
