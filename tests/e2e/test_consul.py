"""Numbered steps: a service of a VM that Consul knows, and of pods that an API server knows, is one and the same.

The tests of this file are one story and run in their order on one federation. `db` has copies on a VM of the datacenter
dc1, which is a network of its own, and later pods in east. East's client calls the pods first, dc1's the VM.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from clusters.consulclient import node, service
from clusters.consulground import EXPORT
from clusters.ground import ApiServers
from clusters.load import HttpLoad
from clusters.mixed import ConsulVm, GuardedDatacenter, Pods
from clusters.names import lookup
from clusters.namespace import NetworkNamespace
from clusters.processes import HTTP_PORT, NAMESPACE, Place, ProcessFederation
from clusters.topology import ClusterSpec, Topology
from clusters.waiting import ANSWER, START, until
from federation.cli.clients import agent
from federation.cli.status import Finding, assess, look
from federation.errors import TimedOut, Unavailable
from federation.model.service import Locality

pytestmark = [pytest.mark.e2e, pytest.mark.story, pytest.mark.usefixtures("consul_program")]

DB, NAME = "db", f"db.{NAMESPACE}.global"
THREE = Topology.full_mesh(
    "test.isthmus",
    ClusterSpec(name="east", locality=Locality("eu", "eu-1"), offers=()),
    ClusterSpec(name="west", locality=Locality("eu", "eu-2"), offers=()),
    ClusterSpec(name="dc1", locality=Locality("eu", "eu-3"), offers=(), consul=True),
)


@pytest.fixture(scope="module")
def space() -> Iterator[NetworkNamespace]:
    try:
        space = NetworkNamespace(uplink=True)
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    yield space
    space.close()


@pytest.fixture(scope="module")
def ground(
    kube_ground: ApiServers, space: NetworkNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedDatacenter]:
    ground = GuardedDatacenter(kube_ground, tmp_path_factory.mktemp("c"), space, servers=3)
    with ground.network:
        yield ground


@pytest.fixture(scope="module")
def federation(ground: GuardedDatacenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessFederation]:
    federation = ProcessFederation(THREE, tmp_path_factory.mktemp("f"), ground=ground)
    yield federation
    federation.stop()


@pytest.fixture(scope="module")
def vm(running: ProcessFederation, ground: GuardedDatacenter, space: NetworkNamespace) -> Iterator[ConsulVm]:
    vm = ConsulVm(space, ground, DB, running.directory / "logs")
    try:
        asyncio.run(vm.start())
        yield vm
    finally:
        vm.stop()


@pytest.fixture(scope="module")
def pods(running: ProcessFederation) -> Iterator[Pods]:
    pods = Pods(running, "east", DB)
    pods.start()
    yield pods
    pods.stop()


def call(address: str, port: int) -> dict[str, Any]:
    """What the copy that answers has got."""
    connection = http.client.HTTPConnection(address, port, timeout=ANSWER)
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"Host": f"{NAME}:{HTTP_PORT}"})
        response = connection.getresponse()
        body = response.read()
    assert response.status == 200, body
    return dict(json.loads(body))


@dataclass(frozen=True)
class Calls:
    """Requests that are sent all the while."""

    load: HttpLoad

    async def answered_by(self, who: str, number: int = 20) -> None:
        """Wait until so many requests on end, all of them new, have been answered by `who`."""
        began = time.monotonic()

        def settled() -> bool:
            last = self.load.outcomes()[-number:]
            return len(last) == number and all(o.begin > began and o.cluster == who for o in last)

        try:
            await until(settled, what=f"{number} answers on end of {who}")
        except TimedOut as error:
            raise TimedOut(f"{error.message}: {self.load.outcomes()[-3:]}") from error


@dataclass(frozen=True)
class Client:
    """A program beside the sidecar of one cluster."""

    place: Place

    def addresses(self) -> list[str]:
        return lookup(self.place.address, self.place.dns_port, NAME)

    @contextlib.contextmanager
    def calling(self) -> Iterator[Calls]:
        """Requests all the while; none of them may fail."""
        (address,) = self.addresses()
        load = HttpLoad(address, HTTP_PORT, NAME, clients=3, rate=20, fresh_every=10)
        load.start()
        try:
            yield Calls(load)
        finally:
            load.stop()
        assert [f"{o.error} after {o.end - o.begin:.1f} s" for o in load.outcomes() if o.error] == []


@pytest.fixture(scope="module")
def client(running: ProcessFederation) -> Client:
    """Of east."""
    return Client(running.places["east"])


@pytest.fixture(scope="module")
def neighbour(running: ProcessFederation) -> Client:
    """Of dc1."""
    return Client(running.places["dc1"])


Resolves = Callable[..., Awaitable[None]]


@pytest.fixture
def resolves(fedctl: Any) -> Resolves:
    """Waits until `fedctl resolve` tells a cluster of these: cluster=(its ready copies, its share in percent)."""

    async def resolves(seen_from: str, **expected: tuple[int, float]) -> None:
        told: Any = None

        def same() -> bool:
            nonlocal told
            shares = fedctl.ok("resolve", NAME, "--from", seen_from, "-o", "json").json["shares"]
            told = {part["cluster"]: (part["ready"], part["share"]) for part in shares}
            return bool(told == expected)

        try:
            await until(lambda: asyncio.to_thread(same), seconds=START)
        except TimedOut as error:
            raise TimedOut(f"{seen_from} was told {told} and not {expected}") from error

    return resolves


Complains = Callable[..., Awaitable[None]]


@pytest.fixture
def complains(running: ProcessFederation) -> Complains:
    """Waits until `fedctl status` complains of these codes and no others."""

    async def complains(*expected: str) -> None:
        found: list[Finding] = []

        async def same() -> bool:
            found[:] = assess(await look(running.home))
            return {one.code for one in found} == set(expected)

        try:
            await until(same, seconds=START)
        except TimedOut as error:
            raise TimedOut(f"fedctl status tells {found} and not {expected}") from error

    return complains


@pytest.fixture
def held(running: ProcessFederation) -> Callable[[], Awaitable[list[bytes]]]:
    """What east imports, as its agent holds it."""

    async def held() -> list[bytes]:
        async with agent(running.home, "east") as one:
            return sorted(i.SerializeToString(deterministic=True) for i in await one.imports())

    return held


async def without_sidecar(ground: ApiServers, place: Place) -> tuple[str, int]:
    """Where kube-proxy would lead a pod that has no sidecar: an endpoint of the name's ClusterSetIP."""
    name = f"{DB}.{NAMESPACE}.svc.clusterset.local"
    found = partial(lookup, place.address, place.agent_dns_port, name)
    (address,) = await until(lambda: asyncio.to_thread(found), what="a ClusterSetIP")
    async with ground.clusters[place.spec.name].connect() as client:
        (service,) = [s for s in await client.list("v1", "Service", NAMESPACE) if s["spec"]["clusterIP"] == address]
        label = f"kubernetes.io/service-name={service['metadata']['name']}"

        async def slices() -> list[Any]:
            listed = await client.list("discovery.k8s.io/v1", "EndpointSlice", NAMESPACE, labelSelector=label)
            return [one for one in listed if one["endpoints"]]

        (one,) = await until(slices, what="an EndpointSlice that names the gateway")
    return one["endpoints"][0]["addresses"][0], one["ports"][0]["port"]


