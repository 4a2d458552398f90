"""What reading Kubernetes costs: cold start, memory and CPU per changed EndpointSlice, against a real API server.

The API server is filled with Services, all of them exported, each with one EndpointSlice. A process of its own then
reads them with the agent's source and makes its report to the registry; after that, one slice after another is changed.
Budgets, with 10,000 services and 100,000 endpoints: cold start 20 s, 400 MB, 1 ms of CPU per changed slice.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from footprint import resident

from clusters.apiserver import LocalCluster, running
from discovery.kube.client import KubeClient
from discovery.kube.resources import ENDPOINT_SLICES, NAMESPACES, NODES, SERVICES, Resource, service_exports
from discovery.kube.settings import KubernetesSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.model.ids import ServiceName
from federation.model.service import Locality

NAMESPACE = "bench"
_AT_ONCE = 32


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10, help="of each service, in one EndpointSlice")
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument(
        "--changes",
        type=int,
        default=500,
        help="EndpointSlices that are changed one after another, timed, and as many again whose CPU is counted",
    )
    parser.add_argument("--page", type=int, default=KubernetesSettings().page, help="objects per page of a list")


def run(parsed: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table, return the figures."""
    figures = asyncio.run(_measure(parsed))
    print(
        f"{parsed.services} services, all exported, {parsed.services * parsed.endpoints} endpoints; one API server on "
        "this machine"
    )
    for what, key, unit in (
        ("filled in", "filled_s", "s"),
        ("cold start: start of the process to a complete report", "cold_start_s", "s"),
        ("  CPU of that", "cold_cpu_s", "s"),
        ("  longest time without a turn of the event loop", "longest_stall_ms", "ms"),
        ("memory after the start", "rss_mb", "MB"),
        ("  highest so far", "peak_mb", "MB"),
        ("memory after the changes", "rss_after_mb", "MB"),
        ("CPU per changed EndpointSlice", "cpu_per_change_ms", "ms"),
        ("change written to change reported, median", "latency_p50_ms", "ms"),
        ("  99th percentile", "latency_p99_ms", "ms"),
        ("start from the disk, API server away", "warm_start_s", "s"),
    ):
        print(f"  {what:<56} {figures[key]:>9.2f} {unit}")
    return figures


async def _measure(parsed: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="isthmus-") as directory:
        async with running(Path(directory), "bench", controllers=False) as (cluster,):
            return await _measure_cluster(parsed, cluster, Path(directory))


