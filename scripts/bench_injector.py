"""What an injector takes: memory when idle, while it looks through many pods, and under a bounded load of reviews.

The injector is a process of its own beside a real API server that holds the pods, none of which has a sidecar; the
reviews come from here, over TLS, as from an API server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
from footprint import resident, spent

from clusters.apiserver import LocalCluster, running
from clusters.kubeclient import KubeClient
from clusters.network import free_port
from clusters.program import Program
from clusters.waiting import START, until
from federation.aio.clock import SystemClock
from federation.errors import AlreadyExists
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId
from federation.trust.authority import Authority
from federation.trust.pem import armour
from federation.trust.workload import Grant
from sidecar.injector.missed import MOST

NAMESPACE, DOMAIN, ACCOUNT = "bench", "bench.test.isthmus", "injector"
SERVER = f"isthmus-injector.{SYSTEM_NAMESPACE}.svc"
_AT_ONCE = 16
IDLE = 20.0
"""Seconds for which its CPU is counted while nobody asks."""


def main(arguments: list[str]) -> dict[str, Any]:
    """Measure, print a table, return the figures."""
    parser = argparse.ArgumentParser(prog="scripts/bench injector", description=__doc__)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--reviews", type=int, default=5_000)
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="isthmus-") as directory:
        figures = asyncio.run(_measure(parsed, Path(directory)))
    print(f"{parsed.pods} pods without a sidecar; {parsed.reviews} reviews, {_AT_ONCE} at once")
    for what, key, unit in (
        ("memory when it is ready", "ready_mb", "MB"),
        ("  highest in two looks through all pods", "looking_mb", "MB"),
        ("  highest under reviews", "reviews_mb", "MB"),
        ("  at the end, of which anonymous", "anonymous_mb", "MB"),
        ("CPU per review", "review_ms", "ms"),
        ("CPU while nobody asks", "idle_percent", "%"),
        ("reviews a second", "rate", "/s"),
    ):
        print(f"  {what:<44} {figures[key]:>9.2f} {unit}")
    return figures


async def _measure(parsed: argparse.Namespace, folder: Path) -> dict[str, Any]:
    async with running(folder / "clusters", "bench", controllers=False) as (cluster,), cluster.connect() as client:
        await _fill(client, parsed.pods)
        settings = await _settings(client, cluster, folder)
        listen, metrics = settings["listen"], settings["metrics"]["port"]
        (folder / "injector.yaml").write_text(json.dumps(settings))
        command = [sys.executable, "-m", "sidecar.injector", "--settings", str(folder / "injector.yaml")]
        program = Program("injector", command, folder / "injector.log")
        program.start()
        try:
            async with aiohttp.ClientSession() as session:

                async def text(path: str) -> str:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(f"http://127.0.0.1:{metrics}/{path}") as response:
                            return await response.text()
                    return ""

                async def ready() -> bool:
                    return (await text("readyz")).strip() == "ok"

                async def missed() -> float:
                    lines = (await text("metrics")).splitlines()
                    return next(float(x.split()[1]) for x in lines if x.startswith("isthmus_injector_pods_missed "))

                await until(ready, seconds=START)
                ready_mb = resident(program.pid)[0]
                before = time.monotonic()
                looking = await _peak(program.pid, lambda: _looked(missed, parsed.pods))
                seconds = time.monotonic() - before
                cpu = spent(program.pid)
                await asyncio.sleep(IDLE)
                idle = spent(program.pid) - cpu
                cpu, before = spent(program.pid), time.monotonic()
                reviews = await _peak(program.pid, lambda: _review(folder, listen, parsed.reviews))
                took, cpu = time.monotonic() - before, spent(program.pid) - cpu
            return {
                "ready_mb": ready_mb,
                "looking_mb": looking,
                "looking_s": round(seconds, 1),
                "reviews_mb": reviews,
                "anonymous_mb": resident(program.pid)[1],
                "review_ms": round(1000 * cpu / parsed.reviews, 3),
                "idle_percent": round(100 * idle / IDLE, 2),
                "rate": round(parsed.reviews / took, 1),
            }
        finally:
            program.end()


async def _peak(pid: int, work: Callable[[], Awaitable[None]]) -> float:
    """The highest RSS, MB, while `work` goes on: the kernel keeps it."""
    _reset_peak(pid)
    await work()
    return _read_peak(pid)


def _reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _read_peak(pid: int) -> float:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return round(int(fields["VmHWM"].split()[0]) * 1024 / 1e6, 1)


async def _looked(missed: Callable[[], Awaitable[float]], pods: int) -> None:
    """Until the second look has counted what it looked at."""

    async def counted() -> bool:
        return await missed() >= min(2 * MOST, pods)

    await until(counted, seconds=300)


async def _review(folder: Path, listen: str, number: int) -> None:
    context = ssl.create_default_context(cadata=(folder / "root.pem").read_text())
    body = json.dumps(_body()).encode()
    connector = aiohttp.TCPConnector(limit=_AT_ONCE, ssl=context)
    turns = asyncio.Semaphore(_AT_ONCE)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one() -> None:
            async with turns, session.post(f"https://{listen}/mutate", data=body, server_hostname=SERVER) as response:
                answer = await response.json()
                assert answer["response"]["patch"], answer

        async with asyncio.TaskGroup() as group:
            for index in range(number):
                group.create_task(one(), name=f"review-{index}")


def _body() -> dict[str, Any]:
    request = {"uid": "u", "kind": {"kind": "Pod"}, "operation": "CREATE", "namespace": NAMESPACE, "object": _pod("p")}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def _pod(name: str) -> dict[str, Any]:
    """Of usual size: what people and controllers write there, a third of a page."""
    environment = [{"name": f"SETTING_{number}", "value": "value " * 8} for number in range(20)]
    container = {"name": "web", "image": "web:1", "env": environment, "ports": [{"containerPort": 8080}]}
    labels = {"app": "web", "app.kubernetes.io/part-of": "shop", "pod-template-hash": "5d6f8c7b9"}
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "labels": labels,
        "annotations": {"example.com/note": "text " * 100},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


async def _fill(client: KubeClient, pods: int) -> None:
    for namespace, account in ((NAMESPACE, "default"), (SYSTEM_NAMESPACE, ACCOUNT)):
        with contextlib.suppress(AlreadyExists):
            await client.create_namespace(
                namespace, **{"isthmus.io/inject": "enabled"} if namespace == NAMESPACE else {}
            )
        metadata = {"name": account, "namespace": namespace}
        await client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> None:
        async with turns:
            await client.create(_pod(f"p-{number:05d}"))

    async with asyncio.TaskGroup() as group:
        for number in range(pods):
            group.create_task(one(number), name=f"pod-{number}")


async def _settings(client: KubeClient, cluster: LocalCluster, folder: Path) -> dict[str, Any]:
    """Of an injector that has its identity already: its agent is not needed for as long as this takes."""
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    ]
    kind = "ClusterRole"
    version, name = "rbac.authorization.k8s.io/v1", "bench-injector"
    await client.create(
        {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "rules": rules},
        {
            "apiVersion": version,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": version.partition("/")[0], "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM_NAMESPACE}],
        },
    )
    (folder / "api-token").write_text(await client.token(SYSTEM_NAMESPACE, ACCOUNT))
    clock = SystemClock()
    authority = Authority.open(folder / "authority", trust_domain=DOMAIN, clock=clock)
    account = SpiffeId.parse(f"spiffe://{DOMAIN}/ns/{SYSTEM_NAMESPACE}/sa/{ACCOUNT}")
    svid = authority.issue_with_key(spiffe_id=account, ttl=timedelta(hours=4), dns_names=(SERVER,))
    grant = Grant(
        svid=svid,
        bundle=authority.bundle,
        agent_address="127.0.0.1:1",
        federation="test.isthmus",
        cluster="bench",
        agent_addresses=("127.0.0.1:1",),
    )
    state = folder / "state"
    state.mkdir(mode=0o700)
    grant.save(state / "identity")
    (folder / "root.pem").write_bytes(armour(authority.bundle.roots))
    return {
        "name": "bench",
        "state_directory": str(state),
        "listen": f"127.0.0.1:{free_port()}",
        "webhook": "",
        "image": "isthmus:0.1.0",
        "drain_seconds": 0,
        "metrics": {"port": free_port()},
        "agent": {
            "enrolment": ["127.0.0.1:1"],
            "anchors": str(folder / "root.pem"),
            "service_account_token": str(folder / "api-token"),
        },
        "api": {
            "server": cluster.place.server,
            "ca_file": str(cluster.place.pki / "ca.crt"),
            "token_file": str(folder / "api-token"),
        },
        "pods": {"dns": {"servers": ["10.96.0.10"]}},
    }
