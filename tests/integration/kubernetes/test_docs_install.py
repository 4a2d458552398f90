"""docs/install.md as a new user follows it: its commands, in its order, on real API servers, as far as no pod runs."""

from __future__ import annotations

import asyncio
import base64
import re
import shlex
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.apiserver import LocalCluster
from clusters.kubeclient import KubeClient
from federation.cli.main import run
from federation.errors import NotFound
from federation.trust.token import JoinToken

pytestmark = pytest.mark.integration

ROOT = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists())
PAGE = ROOT / "docs" / "install.md"
SYSTEM = "isthmus-system"
COREFILE = ".:53 {\n    kubernetes cluster.local in-addr.arpa ip6.arpa\n    reload\n}\n"


def blocks() -> list[tuple[str, list[str]]]:
    """What is said of each block of commands, and its commands."""
    found = re.findall(r"^```sh *(\w*)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [(kind, text.replace("\\\n", " ").splitlines()) for kind, text in found]


class Reader:
    """Somebody at the keyboard: fedctl and helm are the real ones, kubectl the few words of it that the page has."""

    def __init__(self, clusters: dict[str, LocalCluster], folder: Path, helm: Path) -> None:
        self.clusters, self.folder, self.helm = clusters, folder, helm
        token = JoinToken.new(registry="192.0.2.10:7401", ca_fingerprint=f"sha256:{'0' * 64}", cluster="east")
        self.variables = {"TOKEN": token.encode()}

    async def type(self, line: str, kind: str, capsys: Any) -> tuple[int, str]:
        """Exit status, and what was printed."""
        words = [re.sub(r"\$(\w+)", lambda found: self.variables[found[1]], word) for word in shlex.split(line)]
        target = words.index(">") if ">" in words else len(words)
        words, file = words[:target], words[target + 1 :]
        if words[0] == "fedctl":
            more = ["--timeout", "0.2"] if kind == "wait" else []
            status = await asyncio.to_thread(run, [*words[1:], *more])
        elif words[0] == "kubectl":
            status = await self.kubectl(words[1:])
        else:
            assert (words[0], words[1:3]) == ("helm", ["upgrade", "--install"])
            command = [str(self.helm), "template", *words[3:]]
            done = await asyncio.to_thread(
                subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60
            )
            return done.returncode, done.stdout + done.stderr
        out, err = capsys.readouterr()
        if file:
            (self.folder / file[0]).write_text(out)
        return status, out + err

    async def kubectl(self, words: list[str]) -> int:
        assert words.pop(0) == "--context"
        async with self.clusters[words.pop(0)].connect() as client:
            namespace = SYSTEM
            if words[0] == "-n":
                namespace = words[1]
                words = words[2:]
            if words[:3] == ["label", "namespace", "default"]:
                key, _, value = words[3].partition("=")
                await client.patch("v1", "Namespace", "default", merge={"metadata": {"labels": {key: value}}})
            elif words[:3] == ["create", "secret", "generic"]:
                key, _, value = words[4].removeprefix("--from-literal=").partition("=")
                data = {key: base64.b64encode(value.encode()).decode()}
                metadata = {"name": words[3], "namespace": namespace}
                await client.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
            else:
                assert words[:2] == ["apply", "--server-side"]
                await client.apply(*((self.folder / name).read_text() for name in words[3::2]), manager="kubectl")
        return 0


async def objects(client: KubeClient) -> set[str]:
    """What is in our namespace."""
    return {
        f"{kind}/{one['metadata']['name']}"
        for version, kind in (
            ("apps/v1", "Deployment"),
            ("apps/v1", "StatefulSet"),
            ("v1", "Service"),
            ("v1", "Secret"),
        )
        for one in await client.list(version, kind, SYSTEM)
    }


async def test_the_page_is_followed(
    start_kube: Callable[..., Awaitable[tuple[LocalCluster, ...]]],
    helm_program: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """1. every command does what the page says  2. what it says of removing is so  3. manifests and fedctl are one."""
    clusters = await start_kube("east", "west", controllers=False, install=())
    merged: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "current-context": "west"}
    for cluster in clusters:
        tree = yaml.safe_load(cluster.kubeconfig.read_text())
        for kind in ("clusters", "users", "contexts"):
            (one,) = tree[kind]
            merged.setdefault(kind, []).append({**one, "name": cluster.name})
        merged["contexts"][-1]["context"] = {"cluster": cluster.name, "user": cluster.name}
        async with cluster.connect() as client:
            config = {"name": "coredns", "namespace": "kube-system"}
            await client.until(lambda client=client: client.get("v1", "Namespace", "kube-system"))
            await client.apply(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": config, "data": {"Corefile": COREFILE}}
            )
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(merged))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    reader = Reader({cluster.name: cluster for cluster in clusters}, tmp_path, helm_program)

    removed = False
    async with clusters[0].connect() as east, clusters[1].connect() as west:
        for kind, lines in blocks():
            for line in lines:
                status, said = await reader.type(line, kind, capsys)
                assert status == (11 if kind == "wait" else 0), f"{line}: {said}"
                if kind == "wait":
                    assert "agent is not ready after 0.2 s" in said
                if line.startswith("fedctl uninstall webhook"):
                    # All was there.
                    there = await objects(east)
                    assert {"StatefulSet/isthmus-registry", "Service/isthmus-gateway", "Secret/isthmus-join"} <= there
                    gateway = await east.get("apps/v1", "Deployment", "isthmus-gateway", SYSTEM)
                    assert gateway["spec"]["replicas"] == 3
                    corefile = await east.get("v1", "ConfigMap", "coredns", "kube-system")
                    agent = await east.get("v1", "Service", "isthmus-agent", SYSTEM)
                    assert agent["spec"]["clusterIP"] in corefile["data"]["Corefile"]
                if line == "fedctl uninstall all --context east":
                    removed = True
                    assert await objects(east) == set()
                    await east.get("v1", "Namespace", SYSTEM)
        assert removed
        assert await objects(west) == {
            "Deployment/isthmus-agent",
            "Deployment/isthmus-gateway",
            "Service/isthmus-agent",
            "Service/isthmus-gateway",
            "Secret/isthmus-join",
        }
        with pytest.raises(NotFound):
            await west.get("v1", "ConfigMap", "isthmus-values", SYSTEM)
