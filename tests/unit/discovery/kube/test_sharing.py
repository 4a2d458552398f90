"""What replicas of one agent tell each other through the API server: gateways, pins, virtual machines."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusters.waiting import until
from discovery.consumers import Consumers, Role
from discovery.kube.errors import Conflict, NotFound, Unreachable
from discovery.kube.pinboard import MAX_DROPPED, Change, Pinboard, Shared, merge
from discovery.kube.pinboard import NAME as PINS
from discovery.kube.roster import DURATION, PREFIX, RENEW, Roster
from discovery.kube.types import ConfigMap, LeaseObject
from discovery.kube.vmboard import NAME as VMS
from discovery.kube.vmboard import VmBoard
from discovery.kube.watch import Store
from discovery.pins import Pin, Pins
from discovery.vms.plans import Invitation, Invited
from discovery.vms.table import VmTable
from federation import log
from federation.aio.clock import FakeClock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.errors import AlreadyExists, Denied, IsthmusError, TimedOut, Unavailable
from federation.model.cluster import Problem
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2

ROOT = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


class Api:
    """Objects by plural and name, as an API server keeps them, and the watches of them."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.version = 0
        self.away = False
        self.writes = 0
        self.stores: list[tuple[str, Any, Store[Any]]] = []

    def store(self, plural: str, kind: Any) -> Store[Any]:
        made: Store[Any] = Store()
        self.stores.append((plural, kind, made))
        return made

    async def get(self, resource: Any, namespace: str, name: str) -> bytes:
        await self._reach()
        found = self.objects.get((resource.plural, name))
        if found is None:
            raise NotFound("there is none")
        return msgspec.json.encode(found)

    async def create(self, resource: Any, namespace: str, body: bytes) -> bytes:
        await self._reach()
        tree = msgspec.json.decode(body)
        if (resource.plural, tree["metadata"]["name"]) in self.objects:
            raise AlreadyExists("there is one")
        return self.write(resource.plural, tree)

    async def update(self, resource: Any, namespace: str, name: str, body: bytes) -> bytes:
        await self._reach()
        held, tree = self.objects.get((resource.plural, name)), msgspec.json.decode(body)
        if held is None:
            raise NotFound("there is none")
        if held["metadata"]["resourceVersion"] != tree["metadata"].get("resourceVersion"):
            raise Conflict("changed")
        return self.write(resource.plural, tree)

    async def delete(self, resource: Any, namespace: str, name: str, *, uid: str, resource_version: str) -> bytes:
        await self._reach()
        held = self.objects.get((resource.plural, name))
        if held is None:
            raise NotFound("there is none")
        if held["metadata"]["resourceVersion"] != resource_version:
            raise Conflict("changed")
        self.remove(resource.plural, name)
        return b"{}"

    def write(self, plural: str, tree: dict[str, Any]) -> bytes:
        self.version += 1
        self.writes += 1
        tree["metadata"] |= {"resourceVersion": str(self.version), "uid": "u"}
        self.objects[(plural, tree["metadata"]["name"])] = tree
        data = msgspec.json.encode(tree)
        for wanted, kind, store in self.stores:
            if wanted == plural:
                store.put(msgspec.json.decode(data, type=kind))
        return data

    def remove(self, plural: str, name: str) -> None:
        self.objects.pop((plural, name), None)
        for wanted, _, store in self.stores:
            if wanted == plural:
                store.delete("ns", name)

    def holder(self, gateway: str) -> str:
        found = self.objects.get(("leases", PREFIX + gateway))
        return "" if found is None else found["spec"]["holderIdentity"]

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise Unreachable("away")


