"""fedctl's way to agents and registry in pods: real processes behind the protocol of `pods/exec`.

What a kubelet adds to it is in tests/e2e/test_pods.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.network import free_port
from clusters.podserver import V4, PodServer
from clusters.processes import ProcessFederation
from clusters.waiting import until
from federation.cli.home import Place
from federation.cli.main import run
from federation.cli.pods import bridged
from federation.errors import IsthmusError

pytestmark = pytest.mark.integration


@contextlib.asynccontextmanager
async def second(tmp_path: Path, folder: Path, **more: Any) -> AsyncIterator[PodServer]:
    """The API server of another cluster, in which west's agent runs."""
    made = PodServer(**more)
    await made.start("127.0.0.1", free_port())
    made.pod("isthmus-agent-west", "agent", folder)
    try:
        yield made
    finally:
        await made.close()


async def test_two_clusters_in_pods_are_operated_like_any(
    pods: PodServer, federation: ProcessFederation, fedctl: Any, tmp_path: Path
) -> None:
    async with second(tmp_path, federation.places["west"].agent, protocols=(V4,)) as west:
        there = west.kubeconfig(tmp_path / "west", "kind-west")
        # 1. the credential comes from the registry's pod, for the person who asks
        used = await fedctl.ok("registry", "use", "--context", "kind-east", "-o", "json")
        assert used.json["bridge"] is False
        assert (fedctl.home / "operator").stat().st_mode & 0o777 == 0o700
        assert {p.stat().st_mode & 0o777 for p in (fedctl.home / "operator").iterdir()} == {0o600}
        # 2. both agents, in two API servers, one of which cannot close an input alone
        await fedctl.ok("cluster", "use", "east", "--context", "kind-east")
        await fedctl.ok("cluster", "use", "west", "--context", "kind-west", "--kubeconfig", str(there))
        contexts = yaml.safe_load((fedctl.home / "contexts.yaml").read_text())
        assert contexts["clusters"]["west"] == {
            "kubeconfig": str(there),
            "context": "kind-west",
            "namespace": "isthmus-system",
        }
        # 3. then everything as ever
        assert (await fedctl.ok("link", "east", "west")).out == "east and west are linked\n"
        links = (await fedctl.ok("get", "links", "-o", "json")).json
        assert [(link["a"], link["b"]) for link in links] == [("east", "west")]
        services = (await fedctl.ok("get", "services", "-o", "json")).json
        assert {row["cluster"] for row in services} == {"east", "west"}
        status = await fedctl("status", "-o", "json")
        assert {row["registry"] for row in status.json["clusters"]} == {"connected"}
        assert {f["code"] for f in status.json["findings"]} == {"no_gateway"}  # none was started
        await fedctl.ok("resolve", "echo.shop.global", "--from", "west")
        await fedctl.ok("unlink", "east", "west")


async def test_the_registry_is_dialled_by_way_of_its_pod_where_its_address_leads_nowhere(
    pods: PodServer, federation: ProcessFederation, fedctl: Any
) -> None:
    await fedctl.ok("registry", "use", "--context", "kind-east", "--bridge")
    assert [c["name"] for c in (await fedctl.ok("get", "clusters", "-o", "json")).json] == ["east", "west"]
    assert pods.commands[-1] == ["isthmus-registry-0", "registry", "isthmus-bridge", "registry-port"]


async def test_a_credential_that_has_expired_is_fetched_again(pods: PodServer, fedctl: Any) -> None:
    await fedctl.ok("registry", "use", "--context", "kind-east")
    before = (fedctl.home / "operator/operator.pem").read_bytes()
    await fedctl.ok("get", "clusters")
    assert (fedctl.home / "operator/operator.pem").read_bytes() == before
    (fedctl.home / "operator/operator.pem").write_text("it has expired, say")
    await fedctl.ok("get", "clusters")
    assert (fedctl.home / "operator/operator.pem").read_bytes() != before


CRASHED = {"terminated": {"exitCode": 5, "reason": "Error"}}


