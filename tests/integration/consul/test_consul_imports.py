"""Imports in a real Consul: what its DNS says of them, what is repaired, who may write, and what remains."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from clusters.consul import Datacenter
from clusters.waiting import ANSWER, until
from discovery.consul.client import ConsulClient
from discovery.consul.imports import wants
from discovery.consul.imports.catalog import Catalog, Fence
from discovery.consul.imports.retire import retire_all
from discovery.consul.imports.settings import WriteSettings
from discovery.consul.imports.transport import DatacenterTransport
from discovery.consul.imports.writer import Writer
from discovery.consul.settings import ConsulSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.model.cluster import Gateway, Problem
from federation.model.ids import ServiceName
from federation.model.service import Backend, Import, Locality, Port, Readiness

pytestmark = pytest.mark.integration

DB = ServiceName("shop", "db")
LOCK = "isthmus/dc1/lock"
NODE = "isthmus-dc1"
_numbers = itertools.count(1)

POLICY = """
node "isthmus-dc1" { policy = "write" }
node_prefix "" { policy = "read" }
service_prefix "" { policy = "write" }
session "isthmus-dc1" { policy = "write" }
key "isthmus/dc1/lock" { policy = "write" }
"""
"""For writing alone, as narrow as it can be: the lock is taken by another token here."""


def imported(name: ServiceName = DB, *, ready: int = 1, at: int = 10_432) -> Import:
    west = Backend(cluster="west", ports=(5432,), readiness=(Readiness(Locality(), ready),))
    return Import(
        name=name, ips=("241.0.0.1",), ports=(Port(name="sql", port=5432),), backends=(west,), gateway_ports={5432: at}
    )


class Agent:
    """As much of an agent as writes: a view, the lock, and the writer over the agent's own client."""

    def __init__(self, datacenter: Datacenter, token_file: Path | None = None, **settings: Any) -> None:
        self.datacenter = datacenter
        self.imports: dict[ServiceName, Import] = {}
        self.problems: list[Problem] = []
        self.leader: Latest[Fence | None] = Latest(None)
        self._tell: Callable[[Collection[ServiceName]], None] = lambda names: None
        self.settings = ConsulSettings(
            address=datacenter.url(),
            datacenters={"dc1": "shop"},
            token_file=str(token_file) if token_file else "",
            write=WriteSettings(enabled=True, **settings),
        )
        self.client = ConsulClient(self.settings, clock=SystemClock(), log=log.get("test"))
        self.catalog = Catalog(DatacenterTransport(self.client, "dc1"), node=NODE, cluster="dc1")
        view: Any = SimpleNamespace(imports=self.imports, linked=[], listen=self._listen, settled=lambda _: True)
        self.writer = Writer(
            self.settings.write,
            self.catalog,
            view,
            datacenter="dc1",
            namespace="shop",
            cluster="dc1",
            single_machine=False,
            gateways=Latest({"gw-1": Gateway(name="gw-1", address="192.0.2.5", port=15443)}),
            leader=self.leader,
            wait=40.0,
            on_problems=self._on_problems,
            clock=SystemClock(),
            log=log.get("test"),
            rng=random.Random(next(_numbers)),
        )
        self.task: asyncio.Task[None] | None = None

    def _listen(self, tell: Callable[[Collection[ServiceName]], None]) -> None:
        self._tell = tell

    def _on_problems(self, found: list[Problem]) -> None:
        self.problems = found

    def put(self, one: Import) -> None:
        self.imports[one.name] = one
        self._tell([one.name])

    def drop(self, name: ServiceName) -> None:
        del self.imports[name]
        self._tell([name])

    async def lead(self) -> str:
        """Take the lock; its session."""
        async with self.datacenter.connect() as client:
            session: str = (await client.put("/v1/session/create", {"LockDelay": "0s"}))["ID"]
            assert await client.put(f"/v1/kv/{LOCK}", b"", acquire=session)
        self.leader.set(Fence(LOCK, session))
        return session

    async def start(self) -> str:
        self.writer.known()
        self.task = asyncio.create_task(self.writer.run())
        return await self.lead()

    async def retire(self) -> list[str]:
        """The cluster leaves."""
        return await retire_all(self.settings, cluster="dc1", clock=SystemClock(), log=log.get("test"))

    async def stop(self) -> None:
        """As if it was killed: nothing is said to Consul."""
        await cancel(self.task)
        await self.client.close()


