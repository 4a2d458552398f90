"""What a whole agent costs at full size: source, report, view and consumers, in a federation of one registry.

The API server is filled as in the part `reading`. Then a real registry and a real agent run as processes of their own,
and in this process a gateway (it holds all that is exported) and a sidecar (some names), without Envoys. The CPU is
that of all threads of the agent, per changed EndpointSlice, idle time included. Budgets: cold start 20 s, 400 MB, 1 ms.

Without `--imports` the API server has no ServiceImport: the agent writes conditions and imports of nothing, as it does
in steady state for services that have ClusterIPs. With it, all imports are written before the memory is read.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from footprint import resident
from kube_reading import NAMESPACE, change, fill, service_name

from clusters.apiserver import LocalCluster, running
from clusters.network import free_port
from clusters.program import Program
from clusters.waiting import until
from discovery.client import AgentClient
from discovery.join import join
from discovery.kube.client import KubeClient
from discovery.kube.crds import manifests
from discovery.kube.settings import KubernetesSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.catalog.replica import Changes, Sink
from federation.errors import IsthmusError
from federation.model.record import Kind
from federation.model.service import Locality
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2
from federation.registry.client import CHANNEL_OPTIONS, WatchClient
from federation.registry.init import init
from federation.registry.operator import OperatorClient
from federation.trust.grpc_credentials import agent_server_name, channel_credentials, channel_options
from federation.trust.workload import WorkloadIdentity

CLUSTER, DOMAIN = "bench", "bench.isthmus"
_LONG = 1800.0
_IDLE_SECONDS = 5.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this part; how much there is in the API server is said by those of `reading`."""
    parser.add_argument("--names", type=int, default=100, help="names that the sidecar of the agent uses")
    parser.add_argument("--passes", type=int, default=5, help="rounds in which --changes EndpointSlices are changed")
    parser.add_argument("--imports", action="store_true", help="let the agent write ServiceImports and what they need")