async def _measure_cluster(parsed: argparse.Namespace, cluster: LocalCluster, directory: Path) -> dict[str, Any]:
    settings = KubernetesSettings(kubeconfig=str(cluster.kubeconfig), page=parsed.page)
    client = await KubeClient.open(settings, log=log.get("bench"), clock=SystemClock())
    context = multiprocessing.get_context("spawn")
    try:
        began = time.monotonic()
        await fill(client, parsed)
        filled = time.monotonic() - began
        here, there = context.Pipe()
        arguments = (there, msgspec.json.encode(settings), str(directory / "cache"), parsed.services)
        reader = context.Process(target=read, args=arguments, daemon=True)
        started = time.monotonic()
        reader.start()
        figures = await asyncio.to_thread(_answer, here)
        figures["cold_start_s"] = figures.pop("reported_at") - started
        figures["filled_s"] = filled
        numbers = random.Random(1).sample(range(parsed.services), k=2 * parsed.changes)
        timed, counted = numbers[: parsed.changes], numbers[parsed.changes :]
        latencies = []
        for number in timed:
            await _ask(here, f"wait {service_name(number)}")
            wrote = time.monotonic()
            await change(client, number, parsed)
            latencies.append((await asyncio.to_thread(_answer, here) - wrote) * 1000)
        # Not one message to the reader meanwhile: what it costs to ask is not what a change costs.
        await _ask(here, f"wait {service_name(counted[-1])}")
        before = await _ask(here, "cpu")
        for number in counted:
            await change(client, number, parsed)
        await asyncio.to_thread(_answer, here)
        after = await _ask(here, "cpu")
        latencies.sort()
        figures["cpu_per_change_ms"] = (after - before) / parsed.changes * 1000
        figures["latency_p50_ms"] = latencies[len(latencies) // 2]
        figures["latency_p99_ms"] = latencies[int(len(latencies) * 0.99)]
        figures["rss_after_mb"] = resident(reader.pid or 0)[0]
        await _ask(here, "save")
        reader.terminate()
        reader.join()
        cluster.kill("apiserver")
        here, there = context.Pipe()
        reader = context.Process(target=read, args=(there, *arguments[1:]), daemon=True)
        started = time.monotonic()
        reader.start()
        figures["warm_start_s"] = (await asyncio.to_thread(_answer, here))["reported_at"] - started
        reader.terminate()
        reader.join()
        return figures
    finally:
        await client.close()


def service_name(number: int) -> str:
    """Of the service with this number."""
    return f"s{number:05d}"


async def change(client: KubeClient, number: int, parsed: argparse.Namespace, *, turned: bool = True) -> None:
    """Write an EndpointSlice; `turned`: its first endpoint is not ready."""
    body = msgspec.json.encode(_slice(service_name(number), number, parsed, turned=turned))
    await client.apply(ENDPOINT_SLICES, NAMESPACE, f"{service_name(number)}-1", body)


def _answer(here: Any) -> Any:
    if not here.poll(60):
        raise RuntimeError("the reader does not answer")
    return here.recv()


async def _ask(here: Any, what: str) -> Any:
    here.send(what)
    return await asyncio.to_thread(_answer, here)


# --- the API server's content ----------------------------------------------------------------------------------------


async def fill(client: KubeClient, parsed: argparse.Namespace) -> None:
    """Create all Nodes, Services, EndpointSlices and ServiceExports."""
    exports = service_exports("v1beta1")
    await client.create(NAMESPACES, None, msgspec.json.encode({"metadata": {"name": NAMESPACE}}))
    await _create(client, NODES, (_node(n) for n in range(parsed.nodes)))
    for kind, make in ((SERVICES, _service), (ENDPOINT_SLICES, _slice), (exports, _export)):
        await _create(client, kind, (make(service_name(n), n, parsed) for n in range(parsed.services)))


async def _create(client: KubeClient, kind: Resource, objects: Iterable[dict[str, Any]]) -> None:
    waiting = iter(objects)

    async def work() -> None:
        for one in waiting:
            body = msgspec.json.encode({"apiVersion": kind.api_version, "kind": kind.kind, **one})
            await client.create(kind, NAMESPACE if kind.namespaced else None, body)

    async with asyncio.TaskGroup() as tasks:
        for number in range(_AT_ONCE):
            tasks.create_task(work(), name=f"fill-{number}")


def _node(number: int) -> dict[str, Any]:
    labels = {"topology.kubernetes.io/region": "r1", "topology.kubernetes.io/zone": f"r1{'abc'[number % 3]}"}
    return {"metadata": {"name": f"node-{number}", "labels": labels}}


def _service(name: str, number: int, parsed: argparse.Namespace) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": "web", "appProtocol": "http"}]
    return {"metadata": {"name": name}, "spec": {"selector": {"app": name}, "clusterIP": "None", "ports": ports}}


def _slice(name: str, number: int, parsed: argparse.Namespace, turned: bool = False) -> dict[str, Any]:
    """`turned`: its first endpoint is not ready."""
    endpoints = []
    for at in range(parsed.endpoints):
        index = number * parsed.endpoints + at
        ready = not (turned and at == 0)
        endpoints.append(
            {
                "addresses": [f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"],
                "conditions": {"ready": ready, "serving": ready, "terminating": False},
                "nodeName": f"node-{index % parsed.nodes}",
                "zone": f"r1{'abc'[index % parsed.nodes % 3]}",
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": f"{name}-{at:05d}"},
            }
        )
    labels = {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "bench"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }


def _export(name: str, number: int, parsed: argparse.Namespace) -> dict[str, Any]:
    return {"metadata": {"name": name}}


# --- the process that reads ------------------------------------------------------------------------------------------


def read(there: Any, settings: bytes, cache: str, services: int) -> None:
    """In a process of its own: the agent's source and its report."""
    import discovery.agent  # noqa: F401 - what an agent has in memory
    from federation.aio.tasks import run

    log.configure(level="error")
    run(_read(there, msgspec.json.decode(settings, type=KubernetesSettings), cache, services))


async def _read(there: Any, settings: KubernetesSettings, cache: str, services: int) -> None:
    from discovery.report import Report, changed_names
    from discovery.sources.base import SourceState
    from discovery.sources.kubernetes import KubernetesSource

    source = KubernetesSource(
        settings,
        cache_path=Path(cache),
        locality=Locality("r1", "r1a"),
        clock=SystemClock(),
        log=log.get("agent"),
    )
    report = Report(cluster="bench", epoch=1)
    waiting: set[ServiceName] = set()
    stall = 0.0

    async def turn() -> None:
        nonlocal stall
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            stall, last = max(stall, now - last - 0.001), now

    async def follow() -> None:
        version, last = -1, SourceState()
        first = True
        while True:
            version, state = await source.state.newer(version)
            if not state.complete:
                continue
            changed = changed_names(last.exports, state.exports, among=state.changed)
            last = state
            report.services(state.exports, changed)
            if waiting and (state.changed or frozenset()) & waiting:
                waiting.clear()
                there.send(time.monotonic())
            if first and len(state.exports) == services:
                first = False
                used = resource.getrusage(resource.RUSAGE_SELF)
                mine = resident(_pid())
                figures = {
                    "reported_at": time.monotonic(),
                    "cold_cpu_s": used.ru_utime + used.ru_stime,
                    "longest_stall_ms": stall * 1000,
                    "rss_mb": mine[0],
                    "peak_mb": used.ru_maxrss * 1024 / 1e6,
                }
                there.send(figures)
                turning.cancel()

    loop = asyncio.get_running_loop()
    answers: dict[str, Callable[[], Awaitable[Any]]] = {"cpu": _cpu, "save": source.save}

    async def asked() -> None:
        words: asyncio.Queue[str] = asyncio.Queue()
        loop.add_reader(there.fileno(), lambda: words.put_nowait(there.recv()))
        while True:
            word, _, name = (await words.get()).partition(" ")
            if word == "wait":
                waiting.add(ServiceName(NAMESPACE, name))
                there.send(None)
            else:
                there.send(await answers[word]())

    async with asyncio.TaskGroup() as tasks:
        turning = tasks.create_task(turn(), name="turn")
        tasks.create_task(source.run(), name="source")
        tasks.create_task(follow(), name="follow")
        tasks.create_task(asked(), name="asked")


async def _cpu() -> float:
    return time.process_time()


def _pid() -> int:
    return multiprocessing.current_process().pid or 0