@contextlib.asynccontextmanager
async def agent(datacenter: Datacenter, **settings: Any) -> AsyncIterator[Agent]:
    made = Agent(datacenter, **settings)
    try:
        yield made
    finally:
        await made.stop()


class Resolver:
    """A VM without anything of ours: it asks Consul's DNS."""

    def __init__(self, datacenter: Datacenter) -> None:
        self.site = datacenter.sites["s1"]

    async def ask(self, name: str, kind: str = "A") -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        return await asyncio.to_thread(dns.query.udp, query, self.site.address, ANSWER, self.site.dns)

    async def found(self, name: str) -> list[tuple[str, int]]:
        """(address, port) by SRV and the A records beside it, as a client of Consul has them."""
        reply = await self.ask(name, "SRV")
        addresses = {rrset.name: str(rrset[0]) for rrset in reply.additional if rrset.rdtype == dns.rdatatype.A}
        return sorted(
            (addresses[item.target], item.port)
            for rrset in reply.answer
            if rrset.rdtype == dns.rdatatype.SRV
            for item in rrset
        )

    async def resolves(self, name: str, *where: tuple[str, int], seconds: float = 30.0) -> None:
        async def so() -> bool:
            return await self.found(name) == list(where)

        await until(so, seconds=seconds, what=f"{name} at {where}")


async def test_an_import_is_a_service_of_the_datacenter(start_consul: Any) -> None:
    """1. it comes, by A and SRV  2. nothing is ready: no address  3. edited by hand: repaired  4. it ends"""
    (dc1,) = await start_consul("dc1")
    resolver = Resolver(dc1)
    async with agent(dc1) as one, dc1.connect() as client:
        one.put(imported())
        await one.start()
        await resolver.resolves("db.service.consul.", ("192.0.2.5", 10_432))
        reply = await resolver.ask("db.service.consul.")
        assert [str(item) for rrset in reply.answer for item in rrset] == ["192.0.2.5"]
        for name in ("db.service.dc1.consul.", "_db._tcp.service.consul.", "sql.db.service.consul."):
            assert await resolver.found(name) == [("192.0.2.5", 10_432)]

        one.put(imported(ready=0))
        await resolver.resolves("db.service.consul.")
        assert (await resolver.ask("db.service.consul.")).rcode() == dns.rcode.NXDOMAIN
        one.put(imported())
        await resolver.resolves("db.service.consul.", ("192.0.2.5", 10_432))

        (described,) = (await client.get(f"/v1/catalog/node-services/{NODE}"))["Services"]
        edited = {"Verb": "set", "Node": NODE, "Service": {**described, "Port": 1, "Tags": ["by-hand"]}}
        await client.transact([{"Service": edited}])
        await resolver.resolves("sql.db.service.consul.", ("192.0.2.5", 10_432))
        await client.put("/v1/catalog/deregister", {"Node": NODE, "ServiceID": described["ID"]})
        await resolver.resolves("db.service.consul.", ("192.0.2.5", 10_432))
        await client.put("/v1/catalog/deregister", {"Node": NODE})
        await resolver.resolves("db.service.consul.", ("192.0.2.5", 10_432))

        one.drop(DB)
        await until(lambda: not len(one.writer.actual))
        assert not (await client.get(f"/v1/catalog/node-services/{NODE}"))["Services"]
        assert one.problems == []