async def test_01_what_is_registered_on_a_vm_is_called_from_another_cluster(
    vm: ConsulVm, client: Client, kube_ground: ApiServers, resolves: Resolves
) -> None:
    """1. nobody knows the name  2. `consul services register` on the VM  3. a client behind east's sidecar calls it, by
    mutual TLS up to the gateway of dc1  4. one without a sidecar does, through the gateways of both clusters."""
    async with kube_ground.clusters["east"].connect() as api:
        await api.create_namespace(NAMESPACE)
    assert client.addresses() == []
    await vm.register(1)
    await resolves("east", dc1=(1, 100.0))
    (address,) = client.addresses()
    answer = await asyncio.to_thread(call, address, HTTP_PORT)
    assert answer["cluster"] == "vm"
    assert "By=spiffe://dc1.test.isthmus/ns/isthmus-system/sa/gateway;" in answer["caller"]
    assert "URI=spiffe://east.test.isthmus/ns/shop/sa/client" in answer["caller"]

    answer = await asyncio.to_thread(call, *await without_sidecar(kube_ground, client.place))
    assert answer["cluster"] == "vm"
    assert "By=spiffe://dc1.test.isthmus/ns/isthmus-system/sa/gateway;" in answer["caller"]
    assert "URI=spiffe://east.test.isthmus/ns/isthmus-system/sa/gateway" in answer["caller"]


