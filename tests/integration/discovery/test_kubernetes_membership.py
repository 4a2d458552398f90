"""A Kubernetes cluster joins, is named, and leaves: `fedctl cluster`, the Secret of its identity, the About API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clusters.network import free_port
from discovery.agent import Agent
from discovery.kube.about import CLUSTER, CLUSTERSET, SETTLE_SECONDS
from discovery.settings import load
from federation import log
from federation.cli.home import Home
from federation.cli.main import run
from federation.errors import NotFound

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
ABOUT = "about.k8s.io/v1beta1"


class Operator:
    """A person with fedctl, a registry, and a Kubernetes cluster."""

    def __init__(self, federation: Any, cluster: Any, client: Any, namespace: str, home: Path) -> None:
        self.federation, self.cluster, self.client = federation, cluster, client
        self.namespace, self.home = namespace, home

    async def fedctl(self, *words: str) -> int:
        return await asyncio.to_thread(run, ["--home", str(self.home), *words])

    async def token(self, name: str = "east") -> str:
        async with self.federation.operator() as operator:
            return str((await operator.issue_token(name)).token)

    async def join(self, directory: Path, name: str = "east") -> int:
        where = ["--kubeconfig", str(self.cluster.kubeconfig), "--namespace", self.namespace]
        listen = ["--listen", f"127.0.0.1:{free_port()}"]
        words = ["--token", await self.token(name), "--directory", str(directory), *where, *listen]
        return await self.fedctl("cluster", "join", name, *words)

    async def property(self, name: str) -> dict[str, Any]:
        """Empty where there is none."""
        try:
            found: dict[str, Any] = await self.client.get(ABOUT, "ClusterProperty", name)
        except NotFound:
            return {}
        return found

    async def values(self) -> tuple[str, ...]:
        return tuple([(await self.property(n)).get("spec", {}).get("value", "") for n in (CLUSTER, CLUSTERSET)])


@pytest.fixture
async def operator(federation: Any, kube_clusters: Any, kube_namespace: str, tmp_path: Path) -> AsyncIterator[Operator]:
    Home(directory=tmp_path / "home").with_operator(tmp_path / "registry" / "operator").save()
    cluster = kube_clusters[0]
    async with cluster.connect() as client:
        made = Operator(federation, cluster, client, kube_namespace, tmp_path / "home")
        for name in (CLUSTER, CLUSTERSET):
            if await made.property(name):
                await client.delete(ABOUT, "ClusterProperty", name)
        yield made
        await cluster.heal()
        for name in (CLUSTER, CLUSTERSET):
            if await made.property(name):
                await client.delete(ABOUT, "ClusterProperty", name)


async def test_a_cluster_joins_has_a_replica_and_leaves(operator: Operator, tmp_path: Path, until: Until) -> None:
    one, two = tmp_path / "east", tmp_path / "east-2"
    assert await operator.join(one) == 0
    settings = load(one / "settings.yaml")
    assert settings.files is None
    assert settings.kubernetes is not None
    assert settings.kubernetes.kubeconfig == str(operator.cluster.kubeconfig)
    secret = await operator.client.get("v1", "Secret", "isthmus-identity", operator.namespace)
    assert set(secret["data"]) == {"settings.yaml", "root.pem", "registry.bundle", "epoch"}

    where = ["--kubeconfig", str(operator.cluster.kubeconfig), "--namespace", operator.namespace]
    listen = f"127.0.0.1:{free_port()}"
    assert await operator.fedctl("cluster", "replica", str(two), *where, "--listen", listen) == 0
    for name in ("keys/root.pem", "registry.bundle"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert (two / "keys" / "root.pem").stat().st_mode & 0o077 == 0
    replica = load(two / "settings.yaml")
    assert (replica.cluster, replica.federation, replica.registry) == ("east", settings.federation, settings.registry)
    assert (replica.listen, replica.kubernetes) == (listen, settings.kubernetes)

    # another identity does not replace it, and leaves nothing behind
    assert await operator.join(tmp_path / "again", "other") == 4
    assert not (tmp_path / "again").exists()

    agent = Agent(settings, log=log.get("east"))
    task = asyncio.create_task(agent.run())
    try:
        await until(lambda: agent.serving)
        await until(lambda: _is(operator.values(), ("east", "fed.example")))
        assert await operator.fedctl("cluster", "leave", "east") == 0
        assert await operator.values() == ("", "")
        with pytest.raises(NotFound):
            await operator.client.get("v1", "Secret", "isthmus-identity", operator.namespace)
        # the agent has been told, and does not write them again
        await asyncio.wait({task}, timeout=2 * SETTLE_SECONDS)  # proves an absence
        assert await operator.values() == ("", "")
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _is(found: Awaitable[Any], wanted: Any) -> bool:
    return bool(await found == wanted)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kubeconfig", "/nowhere/config"), "cannot be read"),
        ((), "--manifests FOLDER, --kubeconfig FILE (or --in-cluster), or --consul URL"),
        (
            ("--manifests", "m", "--kubeconfig", "k"),
            "--manifests FOLDER, --kubeconfig FILE (or --in-cluster), or --consul URL",
        ),
        (("--context", "c"), "--context needs --kubeconfig"),
        (("--kubeconfig", "k", "--in-cluster"), "not both"),
    ],
)
async def test_a_wrong_way_to_join_is_one_line_and_costs_no_token(
    federation: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    async with federation.operator() as client:
        token = (await client.issue_token("east")).token
    arguments = ["cluster", "join", "east", "--token", token, "--directory", str(tmp_path / "east"), *words]
    assert await asyncio.to_thread(run, ["--home", str(tmp_path / "home"), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "east").exists()
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    again = arguments[: -len(words)] if words else arguments
    assert await asyncio.to_thread(run, ["--home", str(tmp_path / "home"), *again, "--manifests", str(manifests)]) == 0


async def test_properties_of_somebody_else_are_left_and_shown(operator: Operator, tmp_path: Path, until: Until) -> None:
    other = {"apiVersion": ABOUT, "kind": "ClusterProperty", "metadata": {"name": CLUSTER}, "spec": {"value": "other"}}
    await operator.client.apply(other)
    assert await operator.join(tmp_path / "east") == 0
    agent = Agent(load(tmp_path / "east" / "settings.yaml"), log=log.get("east"))
    task = asyncio.create_task(agent.run())
    try:

        def shown() -> list[str]:
            return [p.detail for p in agent.problems.all() if p.code == "cluster_property_differs"]

        await until(shown)
        await until(lambda: _is(operator.values(), ("other", "fed.example")))
        assert "'other'" in shown()[0]
        await operator.client.patch(ABOUT, "ClusterProperty", CLUSTER, merge={"spec": {"value": "east"}})
        await until(lambda: not shown())
        assert await operator.fedctl("cluster", "leave", "east") == 0
        assert await operator.values() == ("east", "")  # the one that is not ours stays
    finally:
        task.cancel()
        await asyncio.wait({task})
