"""The writer against a datacenter in a few lines: when it writes, what it leaves alone, and what it says."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Collection
from types import SimpleNamespace
from typing import Any

import pytest

from clusters.waiting import until
from discovery.consul import blocking
from discovery.consul.imports import wants
from discovery.consul.imports import writer as module
from discovery.consul.imports.catalog import Catalog, Fence
from discovery.consul.imports.settings import WriteSettings
from discovery.consul.imports.writer import Writer, batches
from federation import log
from federation.aio.clock import Clock, FakeClock, SystemClock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.model.cluster import Gateway, Problem
from federation.model.ids import ServiceName
from federation.model.service import Import, Port

DB = ServiceName("shop", "db")
_seeds = itertools.count(1)


class View:
    """ClusterView as far as the writer asks it."""

    def __init__(self) -> None:
        self.imports: dict[ServiceName, Import] = {}
        self.linked = [SimpleNamespace(name="west")]
        self.unsettled: set[str] = set()
        self.tell: Callable[[Collection[ServiceName]], None] = lambda names: None

    def listen(self, tell: Callable[[Collection[ServiceName]], None]) -> None:
        self.tell = tell

    def settled(self, cluster: str) -> bool:
        return cluster not in self.unsettled

    def put(self, *those: Import) -> None:
        self.imports |= {one.name: one for one in those}
        self.tell([one.name for one in those])

    def drop(self, name: ServiceName) -> None:
        del self.imports[name]
        self.tell([name])


class Site:
    """A writer and all around it."""

    def __init__(
        self,
        consul: Any,
        fence: Fence,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        **settings: Any,
    ) -> None:
        self.consul, self.view, self.fence = consul, View(), fence
        self.problems: list[Problem] = []
        self.leader: Latest[Fence | None] = Latest(fence)
        self.gateways = Latest({"gw-1": Gateway(name="gw-1", address="10.0.0.1", port=15443)})
        view: Any = self.view
        self.writer = Writer(
            WriteSettings(enabled=True, **settings),
            Catalog(consul, node="isthmus-east", cluster="east"),
            view,
            datacenter="dc1",
            namespace="shop",
            cluster="east",
            single_machine=False,
            gateways=self.gateways,
            leader=self.leader,
            wait=40.0,
            on_problems=self._problems,
            clock=clock or SystemClock(),
            log=log.get("test"),
            rng=rng or random.Random(next(_seeds)),
        )
        self.task: asyncio.Task[None] | None = None

    def _problems(self, found: list[Problem]) -> None:
        self.problems = found

    def start(self) -> None:
        self.writer.known()
        self.task = asyncio.create_task(self.writer.run())

    def set_gateways(self, *gateways: Gateway) -> None:
        self.gateways.set({g.name: g for g in gateways})

    async def idle(self) -> None:
        await until(lambda: self.writer.idle, what="nothing to write")

    async def resolves(self, service: str, *where: tuple[str, int]) -> None:
        await until(lambda: self.consul.resolve(service) == list(where), what=f"{service} at {where}")

    async def problem(self, code: str, text: str = "") -> Problem:
        def found() -> Problem | None:
            return next((p for p in self.problems if p.code == code and text in p.detail), None)

        made: Problem = await until(found, what=f"the problem {code}")
        return made

    async def calm(self) -> None:
        await until(lambda: not self.problems, what="no problem")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(wants, "FREED_SECONDS", 0.3)
    monkeypatch.setattr(blocking, "REFILL", 50.0)


@pytest.fixture
async def site(consul, make) -> AsyncIterator[Site]:
    made = Site(consul, make.FENCE)
    yield made
    await cancel(made.task)


AT = ("10.0.0.1", 10_432)


async def test_imports_come_change_and_go(site, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    site.view.put(make.imported(make.backend("west", 0)))
    await site.resolves("db")
    site.view.put(make.imported())
    await site.resolves("db", AT)
    site.view.drop(DB)
    await until(lambda: not site.consul.ours())
    assert site.problems == []


async def test_every_transaction_proves_that_the_agent_leads(site, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    proof = {"KV": {"Verb": "check-session", "Key": make.FENCE.key, "Session": make.FENCE.session}}
    assert all(operations[0] == proof for operations in site.consul.transactions)


async def test_the_node_says_whose_it_is_and_that_the_agent_lives(site, make):
    site.start()
    await until(lambda: site.writer.begun)
    node = site.consul.nodes[make.NODE]
    assert node["Meta"] == {"isthmus-managed-by": "isthmus", "isthmus-cluster": "east"}
    check = site.consul.checks[(make.NODE, "isthmus-agent")]
    (session,) = site.consul.sessions.values()
    assert (check["Type"], check["Status"]) == ("session", "passing")
    assert check["Definition"]["SessionName"] == session["Name"]
    assert (session["TTL"], session["NodeChecks"]) == ("30000ms", [])


async def test_a_session_that_ended_is_begun_anew_and_the_check_put_right(site, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    (session,) = site.consul.sessions
    site.consul.end_session(session)
    assert site.consul.resolve("db") == []
    await site.resolves("db", AT)
    assert session not in site.consul.sessions


async def test_the_end_of_a_former_leaders_session_is_nothing_to_the_check(site, consul, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    (former,) = consul.sessions
    await cancel(site.task)
    successor = Site(consul, make.FENCE)
    successor.view.put(make.imported())
    successor.start()
    await until(lambda: successor.writer.idle)
    consul.end_session(former)
    assert consul.resolve("db") == [AT]
    await cancel(successor.task)


async def test_nothing_is_written_before_the_view_is_known(site, make):
    site.consul.register("vm", "web")
    site.view.put(make.imported())
    site.task = asyncio.create_task(site.writer.run())
    await asyncio.sleep(0.05)
    assert site.consul.transactions == []
    site.writer.known()
    await site.resolves("db", AT)


async def test_what_an_unsettled_cluster_exported_stays(site, consul, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    await site.idle()
    await cancel(site.task)
    restarted = Site(consul, make.FENCE)
    restarted.view.unsettled = {"west"}
    restarted.start()
    await restarted.idle()
    assert len(consul.ours()) == 1
    restarted.view.unsettled = set()
    restarted.view.tell([DB])
    await until(lambda: not consul.ours())
    await cancel(restarted.task)


async def test_a_service_of_somebody_else_is_neither_shadowed_nor_mixed(site, make):
    site.consul.register("vm", "DB")
    site.view.put(make.imported())
    site.start()
    problem = await site.problem("import_not_ours", "a service db of its own")
    assert problem.subject == "import shop/db"
    assert site.consul.ours() == {}
    site.consul.deregister("vm", "DB")
    await asyncio.sleep(0.1)
    assert site.consul.ours() == {}, "it may only be restarted"
    await site.resolves("db", AT)
    await site.calm()
    site.consul.register("vm", "db")
    await until(lambda: not site.consul.ours())
    await site.problem("import_not_ours")
    assert ("vm", "db") in site.consul.services


async def test_a_service_that_the_datacenter_exports_itself_is_no_problem(site, make):
    site.consul.register("vm", "db")
    site.view.put(make.imported(make.backend("east", local=True), make.backend("west")))
    site.start()
    await site.idle()
    assert site.consul.ours() == {}
    assert site.problems == []


async def test_one_of_two_imports_with_the_same_name_has_it(site, make):
    site.view.put(make.imported(name=ServiceName("eu", "db")), make.imported(name=ServiceName("shop", "db-eu")))
    site.start()
    await site.resolves("db-eu", AT)
    problem = await site.problem("import_name_taken")
    assert (problem.subject, problem.detail) == ("import eu/db", "the import shop/db-eu has the name db-eu in Consul")
    site.view.drop(ServiceName("shop", "db-eu"))
    await until(lambda: [s["Meta"]["isthmus-import"] for s in site.consul.ours().values()] == ["eu/db"])
    await site.calm()


async def test_only_what_the_patterns_name_is_written(consul, make):
    site = Site(consul, make.FENCE, services=("shop/*",), name="{namespace}-{service}")
    site.view.put(make.imported(), make.imported(name=ServiceName("web", "api")))
    site.start()
    await site.resolves("shop-db", AT)
    await site.idle()
    assert {s["Service"] for s in consul.ours().values()} == {"shop-db"}
    await cancel(site.task)


async def test_what_was_edited_by_hand_is_repaired(site, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    await site.idle()
    (id_,) = site.consul.ours()
    site.consul.edit(id_, Port=7)
    await site.resolves("db", AT)
    site.consul.deregister(make.NODE, id_)
    await site.resolves("db", AT)
    site.consul.checks[(make.NODE, "isthmus-agent")] |= {"Status": "critical", "ModifyIndex": site.consul.touch()}
    await site.resolves("db", AT)


class Longest(random.Random):
    """Every pause is as long as it may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