async def test_02_pods_of_the_same_name_join_it_and_each_cluster_calls_its_own(
    pods: Pods, client: Client, neighbour: Client, resolves: Resolves
) -> None:
    """1. east exports pods of the same name: its client calls them  2. dc1's calls the VM  3. west, which has none, is
    told of both, by their numbers."""
    with client.calling() as calls, neighbour.calling() as others:
        await calls.answered_by("vm")
        await pods.ready(2)
        await calls.answered_by("pods")
        await others.answered_by("vm")
    await resolves("east", east=(2, 100.0), dc1=(1, 0.0))
    await resolves("dc1", dc1=(1, 100.0), east=(2, 0.0))
    await resolves("west", east=(2, 66.7), dc1=(1, 33.3))


async def test_03_the_vm_takes_over_from_pods(pods: Pods, client: Client, resolves: Resolves) -> None:
    """1. the pods are killed while they are called  2. the API server says so  3. they are back."""
    with client.calling() as calls:
        await calls.answered_by("pods")
        pods.kill()
        await calls.answered_by("vm")
        await pods.ready(0)
        await resolves("east", east=(0, 0.0), dc1=(1, 100.0))
        pods.start()
        await pods.ready(2)
        await calls.answered_by("pods")


async def test_04_pods_take_over_from_a_vm_whose_check_turns_critical(
    vm: ConsulVm, neighbour: Client, resolves: Resolves
) -> None:
    """1. what Consul checks on the VM fails  2. the pods of east answer dc1  3. the check passes again."""
    with neighbour.calling() as calls:
        await calls.answered_by("vm")
        vm.fail(1)
        await calls.answered_by("pods")
        await resolves("dc1", dc1=(0, 0.0), east=(2, 100.0))
        vm.pass_again(1)
        await calls.answered_by("vm")


async def test_05_the_node_is_gone_and_comes_back(
    vm: ConsulVm, neighbour: Client, resolves: Resolves, complains: Complains
) -> None:
    """1. kill -9 of everything on the VM: the pods take over at once  2. Consul knows: so does east  3. all is back."""
    with neighbour.calling() as calls:
        await calls.answered_by("vm")
        vm.kill()
        await calls.answered_by("pods")
        await resolves("east", east=(2, 100.0), dc1=(0, 0.0))
        await vm.restart()
        await calls.answered_by("vm")
    await resolves("east", east=(2, 100.0), dc1=(1, 0.0))
    await complains()


async def test_06_a_datacenter_out_of_reach_is_served_on(
    vm: ConsulVm,
    pods: Pods,
    ground: GuardedDatacenter,
    client: Client,
    resolves: Resolves,
    complains: Complains,
    held: Any,
) -> None:
    """1. nothing gets from the agent to Consul: only the status changes  2. what changed meanwhile is seen after it."""
    await pods.ready(0)
    await resolves("east", east=(0, 0.0), dc1=(1, 100.0))
    before = await held()
    with client.calling() as calls:
        await calls.answered_by("vm")
        ground.network.refuse()
        await complains("consul_unreachable")
        await vm.register(2)
        await calls.answered_by("vm", 60)
        assert await held() == before
        await complains("consul_unreachable")
        ground.network.heal()
        await resolves("east", east=(0, 0.0), dc1=(2, 100.0))
        await complains()