async def test_what_is_somebody_elses_is_neither_shadowed_nor_mixed_nor_touched(
    start_consul: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wants, "FREED_SECONDS", 0.5)
    (dc1,) = await start_consul("dc1")
    resolver, api = Resolver(dc1), ServiceName("shop", "api")
    async with agent(dc1) as one, dc1.connect() as client:
        await client.register("db", port=5432, Address="198.51.100.7")
        one.put(imported())
        one.put(imported(api, at=10_500))
        await one.start()
        await resolver.resolves("api.service.consul.", ("192.0.2.5", 10_500))
        await until(lambda: one.problems, what="a problem")
        assert [(p.code, p.subject) for p in one.problems] == [("import_not_ours", "import shop/db")]
        assert await resolver.found("db.service.consul.") == [("198.51.100.7", 5432)]

        await client.register("api", port=80, Address="198.51.100.8")  # later than ours: ours gives way
        await resolver.resolves("api.service.consul.", ("198.51.100.8", 80))
        await client.deregister("api")
        await client.deregister("db")
        await resolver.resolves("api.service.consul.", ("192.0.2.5", 10_500))
        await resolver.resolves("db.service.consul.", ("192.0.2.5", 10_432))
        await until(lambda: not one.problems)


async def test_without_its_agent_all_turns_critical_and_comes_back_with_the_next(start_consul: Any) -> None:
    (dc1,) = await start_consul("dc1")
    resolver = Resolver(dc1)
    async with agent(dc1, ttl=2.0) as first:
        first.put(imported())
        await first.start()
        await resolver.resolves("db.service.consul.", ("192.0.2.5", 10_432))
        await until(lambda: first.writer.idle)
    # The session ends after twice its TTL; until then the gateway is where callers find it.
    found = await resolver.found("db.service.consul.")
    async with dc1.connect() as client:
        lasts = await client.get(f"/v1/session/node/{NODE}")
    assert found == [("192.0.2.5", 10_432)] or not lasts
    await resolver.resolves("db.service.consul.")
    async with dc1.connect() as client:
        checks = {c["CheckID"]: c for c in await client.get(f"/v1/health/node/{NODE}")}
        assert checks["isthmus-agent"]["Status"] == "critical"
        assert len(checks) == 2, "nothing was removed"
        held = (await client.get(f"/v1/kv/{LOCK}"))[0]["Session"]
        await client.put(f"/v1/session/destroy/{held}")
    async with agent(dc1) as second:
        second.put(imported())
        await second.start()
        await resolver.resolves("db.service.consul.", ("192.0.2.5", 10_432))


async def test_a_leader_that_stood_still_is_refused_by_consul(start_consul: Any) -> None:
    (dc1,) = await start_consul("dc1")
    resolver = Resolver(dc1)
    async with agent(dc1) as old, agent(dc1) as new, dc1.connect() as client:
        old.put(imported())
        session = await old.start()
        await resolver.resolves("db.service.consul.", ("192.0.2.5", 10_432))
        await client.put(f"/v1/session/destroy/{session}")  # it was not heard of; it does not know
        new.put(imported(at=10_999))
        await new.start()
        await resolver.resolves("db.service.consul.", ("192.0.2.5", 10_999))
        index = (await client.request("GET", f"/v1/catalog/node-services/{NODE}")).index
        old.put(imported(at=10_111))
        await until(lambda: not old.writer.begun)
        old.drop(DB)
        answer = await client.request("GET", f"/v1/catalog/node-services/{NODE}")
        assert answer.index == index, "not one of its writes was done"
        assert await resolver.found("db.service.consul.") == [("192.0.2.5", 10_999)]
        assert old.problems == []


