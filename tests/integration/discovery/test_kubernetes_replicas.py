"""Two processes of one agent on a real API server: one writes and reports, both serve, and neither can be confused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import yaml

from clusters.network import free_port
from clusters.podserver import PodServer
from clusters.program import Program, events
from clusters.waiting import START
from discovery.client import AgentClient
from discovery.join import join, replicate
from discovery.kube.client import KubeClient
from discovery.kube.settings import KubernetesSettings
from discovery.mcs.apply import Applier, resource_of
from discovery.mcs.held import EPOCH
from discovery.mcs.held import Kind as ObjectKind
from discovery.mcs.plan import Verb, Write
from discovery.settings import load
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.tasks import cancel
from federation.catalog.replica import Changes, Sink
from federation.cli.main import run
from federation.errors import AlreadyExists, Conflict, Denied, IsthmusError, NotFound
from federation.model.record import Kind, OriginState
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2
from federation.registry.client import CHANNEL_OPTIONS, WatchClient
from federation.registry.edge.afar import Job
from federation.registry.machine import enrol
from federation.trust.grpc_credentials import agent_server_name, channel_credentials, channel_options
from federation.trust.pem import armour
from federation.trust.workload import WorkloadIdentity

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]
MCS = "multicluster.x-k8s.io/v1beta1"
LEASE, RENEW = 15.0, 1.0
"""Seconds: who leads goes on to lead on a machine that stands still for a while."""
QUICK_LEASE = 8.0
"""Where another one takes over, and that is waited for."""
PATIENCE = 10.0
"""Seconds until one that does not answer is passed over for the next."""
quick_lease = pytest.mark.parametrize("lease", [QUICK_LEASE], ids=["quick"])


class Replica:
    """One process of east's agent."""

    def __init__(self, name: str, settings: Path) -> None:
        self.name, self.settings, self.state = name, settings, settings.parent
        self.log = settings.parent.parent / f"{name}.log"
        self.program = Program(name, [sys.executable, "-m", "discovery", "--settings", str(settings)], self.log)

    def adjust(self, *, lease: float, **changes: Any) -> None:
        tree = yaml.safe_load(self.settings.read_text())
        tree["kubernetes"]["lease"] = lease
        tree["kubernetes"] |= {"renew": RENEW, "confirm": 0.2}
        tree |= {"log": {"level": "debug", "json": True}, "save": 0.05, **changes}
        self.settings.write_text(yaml.safe_dump(tree))

    @property
    def identity(self) -> str:
        return (self.state / "replica.state").read_bytes().rpartition(b"\n")[2].decode()

    @property
    def door(self) -> str:
        """Where virtual machines come in."""
        listen: str = yaml.safe_load(self.settings.read_text())["vms"]["listen"]
        return listen

    @property
    def address(self) -> str:
        address: str = yaml.safe_load(self.settings.read_text())["listen"]
        return address

    def ready(self) -> bool:
        try:
            port = json.loads((self.state / "ports.json").read_text())["metrics"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return True
        except (OSError, ValueError, KeyError, urllib.error.HTTPError):
            return False

    async def status(self) -> Any:
        async with AgentClient.open(self.state) as client:
            return await client.status()

    def events(self) -> list[dict[str, Any]]:
        """Its log."""
        return events(self.log)

    def said(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events() if e.get("event") == event]


class World:
    """East with two replicas on an API server, west with a folder, one registry; and what was ever missing."""

    def __init__(self, federation: Any, west: Any, cluster: Any, client: Any, namespace: str) -> None:
        self.federation, self.west, self.cluster, self.client = federation, west, cluster, client
        self.namespace = namespace
        self.replicas: list[Replica] = []
        self.dips: list[str] = []

    async def lease(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.client.get(
            "coordination.k8s.io/v1", "Lease", "isthmus-agent", self.namespace
        )
        return found

    async def led_by(self, replica: Replica) -> bool:
        with contextlib.suppress(NotFound):
            return bool((await self.lease())["spec"]["holderIdentity"] == replica.identity)
        return False

    async def export(self, ready: int) -> None:
        """`api` in east, with so many endpoints."""
        metadata = {"name": "api", "namespace": self.namespace}
        await self.client.apply(
            {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}},
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**metadata, "name": "api-1", "labels": {"kubernetes.io/service-name": "api"}},
                "addressType": "IPv4",
                "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [f"10.0.0.{n + 1}"]} for n in range(ready)],
            },
            {"apiVersion": MCS, "kind": "ServiceExport", "metadata": metadata},
        )

    def offer(self, *ports: int) -> None:
        """`echo` in west, at these ports."""
        place = f"namespace: {self.namespace}"
        listed = ", ".join(f"{{name: p{port}, port: {port}}}" for port in ports)
        self.west.write(
            "echo.yaml",
            f"apiVersion: v1\nkind: Service\nmetadata: {{name: echo, {place}}}\nspec: {{ports: [{listed}]}}\n---\n"
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
            f"metadata: {{name: echo-1, {place}, labels: {{kubernetes.io/service-name: echo}}}}\n"
            f"addressType: IPv4\nports: [{listed}]\nendpoints: [{{addresses: [10.9.0.1]}}]\n---\n"
            f"apiVersion: {MCS}\nkind: ServiceExport\n"
            f"metadata: {{name: echo, {place}, creationTimestamp: '2026-01-02T03:04:05Z'}}\n",
        )

    async def objects(self) -> dict[str, dict[str, Any]]:
        """What is written for the import of `echo`, by kind."""
        found = {"ServiceImport": await self.client.get(MCS, "ServiceImport", "echo", self.namespace)}
        selector = "multicluster.kubernetes.io/service-name=echo"
        (found["Service"],) = await self.client.list("v1", "Service", self.namespace, labelSelector=selector)
        (found["EndpointSlice"],) = await self.client.list(
            "discovery.k8s.io/v1", "EndpointSlice", self.namespace, labelSelector=selector
        )
        return found

    async def imported(self, *wanted: int) -> dict[str, dict[str, Any]] | None:
        """The objects once they are ready for these ports."""
        try:
            found = await self.objects()
        except (NotFound, ValueError):
            return None
        ports = [p["port"] for p in found["ServiceImport"]["spec"]["ports"]]
        ready = [c["status"] for c in found["ServiceImport"].get("status", {}).get("conditions", ())]
        if sorted(ports) != sorted(wanted) or ready != ["True"] or not found["EndpointSlice"]["endpoints"]:
            return None
        return found

    async def watch(self) -> None:
        """Note whatever is missing, until cancelled."""
        registry = self.federation._registry
        while True:
            origin = registry.service.reports.log.origins().get("east")
            if origin is None or origin.state is not OriginState.LIVE:
                self.dips.append(f"the registry has east as {origin}")
            for kind, name in ((Kind.SERVICE, f"{self.namespace}/api"), (Kind.GATEWAY, "gw-1")):
                if name not in {r.key.name for r in registry.service.reports.log.records(kind=kind, origin="east")}:
                    self.dips.append(f"the registry lacks {name}")
            if not self.west.clusters(f"{self.namespace}/api").get("east"):
                self.dips.append("west lacks api")
            try:
                if not (await self.objects())["EndpointSlice"]["endpoints"]:
                    self.dips.append("an EndpointSlice is empty")
            except (NotFound, ValueError) as error:
                self.dips.append(f"an object is missing: {error}")
            await asyncio.sleep(0.05)


