"""What VMs register, told by one replica to the other through Leases, against an API server in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from discovery.kube.offers import DURATION, RENEW, Offers, name_of, pack, unpack
from discovery.kube.types import LeaseObject
from discovery.vms.registration import Site
from discovery.vms.workloads import Workloads
from federation import log
from federation.aio.clock import FakeClock
from federation.aio.tasks import cancel
from federation.model.cluster import Problem
from federation.model.ids import ServiceName, SpiffeId
from federation.model.service import Locality
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2

from .test_sharing import Api

GRACE, FORGET = 20.0, 100.0
DB = ServiceName("shop", "db")


class Replica:
    def __init__(self, name: str, api: Api, clock: FakeClock) -> None:
        self.name, self.problems = name, list[Problem | None]()
        self.all = Workloads(
            may_register=lambda *_: True,
            site=Site(trust_domain="dc1.test", any_address=True),
            locality=Locality(),
            grace=GRACE,
            forget=FORGET,
            clock=clock,
            log=log.get(name),
        )
        store = api.store("leases", LeaseObject)
        self.offers = Offers(
            api,  # type: ignore[arg-type]
            store,
            self.all,
            namespace="ns",
            identity=name,
            forget=GRACE + FORGET,
            on_problem=self.problems.append,
            clock=clock,
            log=log.get(name),
            rng=random.Random(1),
        )
        self.task = asyncio.create_task(self.offers.run())

    def say(self, *, vm: str = "vm-1", token: object = None, **changes: Any) -> object:
        token = token or object()
        given: dict[str, Any] = {
            "namespace": "shop",
            "name": "db",
            "ports": [records_pb2.Port(name="sql", port=5432)],
            "targets": {5432: 15432},
            "address": "192.0.2.1",
            "ready": True,
            "exported": True,
        }
        items = [pb.Workload(**{**given, **changes})]
        identity = SpiffeId.parse(f"spiffe://dc1.test/ns/shop/sa/{vm}")
        self.all.present(vm, token, pb.Workloads(items=items), identity=identity, host="192.0.2.1")
        return token

    @property
    def ready(self) -> int | None:
        service = self.all.state.value.exports.get(DB)
        return None if service is None else sum(e.ready for e in service.endpoints)


class World:
    def __init__(self) -> None:
        self.api, self.clock = Api(), FakeClock()
        self.one, self.two = (Replica(name, self.api, self.clock) for name in ("one", "two"))

    async def after(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.5) + 1):
            for _ in range(20):
                await asyncio.sleep(0)
            self.clock.advance(0.5)
            for replica in (self.one, self.two):
                replica.all.expire()
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for replica in (made.one, made.two):
        await cancel(replica.task)


async def test_both_know_and_it_costs_little(world: World) -> None:
    token = world.one.say()
    await world.after(2)
    assert world.two.ready == 1
    world.one.say(token=token, ready=False)
    await world.after(2)
    assert world.two.ready == 0
    before = world.api.writes
    await world.after(4 * DURATION)
    assert world.api.writes - before <= 4 * DURATION / RENEW + 2
    assert world.two.ready == 0
    world.one.all.removed("vm-1")
    world.two.all.removed("vm-1")
    await world.after(2)
    assert world.api.objects == {}


async def test_a_replica_that_is_gone_costs_its_machines_the_grace_period(world: World) -> None:
    world.one.say()
    await world.after(2)
    await cancel(world.one.task)
    await world.after(DURATION + GRACE - 4)
    assert world.two.ready == 1
    await world.after(RENEW)
    assert world.two.ready == 0
    assert ("leases", name_of("one")) in world.api.objects
    await world.after(FORGET + GRACE)
    assert world.two.ready is None
    assert world.api.objects == {}


async def test_a_machine_that_finds_the_other_replica_is_ready_all_the_time(world: World) -> None:
    world.one.say()
    await world.after(2)
    await cancel(world.one.task)
    await world.after(DURATION)
    world.two.say()
    await world.after(DURATION + 2 * GRACE)
    assert world.two.ready == 1


async def test_without_the_api_server_nothing_is_concluded(world: World) -> None:
    world.one.say()
    await world.after(2)
    world.api.away = True
    await world.after(3 * (DURATION + GRACE))
    assert world.two.ready == 1
    world.api.away = False
    await world.after(DURATION)
    assert world.two.ready == 1


async def test_more_than_fits_is_a_problem(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discovery.kube.offers.MAX_BYTES", 1500)
    tokens = [world.one.say(vm=f"vm-{n}", name=f"db-{random.Random(n).getrandbits(128):x}") for n in range(40)]
    await world.after(2)
    (problem,) = {p for p in world.one.problems if p is not None}
    assert problem.code == "too_many_vm_services"
    assert 0 < len(world.two.all.state.value.exports) < 40
    assert len(tokens) == 40


@pytest.mark.parametrize("text", ["%", "AAAA", pack([])[:-4], "eJwDAAAAAAE="])
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(text)


async def test_garbage_in_a_lease_changes_nothing(world: World) -> None:
    world.one.say()
    await world.after(2)
    tree = world.api.objects["leases", name_of("one")]
    tree["metadata"]["annotations"] = {"isthmus.io/vm-services": "%%%"}
    world.api.write("leases", tree)
    assert world.two.ready == 1