def run(parsed: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table, return the figures."""
    figures = asyncio.run(_measure(parsed))
    print(
        f"a whole agent: {parsed.services} services, all exported, {parsed.services * parsed.endpoints} endpoints, a "
        f"gateway and a sidecar that uses {parsed.names} names; imports written: {'yes' if parsed.imports else 'no'}"
    )
    costs = figures["cpu_per_change_ms"]
    for what, value, unit in (
        ("cold start: start of the process to all at the gateway", figures["cold_start_s"], "s"),
        ("  CPU of that", figures["cold_cpu_s"], "s"),
        ("memory after the start", figures["rss_mb"], "MB"),
        ("memory after the changes", figures["rss_after_mb"], "MB"),
        ("CPU per changed EndpointSlice, median of the rounds", statistics.median(costs), "ms"),
        ("  least", min(costs), "ms"),
        ("  most", max(costs), "ms"),
        ("CPU without changes, per second", figures["idle_ms_per_s"], "ms"),
        ("change written to change at the gateway, median", figures["latency_p50_ms"], "ms"),
        ("  99th percentile", figures["latency_p99_ms"], "ms"),
    ):
        print(f"  {what:<56} {value:>9.2f} {unit}")
    return figures


async def _measure(parsed: argparse.Namespace) -> dict[str, Any]:
    install = [text for text in manifests() if parsed.imports or "serviceimports" not in text]
    with tempfile.TemporaryDirectory(prefix="isthmus-") as directory:
        async with running(Path(directory), CLUSTER, controllers=False, install=install) as (cluster,):
            client = await KubeClient.open(
                KubernetesSettings(kubeconfig=str(cluster.kubeconfig)), log=log.get("bench"), clock=SystemClock()
            )
            try:
                await fill(client, parsed)
                return await _measure_agent(parsed, cluster, client, Path(directory))
            finally:
                await client.close()


async def _measure_agent(
    parsed: argparse.Namespace, cluster: LocalCluster, client: KubeClient, directory: Path
) -> dict[str, Any]:
    state = directory / "agent"
    registry = await _registry(directory)
    try:
        async with OperatorClient.open(directory / "registry" / "operator") as operator:
            token = (await until(lambda: _token(operator), what="the registry")).token
        await join(
            state,
            token=token,
            cluster=CLUSTER,
            kubernetes=KubernetesSettings(kubeconfig=str(cluster.kubeconfig), page=parsed.page),
            listen=f"127.0.0.1:{free_port()}",
            locality=Locality("r1", "r1a"),
            metrics="127.0.0.1:0",
        )
        agent = _program("agent", "discovery", state / "settings.yaml", directory)
        started = time.monotonic()
        agent.start()
        try:
            await until(lambda: (state / "identity.sock").exists(), seconds=_LONG, what="the agent")
            async with _consumer(state, "isthmus-system/gateway") as gateway:
                whole = lambda: len(gateway.names(Kind.EXPORT)) == parsed.services  # noqa: E731
                await until(whole, seconds=_LONG, what="every export at the gateway")
                figures = {"cold_start_s": time.monotonic() - started, "cold_cpu_s": cpu(agent.pid)}
                await until(lambda: _reported(state, parsed.services), seconds=_LONG, what="the whole report")
                names = [f"{NAMESPACE}/{service_name(n)}" for n in range(parsed.names)]
                async with _consumer(state, f"{NAMESPACE}/client", names=names) as sidecar:
                    await until(lambda: len(sidecar.names(Kind.IMPORT)) == parsed.names, what="the sidecar's names")
                    await _settled(agent.pid)
                    figures["rss_mb"] = resident(agent.pid)[0]
                    return figures | await _change_all(parsed, client, gateway, agent.pid)
        finally:
            agent.end()
    finally:
        registry.end()


async def _change_all(parsed: argparse.Namespace, client: KubeClient, gateway: _Edge, pid: int) -> dict[str, Any]:
    before = cpu(pid)
    await asyncio.sleep(_IDLE_SECONDS)
    idle = (cpu(pid) - before) / _IDLE_SECONDS
    numbers = random.Random(1)
    turned: set[int] = set()

    async def turn(number: int) -> float:
        """Change its slice to what it was not; the time of that."""
        turned.symmetric_difference_update({number})
        wrote = time.monotonic()
        await change(client, number, parsed, turned=number in turned)
        return wrote

    async def here(number: int) -> float:
        """The time at which the gateway has it."""
        return await asyncio.wait_for(gateway.arrival(f"{NAMESPACE}/{service_name(number)}"), 60)

    latencies = []
    for number in numbers.sample(range(parsed.services), k=parsed.changes):
        arriving = asyncio.ensure_future(here(number))
        await asyncio.sleep(0)
        wrote = await turn(number)
        latencies.append((await arriving - wrote) * 1000)
    costs = []
    for _ in range(parsed.passes):
        sample = numbers.sample(range(parsed.services), k=parsed.changes)
        begun = cpu(pid)
        for number in sample[:-1]:
            await turn(number)
        arriving = asyncio.ensure_future(here(sample[-1]))
        await asyncio.sleep(0)
        await turn(sample[-1])
        await arriving
        costs.append((cpu(pid) - begun) / parsed.changes * 1000)
    latencies.sort()
    return {
        "idle_ms_per_s": idle * 1000,
        "latency_p50_ms": latencies[len(latencies) // 2],
        "latency_p99_ms": latencies[int(len(latencies) * 0.99)],
        "cpu_per_change_ms": costs,
        "rss_after_mb": resident(pid)[0],
    }


def cpu(pid: int) -> float:
    """Seconds that all threads of a process have run; its ended ones are not counted."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def _settled(pid: int) -> None:
    """What follows a start has been done: writes, state on disk."""
    last = cpu(pid)

    async def quiet() -> bool:
        nonlocal last
        before, last = last, cpu(pid)
        return last - before < 0.05

    while True:
        await asyncio.sleep(1.0)
        if await quiet():
            return


# --- the processes ----------------------------------------------------------------------------------------------------


def _program(name: str, module: str, settings: Path, directory: Path) -> Program:
    command = [sys.executable, "-m", module, "--settings", str(settings)]
    return Program(name, command, directory / f"{name}.log")


async def _registry(directory: Path) -> Program:
    where = directory / "registry"
    ports = {k: f"127.0.0.1:{free_port()}" for k in ("listen", "enrolment")}
    await asyncio.to_thread(lambda: init(where, DOMAIN, single_machine=True, metrics="", **ports))
    program = _program("registry", "federation.registry", where / "settings.yaml", directory)
    program.start()
    return program


async def _token(operator: OperatorClient) -> Any:
    try:
        return await operator.issue_token(CLUSTER)
    except IsthmusError:
        return None


async def _reported(state: Path, services: int) -> bool:
    async with AgentClient.open(state) as client:
        status = await client.status()
    return bool(status.exports == services and status.registry_connected)


class _Edge:
    """A consumer of the agent, without an Envoy."""

    def __init__(self) -> None:
        self.sink: Sink
        self._waiting: dict[str, list[asyncio.Future[float]]] = {}

    def names(self, kind: Kind) -> set[str]:
        return {r.key.name for r in self.sink.replica.records(kind=kind)}

    async def arrival(self, name: str) -> float:
        """When the next export of this name came (monotonic)."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(future)
        return await future

    def changed(self, changes: Changes) -> None:
        now = time.monotonic()
        for record in changes.put:
            if self._waiting and record.key.kind is Kind.EXPORT:
                for future in self._waiting.pop(record.key.name, ()):
                    future.set_result(now)


@asynccontextmanager
async def _consumer(state: Path, account: str, *, names: Iterable[str] = ()) -> AsyncIterator[_Edge]:
    namespace, _, service_account = account.partition("/")
    socket = state / "identity.sock"
    grant = await WorkloadIdentity(clock=SystemClock()).fetch(socket, namespace, service_account)
    is_gateway = account == "isthmus-system/gateway"
    edge = _Edge()
    kinds = (Kind.EXPORT, Kind.PEER, Kind.IMPORT) if is_gateway else (Kind.PEER, Kind.IMPORT)
    edge.sink = Sink(kinds=kinds, wildcard=is_gateway, names=tuple(names))
    shown = records_pb2.Gateway(name="gw-1", address="127.0.0.1", port=15443, weight=1, egress="10.255.0.1")
    role = pb.Presence.GATEWAY_PROCESS if is_gateway else pb.Presence.SIDECAR
    presence = pb.Presence(role=role, name="gw-1" if is_gateway else "sc-1", gateway=shown if is_gateway else None)

    async def dial() -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            grant.agent_address,
            channel_credentials(grant.svid, grant.bundle),
            options=[*CHANNEL_OPTIONS, *channel_options(agent_server_name(grant.bundle.trust_domain))],
        )

    client = WatchClient(connect=dial, sink=edge.sink, on_changes=edge.changed, presence=lambda: presence)
    task = asyncio.create_task(client.run(), name=f"consumer-{account}")
    try:
        yield edge
    finally:
        task.cancel()
        await asyncio.wait({task})