class Edge:
    """A gateway without an Envoy that dials the replicas in turn."""

    def __init__(self, world: World, grant: Any) -> None:
        self.targets = [r.address for r in world.replicas]
        self.sink = Sink(kinds=(Kind.EXPORT, Kind.PEER, Kind.IMPORT), speaker="east")
        self.deleted: list[Any] = []
        self._grant = grant
        self.client = WatchClient(
            connect=self._dial, sink=self.sink, on_changes=self._changed, presence=self._presence, patience=PATIENCE
        )

    def _changed(self, changes: Changes) -> None:
        self.deleted += changes.deleted

    @staticmethod
    def _presence() -> pb.Presence:
        gateway = records_pb2.Gateway(name="gw-1", address="127.0.0.1", port=15443, weight=1, egress="10.1.0.1")
        return pb.Presence(role=pb.Presence.GATEWAY_PROCESS, name="gw-1", gateway=gateway)

    async def _dial(self) -> grpc.aio.Channel:
        self.targets.append(self.targets.pop(0))
        return grpc.aio.secure_channel(
            self.targets[-1],
            channel_credentials(self._grant.svid, self._grant.bundle),
            options=[*CHANNEL_OPTIONS, *channel_options(agent_server_name(self._grant.bundle.trust_domain))],
        )

    def names(self, kind: Kind) -> set[str]:
        return {r.key.name for r in self.sink.replica.records(kind=kind)}


