"""Kubernetes, Consul, manifests and VMs in one cluster: real API servers, a real Consul, a registry, real streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest

from clusters.network import free_port
from discovery.client import AgentClient
from discovery.consul.imports.settings import WriteSettings
from discovery.consul.lock import Locks
from discovery.consul.settings import ConsulSettings
from discovery.departure import retire
from discovery.kube.elector import replica_identity
from discovery.kube.replicas import REPLICA
from discovery.settings import FilesSettings, VmsSettings
from discovery.vms.names import key_label, vm_names
from discovery.vms.plans import Invitation, Invited
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.tasks import cancel
from federation.catalog.replica import Sink
from federation.cli.resolve import by_origin, shares
from federation.errors import Conflict
from federation.model.ids import ServiceName, SpiffeId
from federation.model.record import Kind
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2 as records
from federation.registry.client import CHANNEL_OPTIONS, WatchClient
from federation.trust.grpc_credentials import agent_server_name, channel_credentials, channel_options

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]


class Machine:
    """The stream of a VM that has joined, and what it registers."""

    def __init__(self, namespace: str) -> None:
        self.namespace, self.items = namespace, list[pb.Workload]()
        self.client: WatchClient

    def offer(self, *, ready: bool = True, exported: bool = False, name: str = "echo") -> None:
        self.items = [
            pb.Workload(
                namespace=self.namespace,
                name=name,
                ports=[records.Port(name="http", port=80)],
                targets={80: 8080},
                address="127.0.0.1",
                ready=ready,
                exported=exported,
            )
        ]
        self.client.announce()

    def presence(self) -> pb.Presence:
        return pb.Presence(role=pb.Presence.SIDECAR, name="vm-1", workloads=pb.Workloads(items=self.items))


@contextlib.asynccontextmanager
async def machine(agent: Any, namespace: str) -> AsyncIterator[Machine]:
    domain = agent.settings.trust_domain
    await agent.vms.issue(Invited("vm-1", "shop", "vm-1", (f"{namespace}/*",)), Invitation(b"token", 2**62))
    await agent.vms.redeem("vm-1", b"token", "key")
    svid = agent.authority.issue_with_key(
        spiffe_id=SpiffeId.workload(domain, "shop", "vm-1"),
        ttl=timedelta(hours=1),
        dns_names=vm_names("vm-1", key_label("key"), domain),
    )

    async def dial() -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            agent.addresses()[0],
            channel_credentials(svid, agent.bundle),
            options=[*CHANNEL_OPTIONS, *channel_options(agent_server_name(domain))],
        )

    made = Machine(namespace)
    sink = Sink(kinds=(Kind.PEER, Kind.IMPORT), names=())
    made.client = WatchClient(connect=dial, sink=sink, on_changes=lambda _: None, presence=made.presence)
    task = asyncio.create_task(made.client.run(), name="machine")
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_pods_and_vms_are_one_service_and_each_takes_over_from_the_other(sides: Any, until: Until) -> None:
    east, west = sides["east"], sides["west"]
    await east.running.stop()
    await east.start(vms=VmsSettings(listen=f"127.0.0.1:{free_port()}"), single_machine=True)
    agent, name = east.running.agent, f"{east.namespace}/echo"

    def ready() -> int:
        return int(west.running.clusters(name).get("east", 0))

    async def origin() -> list[tuple[str, int, float]]:
        async with AgentClient.open(east.running.state) as client:
            backends = (await client.resolve(name)).backends
        parts = by_origin(backends, shares(backends))
        return sorted((p["source"], p["ready"], p["share"]) for p in parts if p["cluster"] == "east")

    async with machine(agent, east.namespace) as vm:
        await east.service(ready=3)
        vm.offer()
        await until(lambda: ServiceName.parse(name) in agent.workloads.state.value.unexported)
        assert west.running.seen(name) is None, "nobody has exported it"
        await east.export()
        await until(lambda: ready() == 4)
        await until(lambda: east.ready())
        assert await origin() == [("kubernetes", 3, 75.0), ("vm", 1, 25.0)]

        await east.service(ready=0)  # the pods are gone: the VM serves
        await until(lambda: ready() == 1)
        assert await origin() == [("vm", 1, 100.0)]
        await east.service(ready=1)
        await until(lambda: ready() == 2)
        vm.offer(ready=False)  # and the other way round
        await until(lambda: ready() == 1)
        assert await origin() == [("kubernetes", 1, 100.0), ("vm", 0, 0.0)]

        # A VM's own export holds the service when Kubernetes takes its own back; its pods are then not offered.
        vm.offer(exported=True)
        await until(lambda: ready() == 2)
        await east.unexport()
        await until(lambda: ready() == 1)
        assert await origin() == [("vm", 1, 100.0)]
        async with AgentClient.open(east.running.state) as client:
            with pytest.raises(Conflict) as caught:
                await client.unexport(name)
            assert caught.value.error_code == "registered_by_vm"
        vm.offer(name="other")
        await until(lambda: west.running.seen(name) is None)


async def test_kubernetes_and_manifests_are_one_cluster(sides: Any, manifest: Any, until: Until) -> None:
    east, west = sides["east"], sides["west"]
    await east.running.stop()
    folder = east.running.folder
    await east.running.start(files=FilesSettings(folder=str(folder)), kubernetes=east.settings)
    name = f"{east.namespace}/echo"
    await east.service(ready=2)
    await east.export()
    await until(lambda: west.running.clusters(name) == {"east": 2})
    text = manifest("echo", "10.9.0.1").replace("namespace: shop", f"namespace: {east.namespace}")
    east.running.write("echo.yaml", text)
    await until(lambda: west.running.clusters(name) == {"east": 3})
    # the manifest has a port more than the Service; the API server's word counts, and that is told
    assert [p.port for p in west.running.seen(name).ports] == [80]
    await until(lambda: "port_conflict" in east.running.codes())
    (found,) = [p for p in east.running.agent.problems.all() if p.code == "port_conflict"]
    assert (found.subject, found.detail) == (name, "files has port 81/TCP, which kubernetes has not: it is left out")
    await east.unexport()
    await until(lambda: west.running.clusters(name) == {"east": 1})
    assert [p.port for p in west.running.seen(name).ports] == [80, 81]
    (folder / "echo.yaml").unlink()
    await until(lambda: west.running.seen(name) is None)


async def test_an_api_server_and_a_consul_in_one_agent(
    sides: Any, start_consul: Any, federation: Any, until: Until
) -> None:
    """1. services of both are exported, imports are written to both  2. who reports is said by the Lease, and another
    cluster on the datacenter is noticed all the same  3. the cluster leaves: nothing of it stays in either"""
    east, west = sides["east"], sides["west"]
    (dc1,) = await start_consul("dc1")
    settings = ConsulSettings(
        address=dc1.url(),
        datacenters={"dc1": east.namespace},
        lock_ttl=10.0,
        write=WriteSettings(enabled=True, ttl=10.0),
    )
    await east.running.stop()
    await east.start(consul=settings)
    agent = east.running.agent

    async def in_consul() -> list[tuple[str, int]]:
        async with dc1.connect() as client:
            found = await client.get("/v1/health/service/echo", passing="")
        return [(one["Service"]["Address"], one["Service"]["Port"]) for one in found]

    async with dc1.connect() as client:
        await client.register("db", port=5432, Address="10.0.9.1", Meta={"isthmus-export": "true"})
    await until(lambda: west.running.clusters(f"{east.namespace}/db") == {"east": 1})
    await west.service()
    await west.export()
    await until(east.ready)
    imported = await until(lambda: agent.view.imports.get(ServiceName(east.namespace, "echo")))
    assert await until(in_consul) == [("10.1.0.1", imported.gateway_ports[80])]

    async with AgentClient.open(east.running.state) as status:
        replica = (await status.status()).replica
    assert replica.leading
    assert replica.identity == replica_identity(east.running.state / REPLICA), "the standing of the Lease"
    second = Locks(
        settings,
        cluster="east",
        agent="second/1",
        elects=False,
        fallback=1,
        on_problems=lambda found: told.update(p.code for p in found),
        clock=SystemClock(),
        log=log.get("second"),
    )
    told: set[str] = set()
    foreign = Locks(
        settings,
        cluster="dc1",
        agent="foreign/1",
        fallback=1,
        on_problems=lambda _: None,
        clock=SystemClock(),
        log=log.get("foreign"),
    )
    running = [asyncio.create_task(locks.run(), name="locks") for locks in (second, foreign)]
    try:
        await until(lambda: "consul_shared" in east.running.codes() and "consul_shared" in told)
        assert second.holder != "second/1"
        assert "consul_standby" not in told, "a second replica is no copy of a state folder"
    finally:
        for task in running:
            await cancel(task)

    await east.running.stop()  # or the agent, too, would remove what it hears is not wanted any more
    async with federation.operator() as registry:
        await registry.leave("east")
    departed = await retire(agent.settings)
    assert departed.failed == ()
    assert "Consul dc1: node isthmus-east" in departed.removed
    assert f"ServiceImport {east.namespace}/echo" in departed.removed
    assert await in_consul() == []
    assert await east.imported() == {}