async def test_two_that_write_the_same_end_in_a_problem_and_not_in_a_loop(consul, make):
    clock = FakeClock()
    site = Site(consul, make.FENCE, clock=clock, rng=Longest())
    site.view.put(make.imported())
    site.start()

    async def passes(condition: Callable[[], bool], *, fight: bool, seconds: float = 60.0) -> bool:
        """Whether it comes true within so many seconds of the writer's time; another one writes meanwhile."""
        for _ in range(round(seconds / 0.01)):
            if condition():
                return True
            clock.advance(0.01)
            for id_, service in consul.ours().items():
                if fight and service["Port"] != 7:
                    consul.edit(id_, Port=7)
            for _ in range(20):
                await asyncio.sleep(0)
        return condition()

    assert await passes(lambda: consul.resolve("db") == [AT], fight=False)
    assert await passes(lambda: [p.code for p in site.problems] == ["import_contested"], fight=True)
    written = len(consul.transactions)
    assert not await passes(lambda: len(consul.transactions) > written, fight=True, seconds=0.5)
    site.view.put(make.imported(gateway_ports={5432: 12_000}))
    assert await passes(lambda: consul.resolve("db") == [("10.0.0.1", 12_000)], fight=False)
    await cancel(site.task)


async def test_a_node_of_somebody_else_is_left_alone(site, make):
    site.consul.register(make.NODE, "theirs")
    site.view.put(make.imported())
    site.start()
    problem = await site.problem("node_not_ours")
    assert problem.subject == "Consul dc1"
    assert list(site.consul.ours()) == ["theirs"]
    assert site.consul.transactions == []