@contextlib.asynccontextmanager
async def sidecar(name: str, replica: Replica) -> AsyncIterator[WatchClient]:
    """A sidecar without an Envoy at one replica."""
    grant = await WorkloadIdentity(clock=SystemClock()).fetch(replica.state / "identity.sock", "shop", "web")

    async def dial() -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            replica.address,
            channel_credentials(grant.svid, grant.bundle),
            options=[*CHANNEL_OPTIONS, *channel_options(agent_server_name(grant.bundle.trust_domain))],
        )

    client = WatchClient(
        connect=dial,
        sink=Sink(kinds=(Kind.PEER, Kind.IMPORT), wildcard=False),
        on_changes=lambda _: None,
        presence=lambda: pb.Presence(role=pb.Presence.SIDECAR, name=name, version="0.1.0"),
    )
    task = asyncio.create_task(client.run(), name=f"sidecar-{name}")
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
def lease() -> float:
    return LEASE


@pytest.fixture
async def world(
    federation: Any, kube_clusters: Any, kube_namespace: str, until: Until, tmp_path: Path, lease: float
) -> AsyncIterator[World]:
    """Linked and settled; the first replica leads and has the stream of the gateway."""
    cluster = kube_clusters[0]
    west = await federation.cluster("west")
    kubernetes = KubernetesSettings(kubeconfig=str(cluster.kubeconfig), namespace=kube_namespace)
    async with federation.operator() as operator:
        token = (await operator.issue_token("east")).token
    one = tmp_path / "one" / "state"
    dns = f"127.0.0.1:{free_port()}"
    await join(one, token=token, cluster="east", kubernetes=kubernetes, listen=f"127.0.0.1:{free_port()}", dns=dns)
    async with cluster.connect() as client:
        made = World(federation, west, cluster, client, kube_namespace)
        two = tmp_path / "two" / "state"
        await replicate(two, kubernetes=kubernetes, listen=f"127.0.0.1:{free_port()}")
        made.replicas = [Replica("one", one / "settings.yaml"), Replica("two", two / "settings.yaml")]
        first = made.replicas[0]
        try:
            for replica in made.replicas:
                replica.adjust(
                    lease=lease, vms={"listen": f"127.0.0.1:{free_port()}", "services": {"any_address": True}}
                )
                replica.program.start()
                await until(lambda replica=replica: replica.ready() or not replica.program.alive, seconds=START)
                if replica is first:
                    await until(lambda: made.led_by(first))
            federation.agents["east"] = first
            await federation.link("east", "west")
            await made.export(1)
            made.offer(80)
            await until(lambda: west.clusters(f"{kube_namespace}/api").get("east"))
            yield made
        finally:
            for replica in made.replicas:
                with contextlib.suppress(IsthmusError):
                    os.kill(replica.program.pid, signal.SIGCONT)
                replica.program.end()
            del federation.agents["east"]


