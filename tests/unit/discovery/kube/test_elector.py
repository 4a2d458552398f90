"""Electors that share one Lease."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from discovery.kube.elector import Elector, replica_identity
from discovery.kube.errors import Conflict, NotFound, Unreachable
from discovery.kube.lease import NAME, Rules, State, read, render
from discovery.kube.types import LeaseObject
from discovery.kube.watch import Store
from discovery.membership import Membership
from federation import log
from federation.aio.clock import FakeClock
from federation.aio.tasks import cancel
from federation.errors import AlreadyExists
from federation.model.cluster import Problem

RULES = Rules(duration=9.0, renew=2.0)
WALL = 1_000
ROOT = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


class Server:
    """One Lease as an API server keeps it, and the watches of it."""

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.version = 0
        self.stores: list[Store[LeaseObject]] = []
        self.silent: set[int] = set()
        self.namespace = True

    def client(self) -> Client:
        self.stores.append(Store())
        return Client(self, len(self.stores) - 1)

    def write(self, body: bytes) -> bytes:
        self.version += 1
        tree = msgspec.json.decode(body)
        tree["metadata"] |= {"resourceVersion": str(self.version), "uid": "u"}
        self.data = msgspec.json.encode(tree)
        found = msgspec.json.decode(self.data, type=LeaseObject)
        for number, store in enumerate(self.stores):
            if number not in self.silent:
                store.put(found)
        return self.data

    def delete(self) -> None:
        self.data = None
        for store in self.stores:
            store.delete("ns", NAME)

    @property
    def lease(self) -> State:
        assert self.data is not None
        return read(msgspec.json.decode(self.data, type=LeaseObject))


class Client:
    """What an Elector needs of a KubeClient."""

    def __init__(self, server: Server, number: int) -> None:
        self._server, self.number = server, number
        self.away = False

    async def get(self, *_: Any) -> bytes:
        await self._reach()
        if self._server.data is None:
            raise NotFound("no lease")
        return self._server.data

    async def create(self, resource: Any, namespace: str, body: bytes) -> bytes:
        await self._reach()
        if not self._server.namespace:
            raise NotFound("no such namespace")
        if self._server.data is not None:
            raise AlreadyExists("there is one")
        return self._server.write(body)

    async def update(self, resource: Any, namespace: str, name: str, body: bytes) -> bytes:
        await self._reach()
        if self._server.data is None:
            raise NotFound("no lease")
        if msgspec.json.decode(body)["metadata"].get("resourceVersion") != str(self._server.version):
            raise Conflict("changed")
        return self._server.write(body)

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise Unreachable("away")


class Replica:
    """An elector that runs."""

    def __init__(self, server: Server, clock: FakeClock, name: str, path: Path) -> None:
        self.membership = Membership(path / f"{name}.left", root=ROOT, log=log.get("test"))
        self.client = server.client()
        self.problems: list[Problem | None] = []
        self.elector = Elector(
            self.client,  # type: ignore[arg-type]
            server.stores[self.client.number],
            namespace="ns",
            identity=name,
            rules=RULES,
            fallback=500,
            membership=self.membership,
            on_problem=self.problems.append,
            clock=clock,
            log=log.get("test"),
            rng=random.Random(1),
        )
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self.elector.run())

    async def stop(self) -> None:
        task, self.task = self.task, None
        await cancel(task)

    async def kill(self) -> None:
        """It can say nothing more."""
        self.client.away = True
        await self.stop()

    @property
    def leads(self) -> bool:
        return self.elector.leader.value is not None


class World:
    def __init__(self, path: Path) -> None:
        self.server, self.clock, self.path = Server(), FakeClock(), path
        self.replicas: list[Replica] = []

    def replica(self, name: str) -> Replica:
        made = Replica(self.server, self.clock, name, self.path)
        self.replicas.append(made)
        made.start()
        return made

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def after(self, seconds: float) -> None:
        """Let time pass in small steps; never two leaders."""
        await self.settle()
        for _ in range(round(seconds / 0.2)):
            self.clock.advance(0.2)
            await self.settle()
            assert sum(r.leads for r in self.replicas) <= 1


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    made = World(tmp_path)
    yield made
    for replica in made.replicas:
        with contextlib.suppress(Exception):
            await replica.stop()


async def test_one_of_two_leads_and_keeps_the_lease(world: World) -> None:
    one = world.replica("one")
    await world.after(0.2)
    two = world.replica("two")
    await world.after(60.0)
    assert one.leads
    assert not two.leads
    assert two.elector.reporting.value is None
    first, second = one.elector.standing(), two.elector.standing()
    assert (first.identity, first.leader, first.leading, first.reporting) == ("one", "one", True, True)
    assert (second.identity, second.leader, second.leading, second.reporting) == ("two", "one", False, False)
    assert first.since == second.since == world.server.lease.acquired != ""  # renewals do not move it
    assert not first.expired
    assert not second.expired
    assert world.server.lease.transitions == 0
    assert world.server.version < 60 / RULES.renew + 3


async def test_the_lease_of_one_that_died_is_taken_within_its_duration_with_newer_epochs(world: World) -> None:
    one = world.replica("one")
    await world.after(0.2)
    two = world.replica("two")
    await world.after(5.0)
    before = world.server.lease
    await one.kill()
    await world.after(RULES.duration + 0.2)
    assert two.leads
    after = world.server.lease
    assert (after.holder, after.transitions) == ("two", 1)
    assert after.acquired > before.acquired
    assert after.epoch > before.epoch
    assert two.elector.reporting.value == after.report_epoch > before.report_epoch


async def test_the_lease_of_one_that_ends_in_order_is_taken_at_once(world: World) -> None:
    one = world.replica("one")
    await world.after(0.2)
    two = world.replica("two")
    await world.after(3.0)
    await one.stop()
    await world.after(0.2)
    assert two.leads


async def test_a_holder_that_cannot_renew_stops_writing_before_another_may_and_goes_on_reporting(world: World) -> None:
    one = world.replica("one")
    await world.after(0.2)
    two = world.replica("two")
    await world.after(3.0)
    one.client.away = two.client.away = True
    report = one.elector.reporting.value
    await world.after(RULES.own + 0.2)
    assert not one.leads
    await world.after(60.0)
    assert one.elector.reporting.value == report  # nobody else can have taken over
    assert two.elector.reporting.value is None
    epoch = world.server.lease.epoch
    one.client.away = two.client.away = False
    await world.after(RULES.duration)
    assert one.leads or two.leads
    if one.leads:
        assert (world.server.lease.epoch, one.elector.reporting.value) == (epoch, report)


async def test_a_holder_that_is_cut_off_reports_no_longer_once_it_sees_its_successor(world: World) -> None:
    one = world.replica("one")
    await world.after(0.2)
    two = world.replica("two")
    await world.after(3.0)
    one.client.away = True
    world.server.silent.add(one.client.number)
    await world.after(RULES.duration + 1.0)
    assert two.leads
    assert not one.leads
    assert one.elector.reporting.value is not None
    one.client.away = False
    await world.after(RULES.renew + 1.0)
    assert one.elector.reporting.value is None


async def test_a_follower_whose_watch_is_dead_takes_nothing(world: World) -> None:
    one = world.replica("one")
    await world.after(0.2)
    two = world.replica("two")
    await world.after(1.0)
    world.server.silent.add(two.client.number)
    await world.after(5 * RULES.duration)
    assert one.leads
    assert world.server.lease.transitions == 0


async def test_a_lease_that_somebody_deletes_is_made_again_with_a_newer_epoch(world: World) -> None:
    one = world.replica("one")
    await world.after(3.0)
    before = world.server.lease
    world.server.delete()
    await world.after(0.4)
    assert one.leads
    assert world.server.lease.epoch > before.epoch


async def test_without_an_api_server_a_replica_that_has_just_begun_reports_after_a_while(world: World) -> None:
    one = Replica(world.server, world.clock, "one", world.path)
    world.replicas.append(one)
    one.client.away = True
    one.start()
    await world.after(RULES.duration - 1.0)
    assert one.elector.reporting.value is None
    await world.after(3.0)
    assert one.elector.reporting.value == 500
    assert not one.leads


async def test_without_the_namespace_nothing_is_written_and_a_problem_says_so(world: World) -> None:
    world.server.namespace = False
    one = world.replica("one")
    await world.after(1.0)
    assert not one.leads
    problem = one.problems[-1]
    assert problem is not None
    assert "fedctl install rbac" in problem.detail
    await world.after(RULES.duration + RULES.renew)
    assert one.elector.reporting.value == 500  # what the cluster exports does not depend on it
    world.server.namespace = True
    await world.after(5.0)
    assert one.leads
    assert one.problems[-1] is None


async def test_only_the_holder_outbids(world: World) -> None:
    one = world.replica("one")
    await world.after(0.2)
    two = world.replica("two")
    await world.after(1.0)
    before = world.server.lease.report_epoch
    two.elector.outbid()
    await world.after(0.6)
    assert world.server.lease.report_epoch == before
    bids = []
    for _ in range(4):
        one.elector.outbid()
        await world.after(0.6)
        bids.append(world.server.lease.report_epoch - before)
        assert one.elector.reporting.value == world.server.lease.report_epoch
    assert bids == [1, 3, 7, 15]  # a clock that is hours ahead is overtaken after a few refusals


def test_a_replica_keeps_its_name(tmp_path: Path) -> None:
    first = replica_identity(tmp_path / "replica.state")
    assert replica_identity(tmp_path / "replica.state") == first
    (tmp_path / "replica.state").write_bytes(b"nonsense")
    assert replica_identity(tmp_path / "replica.state") != first


def mark(world: World, root: str) -> None:
    """What `fedctl cluster leave` does."""
    marked = replace(world.server.lease, holder="", left=root)
    world.server.write(msgspec.json.encode(render(marked, namespace="ns", wall_ns=world.clock.wall_ns())))


async def test_when_the_cluster_is_taken_out_nobody_leads_again_and_not_after_a_restart(world: World) -> None:
    one = world.replica("one")
    await world.after(0.2)
    two = world.replica("two")
    await world.after(1.0)
    mark(world, ROOT)
    await world.after(0.2)
    version = world.server.version
    await world.after(3 * RULES.duration)
    world.server.delete()
    three = world.replica("one")  # on the same disk
    await world.after(3 * RULES.duration)
    for replica in (one, two, three):
        assert not replica.leads
        assert replica.elector.reporting.value is None
        assert replica.membership.left.value
    assert (world.server.data, world.server.version) == (None, version)


async def test_a_leader_that_hears_nothing_learns_by_its_next_renewal_that_the_cluster_was_taken_out(
    world: World,
) -> None:
    one = world.replica("one")
    await world.after(0.2)
    world.server.silent.add(one.client.number)
    mark(world, ROOT)
    await world.after(RULES.renew + 0.5)
    assert not one.leads
    assert one.membership.left.value


async def test_that_another_identity_was_taken_out_says_nothing(world: World) -> None:
    one = world.replica("one")
    await world.after(0.2)
    mark(world, OTHER)
    await world.after(0.4)
    assert one.leads
    assert (world.server.lease.holder, world.server.lease.left) == ("one", "")


async def test_who_the_registry_calls_no_member_keeps_its_lease_and_makes_none(world: World) -> None:
    one = world.replica("one")
    await world.after(0.2)
    one.membership.refused()
    await world.after(2 * RULES.duration)
    assert one.leads  # the registry may have been restored from an old backup
    world.server.delete()
    await world.after(2 * RULES.duration)
    assert not one.leads
    assert world.server.data is None
    one.membership.accepted()
    await world.after(2 * RULES.renew)
    assert one.leads