@pytest.mark.parametrize(
    ("change", "code", "status", "says", "hint"),
    [
        ("context", "no_context", 3, "there is no context 'kind-nowhere'", "it has: kind-east, kind-other"),
        ("nothing", "no_pod", 3, "there is no pod of the agent in the namespace", "--context of another"),
        ("forbidden", "kube_forbidden", 5, "not allowed: exec in", 'resources: ["pods/exec"]'),
        ("gone", "kube_not_found", 3, "no such pod any more", ""),
        ("crashed", "pod_down", 6, "has crashed (exit status 5, Error)", "kubectl logs -n isthmus-system"),
        ("pulling", "pod_down", 6, "waits (ErrImagePull: no such image)", "kubectl describe pod"),
        ("joining", "agent_down", 6, "no agent answers", "kubectl logs"),
        ("old", "exec_failed", 6, "has no isthmus-bridge", "older than this fedctl"),
        ("cut", "exec_failed", 6, "cut", ""),
        ("away", "kube_unreachable", 6, "cannot be reached", ""),
    ],
)
async def test_what_is_in_the_way_is_told_in_one_line(
    server: PodServer, tmp_path: Path, change: str, code: str, status: int, says: str, hint: str
) -> None:
    server.pod("isthmus-agent-1", "agent", tmp_path)
    match change:
        case "nothing":
            server.pods.clear()
        case "forbidden" | "gone":
            server.refuse = {"forbidden": 403, "gone": 404}[change]
        case "crashed":
            waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}
            server.pod("isthmus-agent-1", "agent", None, ready=False, state=waiting, lastState=CRASHED)
        case "pulling":
            waiting = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
            server.pod("isthmus-agent-1", "agent", None, ready=False, state=waiting)
        case "joining":
            server.pod("isthmus-agent-1", "agent", tmp_path, ready=False)
        case "old":
            server.folders.clear()
        case "cut":
            server.cut = True
    kubeconfig = str(server.kubeconfig(tmp_path / "kubeconfig", "kind-east", "kind-other"))
    context = "kind-nowhere" if change == "context" else "kind-other"
    if change == "away":
        await server.close()
    with pytest.raises(IsthmusError) as caught:
        async with bridged(Place(kubeconfig=kubeconfig, context=context), "agent"):
            pytest.fail("it was reached")
    error = caught.value
    assert (error.error_code, error.exit_status) == (code, status)
    assert says in error.message
    assert hint in error.hint
    assert "\n" not in str(error)


async def test_a_cluster_of_another_name_is_not_taken(pods: PodServer, fedctl: Any) -> None:
    done = await fedctl("cluster", "use", "west", "--context", "kind-east", "-o", "json")
    assert (done.status, done.error["message"].endswith("is east, not west")) == (2, True)
    assert not (fedctl.home / "contexts.yaml").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("cluster", "use", "east"),
        ("cluster", "use", "east", "folder", "--context", "kind-east"),
        ("registry", "use"),
        ("registry", "use", "folder", "--bridge"),
        ("cluster", "use", "east", "--context", "kind-east", "--namespace", "Not a label"),
    ],
)
def test_where_it_is_has_to_be_said_once(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--home", str(tmp_path), *words, "-o", "json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["message"]


async def test_a_backup_of_what_is_in_pods_and_its_restoration(
    pods: PodServer, federation: ProcessFederation, fedctl: Any, tmp_path: Path
) -> None:
    """The page's commands for pods (docs/backup.md), the registry's: a cluster's identity needs an API server."""
    commands = [line for line in _commands("## In pods") if "--cluster east" not in line]
    assert [c.split()[1] for c in commands] == ["registry", "cluster", "backup", "registry", "restore", "status"]
    file = tmp_path / "registry-pod.tar"
    for line in commands[:3]:
        await fedctl.ok(*line.replace("registry-pod.tar", str(file)).split()[1:])
    before = (fedctl.home / "operator/ca.pem").read_bytes()
    # the registry is lost: another one has taken its place, with a CA of its own
    folder = federation.directory / "registry"
    federation.kill("registry")
    settings = (folder / "settings.yaml").read_text()
    shutil.rmtree(folder)
    federation.init_registry()
    (folder / "settings.yaml").write_text(settings)
    federation.restart("registry")
    await federation.wait_ready("registry")
    await fedctl.ok("registry", "use", "--context", "kind-east")
    assert (fedctl.home / "operator/ca.pem").read_bytes() != before
    assert (await fedctl.ok("get", "clusters", "-o", "json")).json == []
    # nothing is in it that would be overwritten; the credential that fedctl has is that of the restored one
    await fedctl.ok("restore", str(file))
    assert (fedctl.home / "operator/ca.pem").read_bytes() == before

    async def live() -> bool:
        found = (await fedctl("get", "clusters", "-o", "json")).json
        return [c["state"] for c in found] == ["live", "live"]

    await until(live)
    refused = await fedctl("restore", str(file), "-o", "json")
    assert (refused.status, refused.error["code"]) == (7, "would_overwrite")
    status = await fedctl("status", "-o", "json")
    assert "store_restored" in {f["code"] for f in status.json["findings"]}


def _commands(heading: str) -> list[str]:
    page = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists()) / "docs" / "backup.md"
    section = page.read_text().partition(f"{heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]
