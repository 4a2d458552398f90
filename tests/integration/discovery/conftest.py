"""A registry and agents in this process, on loopback, with real mutual TLS and real folders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from clusters.network import free_port
from clusters.waiting import until
from discovery.agent import Agent
from discovery.client import AgentClient
from discovery.join import join
from discovery.settings import load
from federation import log
from federation.aio.clock import SystemClock
from federation.catalog.replica import Changes, Sink
from federation.model.ids import ServiceName
from federation.model.record import Key, Kind
from federation.model.service import Import, Locality
from federation.model.wire import decode_import
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry import settings as registry_settings
from federation.registry.client import CHANNEL_OPTIONS, WatchClient
from federation.registry.init import init
from federation.registry.operator import OperatorClient
from federation.registry.server import Registry
from federation.trust.grpc_credentials import agent_server_name, channel_credentials, channel_options
from federation.trust.workload import WorkloadIdentity

FEDERATION = "fed.example"


def manifest(name: str, *addresses: str, consumers: str = "", created: str = "2026-01-02T03:04:05Z") -> str:
    text = (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n"
        "spec:\n  ports:\n  - {name: http, port: 80, appProtocol: http}\n  - {name: admin, port: 81}\n---\n"
        f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n"
        f"  namespace: shop\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\n"
        "ports:\n- {name: http, port: 8080}\n- {name: admin, port: 8081}\nendpoints:\n"
    )
    text += "".join(f"- addresses: [{a}]\n" for a in addresses)
    note = f", annotations: {{isthmus.io/consumers: '{consumers}'}}" if consumers else ""
    return text + (
        "---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n"
        f"metadata: {{name: {name}, namespace: shop, creationTimestamp: '{created}'{note}}}\n"
    )


class RunningAgent:
    """An agent and the task that it runs in."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.state, self.folder = name, root / name, root / f"{name}-manifests"
        self.agent: Agent
        self._task: asyncio.Task[None] | None = None

    async def start(self, **changes: Any) -> Agent:
        settings = load(self.state / "settings.yaml")
        settings = msgspec.structs.replace(settings, **{"save": 0.05, "gateway_lease": 0.6, **changes})
        self.agent = Agent(settings, log=log.get(self.name))
        self._task = asyncio.create_task(self.agent.run(), name=f"agent-{self.name}")
        await until(lambda: self.agent.serving or (self._task is not None and self._task.done()))
        if self._task.done():
            self._task.result()
        return self.agent

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    def write(self, name: str, text: str) -> None:
        beside = self.folder.parent / f".{self.name}-{name}"
        beside.write_text(text)
        beside.replace(self.folder / name)

    def seen(self, name: str) -> Import | None:
        """The IMPORT record as consumers get it."""
        namespace, _, service = name.partition("/")
        record = self.agent.view.records.log.get(Key(self.name, Kind.IMPORT, str(ServiceName(namespace, service))))
        return None if record is None or record.payload is None else decode_import(record.payload)

    def clusters(self, name: str) -> dict[str, int]:
        """Ready endpoints by cluster."""
        found = self.seen(name)
        return {} if found is None else {b.cluster: b.ready for b in found.backends}

    def codes(self) -> set[str]:
        return {p.code for p in self.agent.problems.all()}