@pytest.fixture
async def edge(world: World, until: Until) -> AsyncIterator[Edge]:
    """A gateway that is connected to the first replica, and known everywhere."""
    socket = world.replicas[0].state / "identity.sock"
    grant = await WorkloadIdentity(clock=SystemClock()).fetch(socket, "isthmus-system", "gateway")
    made = Edge(world, grant)
    task = asyncio.create_task(made.client.run(), name="edge")
    try:
        await until(lambda: made.sink.synced)
        assert made.targets[-1] == world.replicas[0].address
        await until(lambda: world.imported(80))
        await until(lambda: f"{world.namespace}/echo" in made.names(Kind.IMPORT))
        yield made
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_replica_has_the_identity_and_the_pins_of_the_first(world: World, until: Until, tmp_path: Path) -> None:
    one, two = world.replicas
    async with AgentClient.open(one.state) as a, AgentClient.open(two.state) as b:
        first, second = await a.identity(), await b.identity()
        assert (first.fingerprint, first.cluster) == (second.fingerprint, "east")

        async def trusted() -> bool:
            return [p.state for p in (await b.status()).peers] not in ([], ["unpinned"])

        await until(trusted)
        seen = {i.name for i in await b.imports()}
        assert {"api", "echo"} <= seen
        # what is pinned at the second is pinned at the first, and so is what is taken away
        await b.unpin("west")
        await until(lambda: _states(a, ["unpinned"]))
        fingerprint = (await _west(world)).fingerprint
        await b.pin("west", "west.fed.example", fingerprint)
        await until(lambda: _states(a, ["live", "no gateway"]))
    assert one.identity != two.identity
    # the address at which the first answers names is of its own machine
    assert load(one.state / "settings.yaml").dns.listen
    assert not load(two.state / "settings.yaml").dns.listen
    with pytest.raises(AlreadyExists):
        await replicate(two.state, kubernetes=KubernetesSettings(kubeconfig=str(world.cluster.kubeconfig)))
    with pytest.raises(NotFound, match="no agent has joined"):
        await replicate(
            tmp_path / "three",
            kubernetes=KubernetesSettings(kubeconfig=str(world.cluster.kubeconfig), namespace="default"),
        )


