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
from discovery.kube.settings import KubernetesSettings
from discovery.mcs.desired import derived_name
from discovery.settings import load
from federation import log
from federation.aio.clock import Clock, SystemClock
from federation.catalog.replica import Changes, Sink
from federation.errors import NotFound
from federation.model.ids import ServiceName
from federation.model.record import Key, Kind
from federation.model.service import Import, Locality
from federation.model.wire import decode_import
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2
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

    async def start_registry(self, *, clock: Clock | None = None) -> None:
        directory = self.root / "registry"
        if not directory.exists():
            ports = {k: f"127.0.0.1:{free_port()}" for k in ("listen", "enrolment")}
            await asyncio.to_thread(
                lambda: init(directory, FEDERATION, single_machine=True, metrics="", drain=0.2, **ports)
            )
        self._registry = Registry(registry_settings.load(directory / "settings.yaml"), clock=clock)
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


# --- Kubernetes -------------------------------------------------------------------------------------------------------

MCS = "multicluster.x-k8s.io/v1beta1"
SLICES = ("discovery.k8s.io/v1", "EndpointSlice")
SOURCE = "multicluster.kubernetes.io/source-cluster"


def gateway(address: str, *, name: str = "gw-1", draining: bool = False) -> pb.Presence:
    return pb.Presence(
        role=pb.Presence.GATEWAY_PROCESS,
        name=name,
        gateway=records_pb2.Gateway(
            name=name, address="127.0.0.1", port=15443, weight=1, egress=address, draining=draining
        ),
    )


class Side:
    """One cluster: its agent, its API server, and the namespace of the test."""

    def __init__(self, running: Any, client: Any, namespace: str, settings: KubernetesSettings) -> None:
        self.running, self.client, self.namespace, self.settings = running, client, namespace, settings
        self.edge: Any = None

    async def start(self, **changes: Any) -> None:
        await self.running.start(files=None, kubernetes=self.settings, **changes)

    async def service(self, name: str = "echo", *, ready: int = 1, namespace: str = "", **spec: Any) -> None:
        """A Service with an EndpointSlice of `ready` endpoints."""
        namespace = namespace or self.namespace
        given = {"ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}], **spec}
        metadata = {"name": name, "namespace": namespace}
        await self.client.apply(
            {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": given},
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**metadata, "name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "ports": [{"name": p.get("name", ""), "port": 8080, "protocol": "TCP"} for p in given["ports"]],
                "endpoints": [{"addresses": [f"10.0.0.{n + 1}"], "hostname": f"{name[:60]}-{n}"} for n in range(ready)],
            },
        )

    async def export(self, name: str = "echo", *, namespace: str = "", **spec: Any) -> None:
        metadata = {"name": name, "namespace": namespace or self.namespace}
        await self.client.apply({"apiVersion": MCS, "kind": "ServiceExport", "metadata": metadata, "spec": spec})

    async def unexport(self, name: str = "echo") -> None:
        await self.client.delete(MCS, "ServiceExport", name, self.namespace)

    async def get(self, kind: str, name: str = "echo", namespace: str = "") -> dict[str, Any]:
        """The object as it is; empty where there is none."""
        version = {"Service": "v1", "EndpointSlice": SLICES[0]}.get(kind, MCS)
        try:
            found: dict[str, Any] = await self.client.get(version, kind, name, namespace or self.namespace)
        except NotFound:
            return {}
        return found

    async def imported(self, name: str = "echo", namespace: str = "") -> dict[str, Any]:
        return await self.get("ServiceImport", name, namespace)

    async def ready(self, name: str = "echo") -> dict[str, Any]:
        """The ServiceImport once its condition Ready is true."""
        found = await self.imported(name)
        return found if condition(found, "Ready").get("status") == "True" else {}

    async def derived(self, name: str = "echo") -> dict[str, Any]:
        return await self.get("Service", self.derived_name(name))

    def derived_name(self, name: str = "echo") -> str:
        return derived_name(ServiceName(self.namespace, name))

    async def slices(self, name: str = "echo") -> dict[str, dict[str, Any]]:
        """Our EndpointSlices by source cluster."""
        selector = f"multicluster.kubernetes.io/service-name={name}"
        found = await self.client.list(*SLICES, self.namespace, labelSelector=selector)
        return {s["metadata"]["labels"].get(SOURCE, "Kubernetes"): s for s in found}

    async def export_condition(self, kind: str, name: str = "echo") -> tuple[str, str]:
        found = condition(await self.get("ServiceExport", name), kind)
        return found.get("status", ""), found.get("reason", "")


def condition(found: dict[str, Any], kind: str) -> dict[str, Any]:
    conditions = found.get("status", {}).get("conditions", ())
    return next((c for c in conditions if c["type"] == kind), {})


@pytest.fixture
async def sides(
    federation: Any, kube_clusters: Any, kube_namespace: str, connect: Any, until: Callable[..., Awaitable[Any]]
) -> AsyncIterator[dict[str, Side]]:
    """east and west, linked, each with a gateway that its pods reach."""
    async with contextlib.AsyncExitStack() as stack:
        made = {}
        for number, cluster in enumerate(kube_clusters, 1):
            running = await federation.cluster(cluster.name, start=False)
            client = await stack.enter_async_context(cluster.connect())
            settings = KubernetesSettings(kubeconfig=str(cluster.kubeconfig), confirm=0.2, namespace=kube_namespace)
            side = made[cluster.name] = Side(running, client, kube_namespace, settings)
            await side.start()
            presence = gateway(f"10.1.0.{number}")
            side.edge = await stack.enter_async_context(connect(running, "isthmus-system/gateway", presence=presence))
        await federation.link("east", "west")
        yield made


@pytest.fixture(name="gateway")
def _gateway() -> Callable[..., pb.Presence]:
    return gateway


@pytest.fixture(name="side")
def _side() -> type[Side]:
    return Side
