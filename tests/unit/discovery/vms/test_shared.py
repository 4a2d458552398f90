"""What replicas of an agent tell each other of the VMs that have streams to them, as transcripts of two of them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from discovery.kube.offers import pack, unpack
from discovery.vms.registration import Site
from discovery.vms.workloads import Workloads
from federation import log
from federation.aio.clock import FakeClock
from federation.model.ids import ServiceName, SpiffeId
from federation.model.service import Locality
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2 as records

DB, WEB = ServiceName("shop", "db"), ServiceName("shop", "web")
GRACE, FORGET = 10.0, 100.0


def workload(name: str = "db", **changes: Any) -> pb.Workload:
    given: dict[str, Any] = {
        "namespace": "shop",
        "name": name,
        "ports": [records.Port(name="sql", port=5432)],
        "targets": {5432: 15432},
        "address": "192.0.2.1",
        "ready": True,
        "exported": True,
    }
    return pb.Workload(**{**given, **changes})


class Replica:
    def __init__(self, name: str, world: World) -> None:
        self.name, self.world = name, world
        self.all = Workloads(
            may_register=lambda vm, _: vm in world.allowed,
            site=Site(trust_domain="dc1.test", any_address=True),
            locality=Locality("eu", "eu-1"),
            grace=GRACE,
            forget=FORGET,
            clock=world.clock,
            log=log.get(name),
        )
        self.all.on_share = lambda: world.dirty.add(self.name)

    def say(self, *workloads: pb.Workload, vm: str = "vm-1", token: object = None) -> object:
        token = token or object()
        identity = SpiffeId.parse(f"spiffe://dc1.test/ns/shop/sa/{vm}")
        self.all.present(vm, token, pb.Workloads(items=workloads), identity=identity, host="192.0.2.1")
        return token

    def ready(self, name: ServiceName = DB) -> int | None:
        """None: there is no such export."""
        service = self.all.state.value.exports.get(name)
        return None if service is None else sum(e.ready for e in service.endpoints)

    def since(self) -> int:
        return self.all.state.value.exports[DB].exported_at_ns


class World:
    """Two replicas; `settle` delivers what they have to tell until nobody has anything."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.allowed = {"vm-1", "vm-2"}
        self.dirty: set[str] = set()
        self.replicas = {name: Replica(name, self) for name in ("a", "b")}

    def __getitem__(self, name: str) -> Replica:
        return self.replicas[name]

    def settle(self, rng: random.Random | None = None) -> None:
        for _ in range(50):
            if not self.dirty:
                return
            name = (rng or random).choice(sorted(self.dirty))
            self.dirty.discard(name)
            told = unpack(pack(self[name].all.shared()))
            for other in self.replicas.values():
                if other.name != name:
                    other.all.heard(name, told)
        raise AssertionError("they go on and on")

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for replica in self.replicas.values():
            replica.all.expire()
        self.settle()

    def ready(self, name: ServiceName = DB) -> list[int | None]:
        return [self["a"].ready(name), self["b"].ready(name)]


@pytest.fixture
def world() -> World:
    return World()


def test_what_one_is_told_both_report_and_since_when_is_the_same(world: World) -> None:
    token = world["a"].say(workload())
    world.clock.advance(5)
    world.settle()
    assert world.ready() == [1, 1]
    assert world["a"].since() == world["b"].since()
    world["a"].say(workload(ready=False), token=token)
    world.settle()
    assert world.ready() == [0, 0]
    world["a"].say(workload(), workload("web"), token=token)
    world["a"].say(workload("web"), token=token)
    world.settle()
    assert world.ready() == [None, None]
    assert world.ready(WEB) == [1, 1]
    world["a"].say(token=token)
    world.settle()
    assert world.ready(WEB) == [None, None]


@pytest.mark.parametrize("first_heard", ["moved", "ended"])
def test_a_machine_that_moves_is_ready_all_the_time(world: World, first_heard: str) -> None:
    token = world["a"].say(workload())
    world.settle()
    since = world["a"].since()
    if first_heard == "ended":
        world["a"].all.closed("vm-1", token, clean=False)
        world.settle()
        assert world.ready() == [1, 1]
    world["b"].say(workload())
    world.settle()
    world["a"].all.closed("vm-1", token, clean=False)
    world.settle()
    world.wait(3 * GRACE)
    assert world.ready() == [1, 1]
    assert world["a"].since() == world["b"].since() == since
    assert [s.vm for s in world["b"].all.shared()] == ["vm-1"]
    assert world["a"].all.shared() == []


