"""The story of a first federation: two empty clusters, docs/kubernetes.md, and somebody who follows it.

Its commands run in its order, by the real kubectl and fedctl. What differs here: the address of the node, a disk that
the registry may write, and that the two programs of the page, agnhost and curl, are played by Python in an image that
these nodes have.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from clusters.command import Done, attempt
from clusters.images.delivery import bring
from clusters.kind import engine
from clusters.kind.installation import VOLUME
from clusters.kind.shop import IMAGE, PODS
from clusters.pytest_plugin import Clusters
from clusters.waiting import START, until
from federation.errors import NotFound, TimedOut
from federation.model.ids import SYSTEM_NAMESPACE

pytestmark = [pytest.mark.e2e, pytest.mark.clusters("two-kind")]

PAGE = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists()) / "docs" / "kubernetes.md"
PAGE_SECONDS = 600.0
FEDCTL = Path(sys.executable).with_name("fedctl")
AGNHOST = """
import http.server as server, socket
class Handler(server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = socket.gethostname().encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(name)))
        self.end_headers()
        self.wfile.write(name)
server.ThreadingHTTPServer(('', 8080), Handler).serve_forever()
"""
CURL = """
import sys, time, urllib.request as request
for _ in range(240):
    try:
        print(request.urlopen(sys.argv[1], timeout=15).read().decode())
        break
    except OSError:
        time.sleep(0.5)
else:
    sys.exit(1)
"""


@dataclass(frozen=True)
class Reader:
    """Somebody at a laptop: contexts of both administrators, an empty home, kubectl and fedctl on PATH."""

    variables: dict[str, str]
    page: str

    async def follow(self, *languages: str, seconds: float = PAGE_SECONDS) -> str:
        """Run all the blocks of the page in these languages; returns what they print."""
        blocks = re.findall(r"^```(sh.*?)\n(.*?)^```", self.page, re.MULTILINE | re.DOTALL)
        script = "\n".join(["set -eux -o pipefail", *(text for language, text in blocks if language in languages)])
        done = await attempt("bash", "-c", script, seconds=seconds, environ=self.variables)
        assert done.status == 0, f"{done.text[-2000:]}\n{done.err[-4000:]}"
        assert "Traceback" not in done.err
        return done.text

    async def fedctl(self, *words: str) -> Done:
        return await attempt(FEDCTL, *words, seconds=PODS, environ=self.variables)

    async def sees_well(self, *words: str) -> None:
        """Ask until it is: on a busy machine an answer may come too late for one look."""
        told = ""

        async def well() -> bool:
            nonlocal told
            done = await self.fedctl(*words)
            told = f"{done.text[-1500:]}{done.err[-500:]}"
            return done.status == 0

        try:
            await until(well, seconds=PODS, what=f"the end of what fedctl {words[0]} complains of")
        except TimedOut as error:
            raise TimedOut(f"{error.message}: {told}") from error

    async def kubectl(self, *words: str, seconds: float = START) -> str:
        done = await attempt("kubectl", *words, seconds=seconds, environ=self.variables)
        assert done.status == 0, (words, done.err)
        return done.text.strip()


def played(page: str, *, address: str) -> str:
    """The page with what differs here; every difference has to be one."""
    place = f"--address {address} --set registry.persistence.storageClass={VOLUME}"
    for pattern, there in (
        (r"--address 192\.0\.2\.10(?= --wait)", place),
        (r"registry\.k8s\.io/e2e-test-images/agnhost:\S+", IMAGE),
        (r"args: \[netexec, --http-port=8080\]", f"command: [python3, -c, {json.dumps(AGNHOST)}]"),
        (r"--image=curlimages/curl:\S+", f"--image={IMAGE}"),
        (r"curl --silent .* (?=http://)", f"python3 -c '{CURL}' "),
    ):
        page, count = re.subn(pattern, lambda _found, there=there: there, page)
        assert count == 1, (pattern, count)
    return page


@pytest.fixture
async def reader(clusters: Clusters, tmp_path: Path) -> AsyncIterator[Reader]:
    lists: dict[str, list[dict[str, object]]] = {"clusters": [], "users": [], "contexts": []}
    for name in clusters.topology.names:
        tree = yaml.safe_load(clusters.kubeconfig(name).read_text())
        for kind in ("clusters", "users"):
            lists[kind].append({**tree[kind][0], "name": name})
        lists["contexts"].append({"name": name, "context": {"cluster": name, "user": name}})
    merged = {"apiVersion": "v1", "kind": "Config", **lists, "current-context": "east"}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(merged))
    wants = await clusters.harness.wanted()
    await asyncio.to_thread(bring, [want.name for want in wants.values()], "isthmus")
    await clusters.harness.disk("east")
    (node,) = [node for node in await engine.nodes() if node.name == wants["east"].control_plane]
    variables = {
        "PATH": f"{FEDCTL.parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "ISTHMUS_HOME": str(tmp_path / "home"),
    }
    reader = Reader(variables, played(PAGE.read_text(), address=node.address))
    yield reader
    # Empty again, whatever has come of it: others expect clusters in which nothing was ever installed.
    await asyncio.gather(*(_empty(reader, name) for name in clusters.topology.names))
    await reader.kubectl("--context", "east", "delete", "persistentvolume", VOLUME, "--ignore-not-found")


async def _empty(reader: Reader, cluster: str) -> None:
    for words in (
        ("install", "dns", "--context", cluster, "--undo"),
        ("uninstall", "all", "--context", cluster, "--purge", "--crds"),
    ):
        await reader.fedctl(*words)
    for namespace in ("shop", SYSTEM_NAMESPACE):
        words = ("delete", "namespace", namespace, "--ignore-not-found")
        await reader.kubectl("--context", cluster, *words, seconds=PODS)


async def test_from_nothing_to_an_answer_by_the_page(
    clusters: Clusters, reader: Reader, record_property: pytest.RecordProperty
) -> None:
    # 1. all of the page: a registry, two agents that join, gateways, names; a link, an export, a call
    began = time.monotonic()
    said = await reader.follow("sh")
    took = time.monotonic() - began
    record_property("seconds_to_the_first_answer", round(took, 1))
    print(f"from `fedctl install registry` to the answer: {took:.1f} s")
    # 2. a pod of west answered the one of east, which nobody touched
    names = await reader.kubectl("--context", "west", "-n", "shop", "get", "pods", "-l", "app=echo", "-o", "name")
    assert f"pod/{said.splitlines()[-1]}" in names.split()
    pod = yaml.safe_load(await reader.kubectl("--context", "east", "-n", "shop", "get", "pod", "caller", "-o", "yaml"))
    assert [one["name"] for one in pod["spec"]["containers"]] == ["caller"]
    assert "initContainers" not in pod["spec"]
    # 3. nothing is left to complain of, and real requests pass both ways
    for words in (("status", "--wait"), ("check",), ("verify",)):
        await reader.sees_well(*words)
    # 4. the page's last commands take west out: east imports nothing of it any more, and nothing is left in west
    await reader.follow("sh leave")
    await reader.kubectl(
        "--context", "east", "-n", "shop", "wait", "serviceimport/echo", "--for=delete", "--timeout=120s", seconds=130
    )
    async with clusters.connect("west") as client:
        with pytest.raises(NotFound):
            await client.get("v1", "ConfigMap", "isthmus-values", SYSTEM_NAMESPACE)
        corefile = (await client.get("v1", "ConfigMap", "coredns", "kube-system"))["data"]["Corefile"]
        assert "clusterset.local" not in corefile