class Replica:
    """An agent as far as its gateways and pins go."""

    def __init__(self, name: str, api: Api, clock: FakeClock, path: Path) -> None:
        self.clock = clock
        self.consumers = Consumers(lease=5.0, memory=60.0, clock=clock, log=log.get(name))
        self.pins = Pins(path / f"{name}.pins", cluster="east", federation="fed", clock=clock, log=log.get(name))
        self.repinned: list[str] = []
        self.problems: list[Problem | None] = []
        self.roster = Roster(
            api,  # type: ignore[arg-type]
            api.store("leases", LeaseObject),
            namespace="ns",
            identity=name,
            announced=self.consumers.announced,
            on_elsewhere=self.consumers.elsewhere,
            clock=clock,
            log=log.get(name),
            rng=random.Random(1),
        )
        store = api.store("configmaps", ConfigMap)
        for (plural, _), tree in api.objects.items():
            if plural == "configmaps":
                store.put(msgspec.convert(tree, ConfigMap))
        self.board = Pinboard(
            api,  # type: ignore[arg-type]
            store,
            Latest(True),
            self.pins,
            namespace="ns",
            on_changed=self.repinned.extend,
            on_problem=self.problems.append,
            clock=clock,
            log=log.get(name),
            rng=random.Random(1),
        )
        folder = path / name
        folder.mkdir(exist_ok=True)
        self.vms = VmTable(folder, clock=clock, log=log.get(name))
        self.removed: list[str] = []
        self.vms.listen(self.removed.append)
        self.vm_problems: list[Problem | None] = []
        self.vm_board = VmBoard(
            api,  # type: ignore[arg-type]
            store,
            Latest(True),
            self.vms,
            namespace="ns",
            on_problem=self.vm_problems.append,
            clock=clock,
            log=log.get(name),
            rng=random.Random(1),
        )
        self.tasks = [asyncio.create_task(part.run()) for part in (self.roster, self.board, self.vm_board)]

    def stream(self, gateway: str = "gw", address: str = "10.1.0.1", **more: Any) -> Any:
        consumer = self.consumers.opened(role=Role.GATEWAY, identity="spiffe://x/sa/gateway", address="a")
        self.announce(consumer, gateway, address, **more)
        return consumer

    def announce(self, consumer: Any, gateway: str = "gw", address: str = "10.1.0.1", **more: Any) -> None:
        shown = records_pb2.Gateway(name=gateway, address=address, port=443, weight=1, **more)
        self.consumers.present(consumer, pb.Presence(role=pb.Presence.GATEWAY_PROCESS, name=gateway, gateway=shown))

    @property
    def gateways(self) -> dict[str, str]:
        return {name: g.address for name, g in self.consumers.gateways.value.items()}

    async def stop(self) -> None:
        for task in self.tasks:
            with contextlib.suppress(Exception):
                await cancel(task)


class World:
    def __init__(self, path: Path) -> None:
        self.api, self.clock, self.path = Api(), FakeClock(), path
        self.replicas: list[Replica] = []

    def replica(self, name: str) -> Replica:
        made = Replica(name, self.api, self.clock, self.path)
        self.replicas.append(made)
        return made

    async def after(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.25) or 1):
            for _ in range(20):
                await asyncio.sleep(0)
            self.clock.advance(0.25 if seconds else 0.0)
            for replica in self.replicas:
                replica.consumers.expire()
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    made = World(tmp_path)
    yield made
    for replica in made.replicas:
        await replica.stop()


# --- gateways ---------------------------------------------------------------------------------------------------------