def test_a_replica_that_dies_costs_nothing_while_the_machine_finds_another(world: World) -> None:
    world["a"].say(workload())
    world.settle()
    b = world["b"]
    b.all.unheard("a")
    world.clock.advance(GRACE - 1)
    b.all.expire()
    assert b.ready() == 1
    b.say(workload())
    world.clock.advance(5 * GRACE)
    b.all.expire()
    assert b.ready() == 1


def test_a_machine_that_died_with_its_replica_is_not_ready_then_forgotten(world: World) -> None:
    world["a"].say(workload())
    world.settle()
    b = world["b"]
    b.all.unheard("a")
    world.clock.advance(GRACE)
    b.all.expire()
    assert b.ready() == 0
    assert [p.code for p in b.all.state.value.problems] == ["vm_lost"]
    b.all.heard("a", world["a"].all.shared())  # it only stood still: the machine's stream is open
    assert b.ready() == 0, "nobody has heard of the machine since"
    world.clock.advance(FORGET)
    b.all.expire()
    assert b.ready() is None


@pytest.mark.parametrize("clean", [True, False])
def test_a_machine_that_goes_goes_at_both(world: World, clean: bool) -> None:
    token = world["a"].say(workload())
    world.settle()
    world["a"].all.closed("vm-1", token, clean=clean)
    world.settle()
    assert world.ready() == ([0, 0] if clean else [1, 1])
    world.wait(GRACE)
    assert world.ready() == [0, 0]
    world.wait(FORGET)
    assert world.ready() == [None, None]


def test_an_old_stream_that_ends_late_does_not_take_a_machine_away(world: World) -> None:
    token = world["a"].say(workload())
    world.settle()
    world["b"].say(workload())  # a has not heard of it yet
    world["a"].all.closed("vm-1", token, clean=False)
    world.settle()
    world.wait(3 * GRACE)
    assert world.ready() == [1, 1]


def test_a_replica_that_forgot_everything_does_not_take_a_machine_away(world: World) -> None:
    world["a"].say(workload())
    world.settle()
    world["b"].say(workload())
    world.settle()
    world.replicas["a"] = Replica("a", world)
    token = world["a"].say(workload())  # before it has heard of anything
    world["a"].all.heard("b", world["b"].all.shared())
    world.settle()
    world.wait(0.1)
    assert world.ready() == [1, 1]
    world["a"].all.closed("vm-1", token, clean=False)
    world.settle()
    world.wait(3 * GRACE)
    assert world.ready() == [1, 1], "its stream to b is open"


def test_what_the_own_table_does_not_allow_is_not_taken(world: World) -> None:
    world.allowed.discard("vm-1")
    told = [msg for msg in _told()]
    world["b"].all.heard("a", told)
    assert world["b"].ready() is None


def _told() -> list[Any]:
    other = World()
    other["a"].say(workload())
    return other["a"].all.shared()


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_in_whatever_order_they_agree_and_a_machine_with_a_stream_is_ready(seed: int) -> None:
    rng, world = random.Random(seed), World()
    streams: dict[str, tuple[str, object]] = {}
    old: list[tuple[str, object]] = []
    for _ in range(30):
        name = rng.choice(["a", "b"])
        what = rng.random()
        if what < 0.4:
            if "vm-1" in streams:
                old.append(streams["vm-1"])
            streams["vm-1"] = (name, world[name].say(workload(ready=True)))
        elif what < 0.6 and old:
            at, token = old.pop(rng.randrange(len(old)))
            world[at].all.closed("vm-1", token, clean=False)
        elif what < 0.8:
            world.settle(rng)
        else:
            world.clock.advance(rng.uniform(0, GRACE / 3))
    for at, token in old:
        world[at].all.closed("vm-1", token, clean=False)
    world.settle(rng)
    world.wait(2 * GRACE)
    world.wait(2 * GRACE)
    assert world.ready() == ([1, 1] if streams else [None, None])