async def test_the_documented_policy_is_enough_and_a_missing_rule_is_named(start_consul: Any, tmp_path: Path) -> None:
    (dc1,) = await start_consul("dc1", acl=True)
    file, resolver = tmp_path / "token", Resolver(dc1)
    async with dc1.connect() as client:
        await client.put("/v1/acl/token", {"Policies": []})
        rules = {
            "services": POLICY.replace(
                'service_prefix "" { policy = "write" }', 'service_prefix "" { policy = "read" }'
            )
        }
        rules["node"] = POLICY.replace('node "isthmus-dc1" { policy = "write" }', "")
        rules["session"] = POLICY.replace('session "isthmus-dc1" { policy = "write" }', "")
        rules["all"] = POLICY
        tokens = {name: (await client.token(text, name=name))["SecretID"] for name, text in rules.items()}
        anonymous = 'node_prefix "" { policy = "read" }\nservice_prefix "" { policy = "read" }'
        policy = await client.put("/v1/acl/policy", {"Name": "dns", "Rules": anonymous})
        await client.put("/v1/acl/token/00000000-0000-0000-0000-000000000002", {"Policies": [{"ID": policy["ID"]}]})
    for lacking, rule in {
        "node": 'node "isthmus-dc1" { policy = "write" }',
        "session": 'session "isthmus-dc1" { policy = "write" }',
        "services": 'service_prefix "" { policy = "write" }',
    }.items():
        file.write_text(tokens[lacking])
        async with agent(dc1, token_file=file) as one:
            one.put(imported())
            one.put(imported(ServiceName("shop", "api")))
            await one.start()
            await until(lambda: one.problems, what=f"a problem without {rule}")
            (problem,) = one.problems
            assert (problem.code, problem.subject) == ("consul_forbidden", "Consul dc1")
            assert rule in problem.detail
        async with dc1.connect() as client:
            await client.put(f"/v1/session/destroy/{(await client.get(f'/v1/kv/{LOCK}'))[0]['Session']}")
    file.write_text(tokens["all"])
    async with agent(dc1, token_file=file) as one:
        one.put(imported())
        await one.start()
        await resolver.resolves("db.service.consul.", ("192.0.2.5", 10_432))
        assert one.problems == []
        await cancel(one.task)
        assert await one.retire() == ["Consul dc1: db (isthmus:shop:db:5432:gw-1)", f"Consul dc1: node {NODE}"]
        assert await one.retire() == []
    async with dc1.connect() as client:
        assert NODE not in {n["Node"] for n in await client.get("/v1/catalog/nodes")}


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="the command needs curl and jq")
async def test_the_documented_command_removes_what_a_lost_cluster_left(start_consul: Any, tmp_path: Path) -> None:
    """1. a cluster writes, and its agent is gone for ever  2. the command of docs/consul-imports.md for another one
    changes nothing  3. for this one it removes the node with all that is under it, and nothing else"""
    (dc1,) = await start_consul("dc1", acl=True)
    token = tmp_path / "token"
    token.write_text(dc1.guard.management)
    page = (Path(__file__).parents[3] / "docs" / "consul-imports.md").read_text()
    command = page.partition("```sh\n")[2].partition("```")[0]
    async with dc1.connect() as consul, agent(dc1, token_file=token) as gone:
        await consul.register("web", port=80)
        await gone.start()
        gone.put(imported())

        async def services() -> set[str]:
            return set(await consul.get("/v1/catalog/services")) - {"consul"}

        await until(lambda: same(services, {"web", "db"}), what="what is written")
        await cancel(gone.task)
        for cluster, left, nodes in (("dc9", {"web", "db"}, ["isthmus-dc1", "s1"]), ("dc1", {"web"}, ["s1"])):
            process = await asyncio.create_subprocess_exec(
                "sh",
                "-ec",
                command.replace("dc9", cluster),
                env={**os.environ, "CONSUL_HTTP_ADDR": dc1.url(), "CONSUL_HTTP_TOKEN": dc1.guard.management},
            )
            assert await process.wait() == 0
            assert await services() == left
            assert sorted(one["Node"] for one in await consul.get("/v1/catalog/nodes")) == nodes


async def same(ask: Callable[[], Awaitable[set[str]]], expected: set[str]) -> bool:
    return await ask() == expected