async def test_a_gateway_of_one_replica_is_known_to_the_other_as_it_is(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    stream = one.stream(egress="10.2.0.1", locality=records_pb2.Locality(region="eu", zone="eu-1"))
    await world.after(0)
    assert two.consumers.gateways.value == one.consumers.gateways.value
    one.announce(stream, draining=True)
    await world.after(0)
    assert two.consumers.gateways.value["gw"].draining
    one.consumers.closed(stream, clean=True)
    await world.after(0)
    assert (two.gateways, one.gateways) == ({}, {})
    assert world.api.holder("gw") == ""


async def test_a_gateway_that_stays_is_renewed_and_costs_little(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    one.stream()
    await world.after(4 * DURATION)
    assert two.gateways == {"gw": "10.1.0.1"}
    assert world.api.writes <= 4 * DURATION / RENEW + 2


async def test_a_gateway_whose_replica_died_is_known_until_it_has_found_another(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    one.stream()
    await world.after(1)
    await one.stop()
    await world.after(RENEW)
    assert two.gateways == {"gw": "10.1.0.1"}
    two.stream()
    await world.after(DURATION + 1)
    assert world.api.holder("gw") == "two"
    assert two.gateways == {"gw": "10.1.0.1"}


async def test_a_gateway_that_died_with_its_replica_goes_in_the_end(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    one.stream()
    await world.after(1)
    await one.stop()
    await world.after(DURATION + 2)
    assert two.gateways == {}
    assert world.api.holder("gw") == ""


async def test_a_replica_that_still_hears_a_gateway_that_has_moved_does_not_take_it_back(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    half_open = one.stream()
    await world.after(1)
    two.stream(address="10.1.0.9")
    await world.after(3 * RENEW)
    assert world.api.holder("gw") == "two"
    one.consumers.closed(half_open, clean=False)
    for _ in range(20):
        await world.after(0.5)
        assert set(one.gateways) == {"gw"}  # not for a moment
        assert two.gateways == {"gw": "10.1.0.9"}
    assert one.gateways == {"gw": "10.1.0.9"}


async def test_a_gateway_comes_back_to_its_first_replica(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    first = one.stream()
    await world.after(1)
    one.consumers.closed(first, clean=False)
    second = two.stream()
    await world.after(1)
    two.consumers.closed(second, clean=False)
    one.stream()
    await world.after(DURATION)
    assert world.api.holder("gw") == "one"
    assert two.gateways == {"gw": "10.1.0.1"}


async def test_while_the_api_server_is_away_each_goes_on_with_what_it_knows(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    one.stream()
    await world.after(1)
    world.api.away = True
    two.stream("other", "10.1.0.2")
    await world.after(5)
    assert two.gateways == {"gw": "10.1.0.1", "other": "10.1.0.2"}
    assert one.gateways == {"gw": "10.1.0.1"}
    world.api.away = False
    await world.after(2 * RENEW)
    assert one.gateways == {"gw": "10.1.0.1", "other": "10.1.0.2"}


async def test_a_lease_that_names_no_gateway_is_none(world: World) -> None:
    one = world.replica("one")
    for name, notes in (("bad", {"isthmus.io/gateway": "{}"}), ("none", {}), ("BAD", {})):
        metadata = {"name": PREFIX + name, "namespace": "ns", "annotations": notes}
        spec = {"holderIdentity": "x", "leaseDurationSeconds": 1000}
        world.api.write("leases", {"metadata": metadata, "spec": spec})
    await world.after(1)
    assert one.gateways == {}


# --- pins -------------------------------------------------------------------------------------------------------------


def pin(at: int, fingerprint: str = ROOT, sequence: int = 0) -> Pin:
    return Pin("west.fed", fingerprint, at, sequence)


@pytest.mark.parametrize(
    ("shared", "dropped", "change", "merged", "left"),
    [
        (None, None, Change(pin(5), 5), pin(5), None),
        (pin(5), None, Change(pin(7, OTHER), 7), pin(7, OTHER), None),
        (pin(9), None, Change(pin(7, OTHER), 7), pin(9), None),  # the operator's last word
        (pin(5, sequence=1), None, Change(pin(5, sequence=2), 8), pin(5, sequence=2), None),
        (pin(5, sequence=3), None, Change(pin(5, sequence=2), 8), pin(5, sequence=3), None),
        (pin(5), None, Change(None, 6), None, 6),
        (pin(7), None, Change(None, 6), pin(7), None),  # pinned again since
        (None, None, Change(None, 6), None, 6),
        (None, 6, Change(pin(5, sequence=2), 8), None, 6),  # its bundle moved on, its pin was dropped meanwhile
        (None, 6, Change(pin(7), 7), pin(7), None),
        (None, 9, Change(None, 6), None, 9),
    ],
)
def test_of_two_changes_the_newer_counts(
    shared: Pin | None, dropped: int | None, change: Change, merged: Pin | None, left: int | None
) -> None:
    before = Shared({} if shared is None else {"west": shared}, {} if dropped is None else {"west": dropped})
    after = Shared({} if merged is None else {"west": merged}, {} if left is None else {"west": left})
    assert merge(before, {"west": change}) == after


def test_what_was_dropped_is_remembered_of_so_many() -> None:
    shared = merge(Shared(), {f"c{n}": Change(None, n) for n in range(MAX_DROPPED + 3)})
    assert min(shared.dropped.values()) == 3


async def test_who_follows_a_bundle_does_not_bring_back_a_peer_that_was_dropped_meanwhile(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    one.pins.pin("west", "west.fed", ROOT)
    await world.after(1)
    held = two.pins.get("west")
    assert held is not None
    two.pins.unpin("west")
    one.pins.on_change("west", msgspec.structs.replace(held, sequence=2))  # as Pins.accept tells
    await world.after(1)
    assert one.pins.get("west") is None
    assert two.pins.get("west") is None
    two.pins.pin("west", "west.fed", OTHER)
    await world.after(1)
    assert one.pins.get("west") == two.pins.get("west") is not None


async def test_what_is_pinned_at_one_replica_is_pinned_at_the_other_and_what_is_dropped_too(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    one.pins.pin("west", "west.fed", ROOT)
    sharing = asyncio.create_task(one.board.share())
    await world.after(0)
    await sharing
    assert two.pins.get("west") == one.pins.get("west")
    assert two.repinned == ["west"]
    assert one.repinned == []
    await world.after(1)
    two.pins.unpin("west")
    await world.after(0)
    assert one.pins.get("west") is None
    assert world.api.writes == 2


async def test_both_at_the_same_time_lose_nothing(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    await world.after(0)
    one.pins.pin("west", "west.fed", ROOT)
    two.pins.pin("north", "north.fed", OTHER)
    await world.after(2)
    assert set(one.pins) == set(two.pins) == {"west", "north"}


async def test_what_was_pinned_while_the_api_server_was_away_is_told_later_also_after_a_restart(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    one.pins.pin("west", "west.fed", ROOT)
    await world.after(1)
    world.api.away = True
    two.pins.pin("north", "north.fed", OTHER)
    with pytest.raises(TimedOut, match="other replicas"):
        await two.board.share(seconds=0.01)
    await two.stop()
    world.api.away = False
    again = world.replica("two")
    await world.after(5)
    assert set(again.pins) == set(one.pins) == {"west", "north"}


async def test_a_config_map_that_was_deleted_takes_no_trust_with_it(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    one.pins.pin("west", "west.fed", ROOT)
    await world.after(1)
    world.api.remove("configmaps", PINS)
    await world.after(2)
    assert set(one.pins) == set(two.pins) == {"west"}
    assert ("configmaps", PINS) in world.api.objects


async def test_a_config_map_that_cannot_be_read_is_a_problem_and_changes_nothing(world: World) -> None:
    one = world.replica("one")
    one.pins.pin("west", "west.fed", ROOT)
    await world.after(1)
    tree = world.api.objects[("configmaps", PINS)]
    world.api.write("configmaps", {**tree, "data": {"pins.json": "[]"}})
    await world.after(1)
    assert set(one.pins) == {"west"}
    assert one.problems[-1] is not None
    assert one.problems[-1].code == "pins_unreadable"
    world.api.remove("configmaps", PINS)
    await world.after(15)
    assert one.problems[-1] is None


# --- virtual machines -------------------------------------------------------------------------------------------------

KEY = "sha256:" + "aa" * 32


async def invited(replica: Replica, name: str = "web-1", token: bytes = b"t" * 32) -> bytes:
    await replica.vms.issue(Invited(name, "shop", "web"), Invitation(token, replica.clock.wall_ns() + 10**12))
    return token


async def test_a_machine_that_is_invited_at_one_replica_joins_at_the_other_at_once(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    token = await invited(one)
    await two.vms.redeem("web-1", token, KEY)  # whatever the watch has told yet
    assert (await one.vms.renew("web-1", KEY)).key == KEY
    await until(lambda: one.vms.picture == two.vms.picture)
    assert b"t" * 32 not in msgspec.json.encode(world.api.objects[("configmaps", VMS)])


async def test_of_two_keys_at_two_replicas_one_wins(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    token = await invited(one)
    keys = [f"sha256:{number}" for number in range(20)]
    at = [(one, two)[number % 2].vms for number in range(20)]
    outcomes = await asyncio.gather(
        *(table.redeem("web-1", token, key) for table, key in zip(at, keys, strict=True)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert {o.error_code for o in outcomes if isinstance(o, IsthmusError)} == {"token_used"}
    await until(lambda: one.vms.picture == two.vms.picture)


async def test_a_machine_that_is_removed_at_one_replica_is_out_at_the_other(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    await one.vms.redeem("web-1", await invited(one), KEY)
    await until(lambda: two.vms.vms)
    await two.vms.remove("web-1")
    await until(lambda: (one.removed, two.removed) == (["web-1"], ["web-1"]))
    with pytest.raises(Denied) as caught:
        await one.vms.renew("web-1", KEY)
    assert caught.value.error_code == "vm_removed"


async def test_while_the_api_server_is_away_who_has_joined_renews_and_nobody_else_joins(world: World) -> None:
    one = world.replica("one")
    await one.vms.redeem("web-1", await invited(one), KEY)
    other = await invited(one, "web-2", b"o" * 32)
    world.api.away = True
    assert (await one.vms.renew("web-1", KEY)).name == "web-1"
    before = one.vms.picture
    with pytest.raises(Unavailable):
        await one.vms.redeem("web-2", other, KEY)
    with pytest.raises(Unavailable):
        await one.vms.remove("web-1")
    assert one.vms.picture == before
    await one.stop()
    again = world.replica("one")  # and it starts with what it had
    assert (await again.vms.renew("web-1", KEY)).name == "web-1"


async def test_a_table_that_was_deleted_takes_no_machine_with_it(world: World) -> None:
    one, two = world.replica("one"), world.replica("two")
    await one.vms.redeem("web-1", await invited(one), KEY)
    await until(lambda: two.vms.picture == one.vms.picture)
    world.api.remove("configmaps", VMS)
    await until(lambda: ("configmaps", VMS) in world.api.objects)
    assert set(one.vms.vms) == set(two.vms.vms) == {"web-1"}
    assert not one.removed + two.removed
    await invited(two, "web-2", b"o" * 32)
    await until(lambda: set(one.vms.vms) == {"web-1", "web-2"})


async def test_a_table_that_cannot_be_read_is_a_problem_and_changes_nothing(world: World) -> None:
    one = world.replica("one")
    await one.vms.redeem("web-1", await invited(one), KEY)
    await world.after(1)
    tree = world.api.objects[("configmaps", VMS)]
    world.api.write("configmaps", {**tree, "data": {"vms.json": "[]"}})
    await world.after(1)
    assert set(one.vms.vms) == {"web-1"}
    assert one.vm_problems[-1] is not None
    assert one.vm_problems[-1].code == "vms_unreadable"
    with pytest.raises(IsthmusError) as caught:
        await invited(one, "web-2", b"o" * 32)
    assert caught.value.error_code == "vms_unreadable"
    world.api.remove("configmaps", VMS)
    await world.after(15)
    assert one.vm_problems[-1] is None


async def test_a_table_that_an_api_server_would_not_take_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.replica("one")
    monkeypatch.setattr("discovery.kube.vmboard.MAX_BYTES", 100)
    with pytest.raises(IsthmusError) as caught:
        await invited(one)
    assert caught.value.error_code == "too_many_vms"
    assert not one.vms.vms