async def test_07_a_token_is_revoked_and_another_one_written(
    vm: ConsulVm, ground: GuardedDatacenter, client: Client, resolves: Resolves, complains: Complains, held: Any
) -> None:
    """1. the agent's token is revoked: it says so, and serves on  2. another one is written to its file: it goes on."""
    before = await held()
    with client.calling() as calls:
        await calls.answered_by("vm")
        await ground.revoke()
        await complains("consul_forbidden")
        await vm.deregister(2)
        await calls.answered_by("vm", 60)
        assert await held() == before
        await ground.issue()
        await resolves("east", east=(0, 0.0), dc1=(1, 100.0))
        await complains()
    await vm.register(2)
    await resolves("east", east=(0, 0.0), dc1=(2, 100.0))


async def test_08_a_migration_from_the_vm_to_pods_is_told_by_resolve(
    vm: ConsulVm, pods: Pods, client: Client, resolves: Resolves
) -> None:
    """One copy after the other moves; west, which has none, sees the weights move, and no call of east fails."""
    with client.calling() as calls:
        await calls.answered_by("vm")
        await resolves("west", dc1=(2, 100.0), east=(0, 0.0))
        await pods.ready(1)
        await resolves("west", dc1=(2, 66.7), east=(1, 33.3))
        await vm.deregister(2)
        await resolves("west", dc1=(1, 50.0), east=(1, 50.0))
        await pods.ready(2)
        await resolves("west", dc1=(1, 33.3), east=(2, 66.7))
        await vm.deregister(1)
        await resolves("west", east=(2, 100.0))
        await calls.answered_by("pods")


async def test_09_the_cable_of_the_node_is_pulled(
    vm: ConsulVm, neighbour: Client, resolves: Resolves, complains: Complains
) -> None:
    """1. nothing comes from the VM any more, not even a refusal: the pods take over  2. all is back."""
    await vm.register(1)
    with neighbour.calling() as calls:
        await calls.answered_by("vm")
        vm.cut()
        await calls.answered_by("pods")
        await resolves("east", east=(2, 100.0), dc1=(0, 0.0))
        vm.mend()
        await calls.answered_by("vm")
    await resolves("east", east=(2, 100.0), dc1=(1, 0.0))
    await complains()


async def test_10_servers_lose_their_leader_and_are_restored_from_an_old_snapshot(
    vm: ConsulVm, pods: Pods, ground: GuardedDatacenter, client: Client, resolves: Resolves, complains: Complains
) -> None:
    """1. kill -9 of the server that leads: the others go on, and so do the calls  2. a snapshot of before is restored:
    what no agent of Consul tells it is gone, and the calls go on  3. the server is back: Consul on the VM tells it what
    runs there."""
    datacenter = ground.datacenter
    lone = partial(lookup, client.place.address, client.place.dns_port, f"lone.{NAMESPACE}.global")

    async def forgotten() -> bool:
        return not await asyncio.to_thread(lone)

    await pods.ready(0)
    await resolves("east", east=(0, 0.0), dc1=(1, 100.0))
    async with datacenter.connect() as consul:
        snapshot = await consul.save_snapshot()
        await consul.transact([node("lone", "192.0.2.7"), service("lone", "lone", port=80, Meta=EXPORT)])
    await until(lambda: asyncio.to_thread(lone), seconds=START, what="the name that the snapshot lacks")
    await vm.register(2)
    await resolves("east", east=(0, 0.0), dc1=(2, 100.0))
    with client.calling() as calls:
        await calls.answered_by("vm")
        first = await datacenter.leader()
        left = next(site.name for site in datacenter.servers if site.name != first)
        datacenter.kill(first)
        ground.lead_to(left)
        await datacenter.wait_leader(other_than=first, timeout=START)
        await calls.answered_by("vm", 60)
        await resolves("east", east=(0, 0.0), dc1=(2, 100.0))

        async with datacenter.connect(left) as consul:
            await consul.restore_snapshot(snapshot)
        await until(forgotten, seconds=START, what="the end of what the snapshot lacks")
        await calls.answered_by("vm", 60)

        await vm.misses(first)
        await datacenter.restart(first)
        await resolves("east", east=(0, 0.0), dc1=(2, 100.0))
        await complains()


def test_11_nobody_has_written_a_traceback(running: ProcessFederation) -> None:
    for one in running.running.values():
        assert "Traceback" not in one.log.read_text(errors="replace"), one.log