async def test_what_somebody_else_registers_under_our_node_stays(site, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    site.consul.register(make.NODE, "theirs")
    site.view.drop(DB)
    await until(lambda: list(site.consul.ours()) == ["theirs"])


async def test_gateways_come_and_go(site, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    site.set_gateways()
    await site.resolves("db")
    assert len(site.consul.ours()) == 1
    site.set_gateways(Gateway(name="gw-2", address="192.0.2.9", port=1, egress="10.0.0.2"))
    await site.resolves("db", ("10.0.0.2", 10_432))


async def test_a_gateway_that_vms_cannot_reach_is_said(site, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    site.set_gateways(Gateway(name="gw-1", address="192.0.2.9", port=1, egress="127.0.0.1"))
    await site.problem("gateway_unreachable", "egress_bind")
    await site.resolves("db")
    site.set_gateways(Gateway(name="gw-1", address="10.0.0.1", port=1))
    await site.resolves("db", AT)
    await site.calm()


async def test_a_missing_right_is_one_problem_that_names_the_rule(site, make):
    site.consul.denied = {"db", "api"}
    web = Port(name="http", port=80)
    site.view.put(
        make.imported(),
        make.imported(name=ServiceName("shop", "api")),
        make.imported(make.backend("west", ports=(80,)), name=ServiceName("shop", "web"), ports=(web,)),
    )
    site.start()
    await site.problem("consul_forbidden", 'service_prefix "" { policy = "write" }')
    await site.resolves("web", ("10.0.0.1", 10_080))  # the others of the transaction are written
    assert len(site.problems) == 1
    site.consul.denied = set()
    site.view.tell(list(site.view.imports))
    await site.resolves("db", AT)
    await site.calm()


async def test_a_token_that_does_not_see_everything_writes_nothing_and_deletes_nothing(site, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    await site.idle()
    site.consul.filtered = True
    site.consul.touch()
    await site.problem("consul_forbidden", 'service_prefix "" { policy = "read" }')
    site.view.drop(DB)
    await asyncio.sleep(0.2)
    assert site.consul.resolve("db") == [AT]
    site.consul.filtered = False
    site.consul.touch()
    await until(lambda: not site.consul.ours())
    await site.calm()


async def test_an_agent_that_does_not_lead_writes_nothing(site, make):
    site.leader.set(None)
    site.view.put(make.imported())
    site.start()
    await asyncio.sleep(0.05)
    assert site.consul.nodes == {}
    site.leader.set(make.FENCE)
    await site.resolves("db", AT)
    site.leader.set(None)
    site.view.drop(DB)
    await asyncio.sleep(0.05)
    assert site.consul.resolve("db") == [AT]


async def test_a_leader_that_was_replaced_is_refused_and_stops(site, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    site.consul.locks[make.FENCE.key] = "another"
    site.view.drop(DB)
    await until(lambda: not site.writer.begun)
    assert site.consul.resolve("db") == [AT]
    site.consul.locks[make.FENCE.key] = make.FENCE.session
    await until(lambda: not site.consul.ours())
    assert site.problems == []


async def test_what_consul_does_not_take_is_said(site, make):
    site.consul.garbled = {"db"}
    site.view.put(make.imported())
    site.start()
    problem = await site.problem("consul_refused", "Invalid Service Meta")
    assert problem.subject == "import shop/db"
    site.consul.garbled = set()
    await site.resolves("db", AT)
    await site.calm()


async def test_consul_that_is_away_is_waited_for(site, make):
    site.view.put(make.imported())
    site.start()
    await site.resolves("db", AT)
    site.consul.down = True
    site.view.put(make.imported(gateway_ports={5432: 12_000}))
    await asyncio.sleep(0.05)
    site.consul.down = False
    await site.resolves("db", ("10.0.0.1", 12_000))
    assert site.problems == []  # who reads says it


async def test_many_imports_go_in_few_transactions_at_the_rate(consul, make):
    site = Site(consul, make.FENCE, rate=10_000)
    site.view.put(*(make.imported(name=ServiceName("shop", f"s{n}")) for n in range(300)))
    site.start()
    await until(lambda: len(consul.ours()) == 300)
    await site.idle()
    sizes = [len(operations) - 1 for operations in consul.transactions if any("Service" in o for o in operations)]
    assert sum(sizes) == 600
    assert max(sizes) == 62
    assert len(sizes) <= 12
    await cancel(site.task)


async def test_the_rate_is_kept(consul, make):
    site = Site(consul, make.FENCE, rate=100)
    site.view.put(*(make.imported(name=ServiceName("shop", f"s{n}")) for n in range(60)))
    began = asyncio.get_running_loop().time()
    site.start()
    await until(lambda: len(consul.ours()) == 60)
    assert asyncio.get_running_loop().time() - began >= (120 - 64) / 100  # 64 at once, then 100 a second
    await cancel(site.task)


def test_a_transaction_never_parts_what_belongs_to_one_instance(make):
    three = SimpleNamespace(operations=(1, 2, 3))
    changes: list[Any] = [three] * 43
    made = batches(changes)
    assert [len(batch) for batch in made] == [21, 21, 1]
    assert batches([]) == []


async def test_a_name_whose_owner_comes_and_goes_is_not_looked_at_all_the_time(site, make):
    site.consul.register("vm", "db")
    site.view.put(make.imported())
    site.start()
    await site.problem("import_not_ours")
    site.consul.deregister("vm", "db")
    await asyncio.sleep(0.1)
    site.consul.register("vm", "db")
    await asyncio.sleep(0.5)  # longer than a name is withheld
    await site.idle()
    assert site.consul.ours() == {}
    site.consul.deregister("vm", "db")
    await asyncio.sleep(0.1)
    assert site.consul.ours() == {}
    await site.resolves("db", AT)


async def test_who_does_not_lead_has_no_problems(site, make):
    site.consul.register("vm", "db")
    site.view.put(make.imported())
    site.start()
    await site.problem("import_not_ours")
    site.leader.set(None)
    await site.calm()