class Federation:
    """One registry and any number of agents below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.agents: dict[str, RunningAgent] = {}
        self._registry: Registry | None = None
        self._task: asyncio.Task[None] | None = None

    async def start_registry(self) -> None:
        directory = self.root / "registry"
        if not directory.exists():
            ports = {k: f"127.0.0.1:{free_port()}" for k in ("listen", "enrolment")}
            await asyncio.to_thread(
                lambda: init(directory, FEDERATION, single_machine=True, metrics="", drain=0.2, **ports)
            )
        self._registry = Registry(registry_settings.load(directory / "settings.yaml"))
        await self._registry.__aenter__()
        self._task = asyncio.create_task(self._registry.run(), name="registry")

    async def stop_registry(self) -> None:
        if self._task is not None and self._registry is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            await self._registry.close()
            self._task = self._registry = None

    def operator(self) -> OperatorClient:
        return OperatorClient.open(self.root / "registry" / "operator")

    async def cluster(self, name: str, *, start: bool = True, **changes: Any) -> RunningAgent:
        """Join a cluster and start its agent."""
        running = self.agents[name] = RunningAgent(name, self.root)
        running.folder.mkdir()
        async with self.operator() as operator:
            token = (await operator.issue_token(name)).token
        await join(
            running.state,
            token=token,
            cluster=name,
            manifests=running.folder,
            listen=f"127.0.0.1:{free_port()}",
            locality=Locality("eu", f"eu-{name}"),
        )
        if start:
            await running.start(**changes)
        return running

    async def link(self, a: str, b: str, *, pin: bool = True, **more: Any) -> None:
        """What `fedctl link` does."""
        prints: dict[str, str] = {}
        for here in (a, b):
            async with AgentClient.open(self.agents[here].state) as client:
                prints[here] = (await client.identity()).fingerprint
        for here, there in ((a, b), (b, a)) if pin else ():
            async with AgentClient.open(self.agents[here].state) as client:
                await client.pin(there, f"{there}.{FEDERATION}", prints[there])
        async with self.operator() as operator:
            await operator.link(a, b, fingerprint_a=prints[a], fingerprint_b=prints[b], **more)

    async def unlink(self, a: str, b: str) -> None:
        async with self.operator() as operator:
            await operator.unlink(a, b)


class Edge:
    """A consumer of an agent: a gateway or a sidecar without an Envoy."""

    def __init__(self, client: WatchClient, sink: Sink) -> None:
        self.client, self.sink = client, sink
        self.presence: pb.Presence | None = None
        self.changes: list[Changes] = []

    def names(self, kind: Kind) -> set[str]:
        return {r.key.name for r in self.sink.replica.records(kind=kind)}


@contextlib.asynccontextmanager
async def connect(
    running: RunningAgent, account: str, *, presence: pb.Presence | None = None, names: tuple[str, ...] = ()
) -> AsyncIterator[Edge]:
    """`account` "isthmus-system/gateway", or a workload's."""
    namespace, _, service_account = account.partition("/")
    socket_path = running.state / "identity.sock"
    grant = await WorkloadIdentity(clock=SystemClock()).fetch(socket_path, namespace, service_account)
    gateway = account == "isthmus-system/gateway"
    kinds = (Kind.EXPORT, Kind.PEER, Kind.IMPORT) if gateway else (Kind.PEER, Kind.IMPORT)
    sink = Sink(kinds=kinds, wildcard=gateway, names=names)
    edge: Edge

    async def dial() -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            grant.agent_address,
            channel_credentials(grant.svid, grant.bundle),
            options=[*CHANNEL_OPTIONS, *channel_options(agent_server_name(grant.bundle.trust_domain))],
        )

    client = WatchClient(
        connect=dial,
        sink=sink,
        on_changes=lambda changes: edge.changes.append(changes),
        presence=lambda: edge.presence,
    )
    edge = Edge(client, sink)
    edge.presence = presence
    task = asyncio.create_task(client.run(), name="edge")
    try:
        yield edge
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    made = Federation(tmp_path)
    await made.start_registry()
    try:
        yield made
    finally:
        for running in made.agents.values():
            await running.stop()
        await made.stop_registry()


@pytest.fixture(scope="session")
def federations() -> type[Federation]:
    """For fixtures that many tests share: `Federation(root)`, to be started and stopped."""
    return Federation


@pytest.fixture(name="until")
def _until() -> Callable[..., Awaitable[Any]]:
    return until


@pytest.fixture(name="manifest")
def _manifest() -> Callable[..., str]:
    return manifest


@pytest.fixture(name="connect")
def _connect() -> Any:
    return connect
