"""docs/agents-outside.md as a new user follows it: its commands, in its order, on two real API servers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import yaml

from clusters.apiserver import LocalCluster
from clusters.children import start_child
from clusters.forked import command
from clusters.names import lookup
from clusters.namespace import LocalNetwork
from clusters.waiting import ANSWER, START, until
from federation.errors import NotFound, TimedOut, Unavailable

pytestmark = pytest.mark.e2e

PAGE = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists()) / "docs" / "agents-outside.md"
PAGE_SECONDS = 400
"""It is a quarter of a minute's work on a quiet machine."""
COREFILE = """.:53 {
    errors
    health
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
    }
    forward . /etc/resolv.conf
    cache 30
}
"""


@pytest.fixture
def network() -> Iterator[str]:
    """The first three numbers of addresses of this machine."""
    try:
        network = LocalNetwork()
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    yield next(network.addresses()).rsplit(".", 1)[0]
    network.close()


@pytest.fixture
async def environment(
    start_kube: Callable[..., Awaitable[tuple[LocalCluster, ...]]], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[dict[str, str], tuple[LocalCluster, ...], Path]]:
    """What the page asks for: contexts of two administrators, the commands on PATH; CoreDNS is configured."""
    clusters = await start_kube("east", "west", install=())
    here = tmp_path_factory.mktemp("k")
    merged: dict[str, Any] = {"apiVersion": "v1", "kind": "Config"}
    for cluster in clusters:
        tree = yaml.safe_load(cluster.kubeconfig.read_text())
        for kind in ("clusters", "users", "contexts"):
            for one in tree[kind]:
                one["name"] = cluster.name
            merged.setdefault(kind, []).extend(tree[kind])
        merged["contexts"][-1]["context"] |= {"cluster": cluster.name, "user": cluster.name}
        async with cluster.connect() as client:
            metadata = {"name": "coredns", "namespace": "kube-system"}
            await client.apply(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": COREFILE}}
            )
    commands = here / "bin"
    commands.mkdir()
    server = here / "commands.sock"
    serving = start_child([sys.executable, Path(__file__).with_name("kubectl.py"), server], here / "commands.log")
    try:
        for name in ("kubectl", "fedctl"):
            command(commands, name, server)
        await until(server.exists, seconds=START, what="the server of commands")
        (here / "kubeconfig").write_text(yaml.safe_dump({**merged, "current-context": "east"}))
        admins = here / "admins"
        admins.mkdir()
        for cluster in clusters:
            (admins / f"{cluster.name}.kubeconfig").symlink_to(cluster.kubeconfig)
        environment = {
            "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(here / "kubeconfig"),
            "KUBECONFIGS": str(admins),
            "ISTHMUS_HOME": str(here / "home"),
        }
        yield environment, clusters, here
    finally:
        serving.kill()
        serving.wait()


async def test_two_clusters_are_federated_by_following_the_page(environment: Any, network: str):
    """1. every command of the page  2. the name has the ClusterSetIP  3. what kube-proxy would do reaches the Pod
    4. and what the page says last takes all of it away again."""
    variables, clusters, here = environment
    pod = f"{network}.100"
    page = PAGE.read_text().replace("192.0.2.", f"{network}.")
    there, leaving = page.split("## Take a cluster out")
    workload = start_child(
        [sys.executable, "-m", "clusters.workloads", "http", "--cluster=west", f"--address={pod}", "--port=8080"],
        here / "workload.log",
    )
    words = [f"{name}={value}" for name, value in {**variables, "POD_ADDRESS": pod}.items()]
    started: list[Popen[bytes]] = []

    async def follow(text: str) -> None:
        script = "\n".join(["set -eux", *re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)])
        log = here / f"log-{len(started)}"
        started.append(start_child(["env", f"--chdir={here}", *words, "bash", "-c", script], log))
        with contextlib.suppress(TimedOut):
            await until(lambda: started[-1].poll() is not None, seconds=PAGE_SECONDS)
        status, told = started[-1].poll(), log.read_text(errors="replace")
        assert status == 0, told[-4000:]
        assert "Traceback" not in told

    try:
        await follow(there)
        (address,) = await until(lambda: clusterset(f"{network}.11"), what="the name of the service")
        async with clusters[0].connect() as client:
            found = await client.get("multicluster.x-k8s.io/v1beta1", "ServiceImport", "echo", "shop")
            assert found["spec"]["ips"] == [address]
            (service,) = [s for s in await client.list("v1", "Service", "shop") if s["spec"]["clusterIP"] == address]

            async def slices() -> Any:
                label = f"kubernetes.io/service-name={service['metadata']['name']}"
                listed = await client.list("discovery.k8s.io/v1", "EndpointSlice", "shop", labelSelector=label)
                return [s for s in listed if s["endpoints"]]

            (one,) = await until(slices, what="an EndpointSlice that names the gateway")
            corefile = (await client.get("v1", "ConfigMap", "coredns", "kube-system"))["data"]["Corefile"]
            assert f"{network}.11:5353" in corefile
        (to,) = one["endpoints"][0]["addresses"]
        answer = await until(lambda: asyncio.to_thread(call, to, one["ports"][0]["port"]), what="an answer of the Pod")
        assert answer == "west"
        await follow(leaving)
        async with clusters[0].connect() as client:

            async def clean() -> bool:
                imports = await client.list("multicluster.x-k8s.io/v1beta1", "ServiceImport", "shop")
                return not imports and not await client.list("v1", "Service", "shop")

            await until(clean, what="the end of all that was written")
    finally:
        for one in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGTERM)
        workload.kill()
        workload.wait()


async def clusterset(server: str) -> list[str]:
    try:
        return await asyncio.to_thread(lookup, server, 5353, "echo.shop.svc.clusterset.local")
    except (NotFound, Unavailable):
        return []


def call(address: str, port: int) -> str:
    connection = http.client.HTTPConnection(address, port, timeout=ANSWER)
    try:
        connection.request("GET", "/", headers={"Host": "echo.shop.svc.clusterset.local"})
        response = connection.getresponse()
        return str(json.loads(response.read())["cluster"]) if response.status == 200 else ""
    except OSError:
        return ""
    finally:
        connection.close()