async def test_sidecars_are_seen_at_whichever_replica_they_are(
    world: World, until: Until, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1. each row says at which replica  2. one that cannot be asked is named  3. on a host the other one is named"""
    pods, home = PodServer(), tmp_path / "home"
    await pods.start("127.0.0.1", free_port())
    for replica in world.replicas:
        pods.pod(f"isthmus-agent-{replica.name}", "agent", replica.state)
    kubeconfig = pods.kubeconfig(tmp_path / "kubeconfig", "kind-east")

    async def fedctl(*words: str, kube: bool = False) -> tuple[Any, str]:
        where = ["--kubeconfig", str(kubeconfig)] if kube else []
        capsys.readouterr()
        await asyncio.to_thread(run, ["--home", str(home), *words, *where])
        out, errors = capsys.readouterr()
        return (json.loads(out) if out.startswith(("{", "[")) else out), errors

    async def rows() -> dict[str, str]:
        found, _ = await fedctl("get", "sidecars", "-o", "json")
        return {row["sidecar"]: row["replica"] for row in found if row["sync"] != "lost"}

    async def counted() -> tuple[int, set[str]]:
        found, _ = await fedctl("status", "-o", "json")
        (row,) = (row for row in found["clusters"] if row["cluster"] == "east")
        subjects = {f["subject"] for f in found["findings"] if f["code"] == "replica_unreachable"}
        return row["consumers"], subjects

    one, two = world.replicas
    try:
        await fedctl("registry", "use", str(tmp_path / "registry" / "operator"))
        await fedctl("cluster", "use", "east", "--context", "kind-east", kube=True)
        async with sidecar("web-1", one), sidecar("web-2", two):
            wanted = {"web-1": "isthmus-agent-one", "web-2": "isthmus-agent-two"}
            await until(lambda: _equals(rows, wanted))
            assert await counted() == (2, set())

            pods.folders["isthmus-agent-two"] = tmp_path / "nothing"
            assert await rows() == {"web-1": "isthmus-agent-one"}
            assert await counted() == (1, {"east: isthmus-agent-two"})
            _, told = await fedctl("get", "sidecars")
            assert "east: isthmus-agent-two does not answer, and whom it serves is missing here: " in told

            await fedctl("cluster", "use", "east", str(two.state))
            _, told = await fedctl("get", "sidecars")
            assert f"east: {one.identity} is another replica, which is not known here" in told
            assert await rows() == {"web-2": two.identity}
    finally:
        await pods.close()


async def _equals(found: Callable[[], Awaitable[Any]], wanted: Any) -> bool:
    return bool(await found() == wanted)


async def test_a_machine_is_let_in_by_either_replica_and_put_out_by_both(
    world: World, until: Until, tmp_path: Path
) -> None:
    one, two = world.replicas
    async with AgentClient.open(one.state) as a, AgentClient.open(two.state) as b:
        invited = await a.invite_vm("vm-1", "shop", "web")
        files = {"token": invited.token, "anchors": armour(invited.bundle.roots).decode()}
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        job = Job(
            vm="vm-1",
            namespace="shop",
            account="web",
            trust_domain=invited.bundle.trust_domain,
            enrolment=(two.door,),  # not where it was invited
            anchors=str(tmp_path / "anchors"),
            token_file=str(tmp_path / "token"),
            key_file=str(tmp_path / "vm" / "machine.key"),
        )
        grant = await enrol(job, clock=SystemClock())
        assert grant.cluster == "east"
        (tmp_path / "token").unlink()
        renewal = msgspec.structs.replace(job, enrolment=(one.door,))
        await enrol(renewal, clock=SystemClock())

        await b.remove_vm("vm-1")
        assert not await b.vms()
        for door in (one.door, two.door):
            with pytest.raises(Denied) as caught:
                await enrol(msgspec.structs.replace(job, enrolment=(door,)), clock=SystemClock())
            assert caught.value.error_code == "vm_removed"

        async def forgotten() -> bool:
            return not await a.vms()

        await until(forgotten)


class Machine:
    """A VM's sidecar that registers `db`, and dials the replicas in turn, beginning with `first`."""

    def __init__(self, grant: Any, first: Replica, other: Replica, namespace: str) -> None:
        self.targets = [first.address, other.address]
        self._grant, self._namespace = grant, namespace
        sink = Sink(kinds=(Kind.PEER,), speaker="east")
        self.client = WatchClient(
            connect=self._dial, sink=sink, on_changes=lambda _: None, presence=self._presence, patience=PATIENCE
        )

    def _presence(self) -> pb.Presence:
        db = pb.Workload(
            namespace=self._namespace,
            name="db",
            ports=[records_pb2.Port(name="sql", port=5432)],
            targets={5432: 15432},
            address="192.0.2.1",
            ready=True,
            exported=True,
        )
        return pb.Presence(role=pb.Presence.SIDECAR, name="vm-1", workloads=pb.Workloads(items=[db]))

    async def _dial(self) -> grpc.aio.Channel:
        self.targets.append(self.targets.pop(0))
        return grpc.aio.secure_channel(
            self.targets[-1],
            channel_credentials(self._grant.svid, self._grant.bundle),
            options=[*CHANNEL_OPTIONS, *channel_options(agent_server_name(self._grant.bundle.trust_domain))],
        )

    def at(self, replica: Replica) -> bool:
        return self.client.connected and self.targets[-1] == replica.address


@quick_lease
async def test_what_a_machine_registers_at_one_replica_is_reported_whoever_leads_or_dies(
    world: World, until: Until, tmp_path: Path
) -> None:
    """1. at the one that does not lead  2. that one is killed  3. it is back, and the leader is killed: at no look is
    the service, or its readiness, missing at the registry  4. the machine is put out: gone at both"""
    one, two = world.replicas
    name = f"{world.namespace}/db"
    async with AgentClient.open(one.state) as client:
        invited = await client.invite_vm("vm-1", "shop", "web", services=[f"{world.namespace}/*"])
    (tmp_path / "token").write_text(invited.token)
    (tmp_path / "anchors").write_text(armour(invited.bundle.roots).decode())
    job = Job(
        vm="vm-1",
        namespace="shop",
        account="web",
        trust_domain=invited.bundle.trust_domain,
        enrolment=(one.door,),
        anchors=str(tmp_path / "anchors"),
        token_file=str(tmp_path / "token"),
        key_file=str(tmp_path / "vm" / "machine.key"),
    )
    machine = Machine(await enrol(job, clock=SystemClock()), two, one, world.namespace)
    dips: list[str] = []

    async def look() -> None:
        while True:
            if world.west.clusters(name) != {"east": 1}:
                dips.append(f"west has {world.west.clusters(name)}")
            await asyncio.sleep(0.02)

    running = asyncio.create_task(machine.client.run(), name="machine")
    looking = None
    try:
        await until(lambda: world.west.clusters(name) == {"east": 1})
        assert machine.at(two)
        assert await world.led_by(one)
        looking = asyncio.create_task(look(), name="look")
        two.program.kill()
        await until(lambda: machine.at(one))
        two.program.start()
        await until(two.ready, seconds=START)
        await until(lambda: _imports(two, "db"))
        one.program.kill()
        await until(lambda: world.led_by(two))
        await until(lambda: machine.at(two))
        await until(lambda: _reports(two))
        await world.export(2)  # what comes after it comes from the new leader
        await until(lambda: world.west.clusters(f"{world.namespace}/api") == {"east": 2})
        looking.cancel()
        assert not dips
        async with AgentClient.open(two.state) as client:
            await client.remove_vm("vm-1")
        await until(lambda: world.west.clusters(name) == {})
    finally:
        for task in (running, looking):
            if task is not None:
                await cancel(task)


async def _imports(replica: Replica, name: str) -> bool:
    async with AgentClient.open(replica.state) as client:
        return name in {i.name for i in await client.imports()}


async def _reports(replica: Replica) -> bool:
    return bool((await replica.status()).replica.reporting)


async def _states(client: AgentClient, wanted: list[str]) -> bool:
    return all(p.state in wanted for p in (await client.status()).peers)


async def _west(world: World) -> Any:
    async with AgentClient.open(world.west.state) as client:
        return await client.identity()


@quick_lease
async def test_the_other_replica_goes_on_when_the_leader_is_killed(world: World, edge: Edge, until: Until) -> None:
    one, two = world.replicas
    await until(lambda: _knows_gateway(two))
    assert await _measured(two, "isthmus_agent_leads 0.0")
    before, lease = await world.objects(), await world.lease()
    first, second = (await one.status()).replica, (await two.status()).replica
    assert (first.leader, first.leading) == (one.identity, True)
    assert (second.identity, second.leader, second.leading) == (two.identity, one.identity, False)
    assert first.since_ns == second.since_ns > 0
    watching = asyncio.create_task(world.watch())
    killed = one.program.kill()
    await until(lambda: world.led_by(two))
    took = asyncio.get_running_loop().time() - killed
    assert took < QUICK_LEASE + 10.0  # a busy machine; on a quiet one it is the lease at most
    now = await world.lease()
    for key in (EPOCH, "isthmus.io/report-epoch"):
        assert int(now["metadata"]["annotations"][key]) > int(lease["metadata"]["annotations"][key])
    await until(lambda: _measured(two, "isthmus_agent_leads 1.0"))
    now_leads = (await two.status()).replica
    assert (now_leads.leader, now_leads.leading, now_leads.reporting) == (two.identity, True, True)
    assert now_leads.since_ns > first.since_ns
    # it reports what changes, and writes what others change
    await world.export(3)
    await until(lambda: world.west.clusters(f"{world.namespace}/api") == {"east": 3})
    await until(lambda: edge.client.connected and edge.targets[-1] == two.address and edge.sink.synced)
    world.offer(80, 81)
    after = await until(lambda: world.imported(80, 81))
    await cancel(watching)
    assert {kind: o["metadata"]["uid"] for kind, o in after.items()} == {
        kind: o["metadata"]["uid"] for kind, o in before.items()
    }
    assert after["Service"]["spec"]["clusterIPs"] == before["Service"]["spec"]["clusterIPs"]
    assert not world.dips
    assert not edge.deleted
    await until(lambda: _stamped(world, now))


async def _stamped(world: World, lease: dict[str, Any]) -> bool:
    epoch = lease["metadata"]["annotations"][EPOCH]
    return {o["metadata"]["annotations"][EPOCH] for o in (await world.objects()).values()} == {epoch}


async def _measured(replica: Replica, line: str) -> bool:
    """Whether its metrics have the line."""
    port = json.loads((replica.state / "ports.json").read_text())["metrics"]
    text = await asyncio.to_thread(
        lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    )
    return line in text


async def _knows_gateway(replica: Replica) -> bool:
    return await _measured(replica, "isthmus_agent_gateways 1.0")


@quick_lease
async def test_a_leader_that_stood_still_writes_and_reports_nothing_any_more(
    world: World, edge: Edge, until: Until
) -> None:
    one, two = world.replicas
    await until(lambda: _knows_gateway(two))
    watching = asyncio.create_task(world.watch())
    before = await world.objects()
    one.program.pause()
    await until(lambda: world.led_by(two))
    world.offer(80, 81)
    after = await until(lambda: world.imported(80, 81))
    await world.export(2)
    await until(lambda: world.west.clusters(f"{world.namespace}/api") == {"east": 2})
    lease = await world.lease()
    await until(lambda: _stamped(world, lease))
    stood = len(one.events())
    one.program.resume()
    # it is told of everything that happened meanwhile, sees who leads, and leaves it at that
    await until(lambda: [e for e in one.events()[stood:] if e["event"] == "another replica reports"])

    async def caught_up() -> bool:
        async with AgentClient.open(one.state) as client:
            found = next(i for i in await client.imports() if i.name == "echo")
            return sorted(p.port for p in found.ports) == [80, 81]

    await until(caught_up)
    world.offer(80, 81, 82)
    await until(lambda: world.imported(80, 81, 82))
    await cancel(watching)
    assert not [e for e in one.events()[stood:] if e["event"] in ("wrote", "not written")]
    epoch = world.federation._registry.service.reports.log.origins()["east"].version.epoch
    assert epoch == int((await world.lease())["metadata"]["annotations"]["isthmus.io/report-epoch"])
    assert (await world.objects())["Service"]["metadata"]["uid"] == after["Service"]["metadata"]["uid"]
    assert not world.dips
    assert not edge.deleted
    # what it was about to write, had it been quicker, is refused: all has been written since by the new leader
    async with contextlib.AsyncExitStack() as stack:
        settings = KubernetesSettings(kubeconfig=str(world.cluster.kubeconfig))
        client = KubeClient(settings, log=log.get("test"), clock=SystemClock())
        stack.push_async_callback(client.close)
        for kind in (ObjectKind.IMPORT, ObjectKind.SERVICE, ObjectKind.SLICE):
            meta = before[kind]["metadata"]
            stale = Write(
                verb=Verb.APPLY,
                kind=kind,
                namespace=world.namespace,
                name=meta["name"],
                body={
                    **before[kind],
                    "apiVersion": resource_of(kind, "v1beta1").api_version,
                    "kind": kind.value,
                    "metadata": {"name": meta["name"], "namespace": world.namespace},
                },
                uid=meta["uid"],
                resource_version=meta["resourceVersion"],
            )
            with pytest.raises(Conflict):
                await Applier(client).do(stale, "v1beta1")
    # it takes over again when the other one ends in order, at once; the gateway comes, though its numbers are lower
    os.kill(two.program.pid, signal.SIGTERM)
    await until(lambda: world.led_by(one))
    await until(lambda: edge.client.connected and edge.targets[-1] == one.address and edge.sink.synced)
    assert not edge.sink.overruled
    assert not edge.deleted
    assert edge.names(Kind.IMPORT) == {f"{world.namespace}/{name}" for name in ("api", "echo")}
