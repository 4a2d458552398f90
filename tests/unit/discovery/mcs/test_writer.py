"""The writer against an API server in a few lines: in which order, how often, and what happens when it is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Collection
from types import SimpleNamespace
from typing import Any

import pytest

from discovery.kube.errors import Forbidden, Invalid, Unreachable
from discovery.kube.types import Namespace, ObjectMeta, ServiceExport
from discovery.kube.watch import Store
from discovery.mcs.derived import DerivedAllocations
from discovery.mcs.desired import derived_name
from discovery.mcs.writer import Writer
from discovery.sources.base import SourceState
from federation import log
from federation.aio.clock import FakeClock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.model.cluster import Gateway, Problem
from federation.model.ids import ServiceName
from federation.model.service import Import

ECHO = ServiceName("shop", "echo")
DERIVED = derived_name(ECHO)


class View:
    """ClusterView as far as a writer asks it."""

    def __init__(self, allocations: DerivedAllocations) -> None:
        self.imports: dict[ServiceName, Import] = {}
        self.allocations = allocations
        self.tell: Callable[[Collection[ServiceName]], None] = lambda names: None

    def listen(self, tell: Callable[[Collection[ServiceName]], None]) -> None:
        self.tell = tell

    def settled(self, cluster: str) -> bool:
        return True

    def refresh(self, names: Collection[ServiceName]) -> None:
        for name in names:
            if name in self.imports:
                self.put(self.imports[name])

    def put(self, one: Import) -> None:
        ips, families, ports = self.allocations.take(
            one.name, families=("IPv4",), ports=[p.port for p in one.ports], headless=one.headless, now_ns=0
        )
        self.imports[one.name] = dataclasses.replace(one, ips=ips, ip_families=families, gateway_ports=ports)
        self.tell([one.name])

    def drop(self, name: ServiceName) -> None:
        del self.imports[name]
        self.allocations.release(name, now_ns=0)
        self.tell([name])


class Cluster:
    """A writer and all around it."""

    def __init__(self, server: Any, *, create_namespaces: bool = False) -> None:
        self.server, self.clock = server, FakeClock()
        self.allocations = DerivedAllocations(gateway_ports=(10_000, 10_099), release_seconds=60.0)
        self.view = View(self.allocations)
        self.problems: list[Problem] = []
        self.leader: Latest[int | None] = Latest(1)
        self.registry: bool | Problem = True
        self.exports: Store[ServiceExport] = Store()
        self.namespaces: Store[Namespace] = Store()
        self.gateways = Latest({"gw": Gateway(name="gw", address="10.1.0.1", port=15443)})
        source: Any = SimpleNamespace(
            client=server,
            exports_seen=self.exports,
            namespaces=self.namespaces,
            lists=asyncio.Semaphore(1),
            live=Latest(True),
            refused=lambda name: None,
            state=Latest(SourceState()),
        )
        view: Any = self.view
        self.writer = Writer(
            source,
            view,
            self.allocations,
            gateways=self.gateways,
            published=lambda name: self.registry,
            leader=self.leader,
            on_problems=lambda found: setattr(self, "problems", found),
            create_namespaces=create_namespaces,
            clock=self.clock,
            log=log.get("test"),
            rng=random.Random(1),
        )

    def namespace(self, name: str = "shop") -> None:
        self.namespaces.put(Namespace(metadata=ObjectMeta(name=name, resource_version="1")))

    def export(self) -> None:
        made = ServiceExport(metadata=ObjectMeta(name="echo", namespace="shop", uid="u", resource_version="0"))
        self.exports.put(made)
        self.server.objects[("ServiceExport", "shop", "echo")] = {
            "kind": "ServiceExport",
            "metadata": {"name": "echo", "namespace": "shop", "uid": "u", "resourceVersion": "0"},
        }

    async def turn(self) -> None:
        for _ in range(200):
            await asyncio.sleep(0)

    async def quiet(self, seconds: float = 0.0) -> None:
        """Let it work, while time goes on by `seconds`."""
        await self.turn()
        for _ in range(int(seconds / 0.1)):
            self.clock.advance(0.1)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await self.turn()

    def ready(self) -> str:
        conditions = self.server.of("ServiceImport")["echo"].get("status", {}).get("conditions", [{}])
        return str(conditions[0].get("status", ""))

    def codes(self) -> set[str]:
        return {problem.code for problem in self.problems}


@pytest.fixture
async def cluster(server: Any, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    made = Cluster(server, **getattr(request, "param", {}))
    made.namespace()
    running = asyncio.create_task(made.writer.run(), name="writer")
    await made.turn()
    made.writer.view_known()
    await made.turn()
    yield made
    assert not running.done()
    await cancel(running)


async def test_the_address_first_and_no_write_more_than_it_takes(cluster: Cluster, imported: Any) -> None:
    cluster.view.put(imported())
    await cluster.quiet()
    writes = cluster.server.writes()
    assert writes[:2] == ["create Service", "create ServiceImport"]
    assert sorted(writes[2:]) == ["apply Service", "create EndpointSlice", "status ServiceImport"]
    found = cluster.server.of("ServiceImport")["echo"]
    service = cluster.server.of("Service")[DERIVED]
    assert found["spec"]["ips"] == service["spec"]["clusterIPs"] == ["10.96.0.1"]
    assert [o["uid"] for o in service["metadata"]["ownerReferences"]] == [found["metadata"]["uid"]]
    assert cluster.ready() == "True"
    assert cluster.writer.idle
    await cluster.quiet(5)
    assert cluster.server.writes() == writes  # what the watches tell of the own writes is nothing new


async def test_one_name_is_brought_to_its_end_before_the_next(cluster: Cluster, imported: Any) -> None:
    for number in range(100):
        cluster.view.put(imported(name=ServiceName("shop", f"s{number}")))
    await cluster.quiet(1)
    await cluster.quiet(1)
    assert len(cluster.server.of("ServiceImport")) == 100
    verbs = cluster.server.writes()
    assert len(verbs) == 500
    last_service = len(verbs) - verbs[::-1].index("create Service")
    assert "status ServiceImport" in verbs[: last_service // 2]


async def test_nothing_is_written_before_the_view_is_known(server: Any, imported: Any) -> None:
    made = Cluster(server)
    made.namespace()
    made.view.put(imported())
    running = asyncio.create_task(made.writer.run(), name="writer")
    await made.turn()
    assert not made.writer.begun
    assert not server.writes()
    made.writer.view_known()
    await made.quiet()
    assert made.ready() == "True"
    await cancel(running)


async def test_who_does_not_lead_writes_nothing_and_learns_the_addresses(cluster: Cluster, imported: Any) -> None:
    cluster.view.put(imported())
    await cluster.quiet()
    cluster.leader.set(None)
    cluster.view.put(imported(labels={"a": "1"}))
    before = cluster.server.writes()
    cluster.server.edit("Service", DERIVED, lambda o: o["spec"].update(clusterIPs=["10.96.9.9"], clusterIP="10.96.9.9"))
    await cluster.quiet()
    assert cluster.server.writes() == before
    assert cluster.view.imports[ECHO].ips == ("10.96.9.9",)
    cluster.leader.set(2)
    await cluster.quiet()
    assert cluster.server.of("ServiceImport")["echo"]["spec"]["ips"] == ["10.96.9.9"]
    assert cluster.server.of("ServiceImport")["echo"]["metadata"]["labels"]["a"] == "1"


async def test_a_rule_that_is_missing_is_one_problem_and_its_grant_is_found(cluster: Cluster, imported: Any) -> None:
    def fail(verb: str, kind: str, body: Any) -> None:
        if kind == "Service":
            raise Forbidden("not allowed: create services.core", hint="the agent's ClusterRole lacks {services}")

    cluster.server.fail = fail
    for name in ("echo", "other"):
        cluster.view.put(imported(name=ServiceName("shop", name)))
    await cluster.quiet(3)
    (problem,) = cluster.problems
    assert (problem.code, problem.subject) == ("kube_forbidden", "Kubernetes")
    assert "lacks {services}" in problem.detail
    assert cluster.ready() == "False"  # who asks why there is no address finds an answer
    asked = len(cluster.server.writes())
    await cluster.quiet(10)
    assert len(cluster.server.writes()) < asked + 16
    cluster.server.fail = lambda verb, kind, body: None
    await cluster.quiet(61)
    assert cluster.ready() == "True"
    assert not cluster.problems


async def test_an_api_server_that_is_away_is_no_problem_of_each_name(cluster: Cluster, imported: Any) -> None:
    def fail(verb: str, kind: str, body: Any) -> None:
        raise Unreachable("no answer")

    cluster.server.fail = fail
    cluster.view.put(imported())
    await cluster.quiet(30)
    assert not cluster.problems
    cluster.view.put(imported(labels={"late": "1"}))
    cluster.server.fail = lambda verb, kind, body: None
    await cluster.quiet(11)
    assert cluster.ready() == "True"
    assert cluster.server.of("ServiceImport")["echo"]["metadata"]["labels"]["late"] == "1"


async def test_an_address_that_is_not_free_yet_is_asked_for_again(cluster: Cluster, imported: Any) -> None:
    cluster.view.put(imported())
    await cluster.quiet()
    refusals = iter(range(3))

    def fail(verb: str, kind: str, body: Any) -> None:
        if (verb, kind) == ("create", "Service") and next(refusals, None) is not None:
            raise Invalid("provided IP is already allocated")

    cluster.server.fail = fail
    cluster.server.remove("Service", DERIVED)
    await cluster.quiet(3)
    assert cluster.server.of("Service")[DERIVED]["spec"]["clusterIPs"] == ["10.96.0.1"]
    assert not cluster.problems


async def test_an_address_that_somebody_has_taken_is_given_up(cluster: Cluster, imported: Any) -> None:
    cluster.view.put(imported())
    await cluster.quiet()

    def fail(verb: str, kind: str, body: Any) -> None:
        if (verb, kind) == ("create", "Service") and body["spec"].get("clusterIP") == "10.96.0.1":
            raise Invalid("provided IP is already allocated")

    cluster.server.fail = fail
    cluster.server.remove("Service", DERIVED)
    await cluster.quiet(20)
    assert cluster.server.of("Service")[DERIVED]["spec"]["clusterIPs"] == ["10.96.0.2"]
    assert cluster.server.of("ServiceImport")["echo"]["spec"]["ips"] == ["10.96.0.2"]
    assert cluster.ready() == "True"


async def test_a_fight_with_another_writer_becomes_a_problem_and_slow(cluster: Cluster, imported: Any) -> None:
    cluster.view.put(imported())
    await cluster.quiet()

    def after(verb: str, kind: str, made: dict[str, Any]) -> None:
        if (verb, kind) == ("apply", "EndpointSlice"):
            asyncio.get_running_loop().call_soon(edit)

    def edit() -> None:
        cluster.server.edit("EndpointSlice", f"{DERIVED}-west-ipv4", lambda o: o.update(endpoints=[]))

    cluster.server.after = after
    edit()
    await cluster.quiet(2)
    assert cluster.codes() == {"import_contested"}
    before = len(cluster.server.writes())
    await cluster.quiet(120)
    assert len(cluster.server.writes()) - before < 80
    assert cluster.codes() == {"import_contested"}
    cluster.server.after = lambda verb, kind, made: None
    await cluster.quiet(180)
    assert cluster.server.of("EndpointSlice")[f"{DERIVED}-west-ipv4"]["endpoints"]
    assert not cluster.problems


async def test_an_edit_now_and_then_is_no_fight(cluster: Cluster, imported: Any) -> None:
    cluster.view.put(imported())
    await cluster.quiet()
    for _ in range(20):
        cluster.server.edit("EndpointSlice", f"{DERIVED}-west-ipv4", lambda o: o.update(endpoints=[]))
        await cluster.quiet()
        assert cluster.server.of("EndpointSlice")[f"{DERIVED}-west-ipv4"]["endpoints"]
        await cluster.quiet(31)
    assert not cluster.problems


async def test_a_new_export_has_its_status_in_one_write(cluster: Cluster) -> None:
    cluster.registry = False
    cluster.export()
    await cluster.quiet(0.2)
    assert not cluster.server.writes()
    cluster.registry = True
    cluster.writer.acknowledged()
    await cluster.quiet(3)
    assert cluster.server.writes() == ["status ServiceExport"]
    conditions = cluster.server.of("ServiceExport")["echo"]["status"]["conditions"]
    assert {c["type"]: c["status"] for c in conditions} == {"Conflict": "False", "Ready": "True", "Valid": "True"}


async def test_an_export_that_the_registry_does_not_take_says_so(cluster: Cluster) -> None:
    cluster.registry = False
    cluster.export()
    await cluster.quiet(2)
    conditions = {c["type"]: c for c in cluster.server.of("ServiceExport")["echo"]["status"]["conditions"]}
    assert conditions["Ready"]["reason"] == "Pending"
    assert cluster.server.writes() == ["status ServiceExport"]
    cluster.registry = Problem("name_taken", "SERVICE shop/echo", "by somebody")
    cluster.writer.acknowledged()
    await cluster.quiet()
    conditions = {c["type"]: c for c in cluster.server.of("ServiceExport")["echo"]["status"]["conditions"]}
    assert conditions["Ready"]["reason"] == "Failed"


@pytest.mark.parametrize("cluster", [{"create_namespaces": True}], indirect=True)
async def test_a_missing_namespace_is_created_once(cluster: Cluster, imported: Any) -> None:
    cluster.view.put(imported(name=ServiceName("else", "echo")))
    await cluster.quiet(2)
    assert cluster.server.writes() == ["create Namespace"]
    cluster.namespace("else")
    await cluster.quiet()
    assert cluster.server.of("ServiceImport")


async def test_the_end_of_an_import(cluster: Cluster, imported: Any) -> None:
    cluster.view.put(imported())
    await cluster.quiet()
    cluster.view.drop(ECHO)
    await cluster.quiet()
    assert not cluster.server.objects
    assert cluster.writer.idle


async def test_a_label_that_is_no_longer_exported_goes_though_it_came_with_the_creation(
    cluster: Cluster, imported: Any
) -> None:
    cluster.view.put(imported(labels={"old": "1"}))
    await cluster.quiet()
    cluster.view.put(imported(labels={"new": "1"}))
    await cluster.quiet()
    labels = cluster.server.of("ServiceImport")["echo"]["metadata"]["labels"]
    assert (labels.get("old"), labels["new"]) == (None, "1")
    assert cluster.server.writes()[-2:] == ["apply ServiceImport", "update ServiceImport"]
