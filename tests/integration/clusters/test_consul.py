"""Real Consul datacenters: broken and healed, guarded, with nodes of their own, and back from a snapshot."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clusters.consul import Datacenter
from clusters.consulclient import check, connect, node, service, trusting
from clusters.namespace import NetworkNamespace
from clusters.waiting import DEADLINE, START, until, until_now
from federation.errors import Denied, NotFound, TimedOut, Unavailable

pytestmark = pytest.mark.integration

Start = Callable[..., Awaitable[tuple[Datacenter, ...]]]
READER = 'node_prefix "" { policy = "read" }\nservice_prefix "" { policy = "read" }'


async def statuses(datacenter: Datacenter, name: str, at: str = "s1") -> set[str]:
    """The worst check of each instance of a service."""
    async with datacenter.connect(at) as client:
        found = await client.get(f"/v1/health/service/{name}")
    ranks = ["passing", "warning", "critical"]
    return {max((one["Status"] for one in entry["Checks"]), key=ranks.index) for entry in found}


async def test_a_datacenter_with_a_node_of_its_own(start_consul: Start, tmp_path: Path) -> None:
    """1. a service is registered on a VM by Consul's own command  2. its check fails  3. the VM goes, and comes back"""
    (dc1,) = await start_consul("dc1")
    vm = await dc1.add_node("vm", meta={"zone": "a"})
    described = tmp_path / "db.hcl"
    described.write_text('service { name = "db"\n port = 5432\n check { id = "up"\n ttl = "1h" } }\n')
    await dc1.command("services", "register", str(described), at="vm")
    async with dc1.connect("vm") as client:
        # What an agent knows it tells its servers a moment later.
        answer = await until(lambda: known(client, "db"), what="the service in the catalog")
        assert answer.body[0]["Node"]["Address"] == vm.address
        assert answer.body[0]["Node"]["Meta"]["zone"] == "a"
        waiting = asyncio.create_task(becomes(client, "db", {"passing"}, answer.index))
        await client.set_check("up", "passing")
        await waiting
        await client.set_check("up", "critical", "disk full")
        await until(lambda: has(dc1, "db", {"critical"}), what="the failure of the check")
        with pytest.raises(NotFound):
            await client.deregister("other")
    dc1.kill("vm")
    async with dc1.connect() as client:
        await until(lambda: gone(client, "vm"), seconds=START, what="the failure of the node")
    await dc1.restart("vm")
    async with dc1.connect("vm") as client:
        await client.set_check("up", "passing")
    await until(lambda: has(dc1, "db", {"passing"}), what="the service of the node that is back")
    dc1.pause("s1")
    with pytest.raises(TimedOut):
        async with dc1.connect() as client:
            await client.request("GET", "/v1/catalog/nodes", timeout=0.5)
    await dc1.heal()


async def has(datacenter: Datacenter, name: str, wanted: set[str]) -> bool:
    return await statuses(datacenter, name) == wanted


async def known(client: Any, name: str) -> Any:
    """The answer with the instances of a service, once there is one."""
    answer = await client.request("GET", f"/v1/health/service/{name}")
    return answer if answer.body else None


async def becomes(client: Any, name: str, wanted: set[str], index: int) -> None:
    """Follow a service by blocking queries until its checks are as wanted."""
    async with asyncio.timeout(DEADLINE):
        while True:
            told = await client.block(f"/v1/health/service/{name}", index)
            if told.body and {one["Status"] for one in told.body[0]["Checks"]} == wanted:
                return
            index = told.index


async def gone(client: Any, name: str) -> bool:
    found = await client.get(f"/v1/health/node/{name}")
    return any(one["CheckID"] == "serfHealth" and one["Status"] == "critical" for one in found)


async def test_three_servers_lose_their_leader_and_take_it_back(start_consul: Start) -> None:
    (dc1,) = await start_consul("dc1", servers=3)
    first = await dc1.leader()
    at = next(site.name for site in dc1.servers if site.name != first)
    async with dc1.connect(at) as client:
        await client.put("/v1/kv/before", b"1")
        dc1.kill(first)
        second = await dc1.wait_leader(other_than=first)
        await until(lambda: written(client, "between"), what="a write under the new leader")
        await dc1.restart(first)
        dc1.pause(second)
        at = next(site.name for site in dc1.servers if site.name not in (first, second))
    async with dc1.connect(at) as client:
        third = await dc1.wait_leader(other_than=second)
        assert third != second
        await until(lambda: written(client, "after"), what="a write under the third leader")
    await dc1.heal()
    for site in dc1.servers:
        async with dc1.connect(site.name) as client:
            await until(lambda client=client: keys(client, ["after", "before", "between"]), what="every write")


async def keys(client: Any, wanted: list[str]) -> bool:
    with contextlib.suppress(Unavailable, TimedOut):
        return bool(await client.get("/v1/kv/", keys="", consistent="") == wanted)
    return False


async def written(client: Any, key: str) -> bool:
    with contextlib.suppress(Unavailable, TimedOut):
        return bool((await client.request("PUT", f"/v1/kv/{key}", b"1", timeout=2)).body)
    return False


async def test_a_guarded_datacenter(start_consul: Start) -> None:
    """Default deny, lists that are filtered in silence, TLS that asks for certificates, and a revoked token."""
    (dc1,) = await start_consul("dc1", acl=True, tls=True)
    await dc1.add_node("vm")
    assert dc1.url("vm").startswith("https://")
    async with dc1.connect("vm") as client:
        await client.register("db", port=5432)
        reader = await client.token(READER, name="reader")
        blind = await client.token('key "other" { policy = "read" }', name="blind")
    # Consul tells of what it has left out, but not to who comes without a token.
    for token, told in ((blind["SecretID"], "true"), ("", None)):
        async with dc1.connect("vm", token=token) as client:
            answer = await client.request("GET", "/v1/catalog/services")
            assert (answer.body, answer.headers.get("Results-Filtered-By-Acls")) == ({}, told)
    async with dc1.connect("vm", token=reader["SecretID"]) as client:
        await until(lambda: offers(client, "db"), what="the service in the catalog")
        with pytest.raises(Denied, match="Permission denied"):
            await client.register("web", port=80)
    assert "db" in await dc1.command("catalog", "services", at="vm", token=reader["SecretID"])
    async with dc1.connect() as client:
        await client.revoke(reader["AccessorID"])
    async with dc1.connect("vm", token=reader["SecretID"]) as client:
        await until(lambda: refused(client), what="the end of the token")
    trusted = str(dc1.authority_file())
    expired = dc1.client_files("late", now=dt.datetime.now(dt.UTC) - dt.timedelta(days=60))
    for pair in ((), tuple(map(str, expired))):
        async with connect(dc1.url(), dc1.guard.management, tls=trusting(trusted, pair)) as client:
            with pytest.raises(Unavailable):
                await client.get("/v1/catalog/services")
    async with connect(dc1.url(), dc1.guard.management) as client:
        with pytest.raises(Unavailable, match="certificate"):
            await client.get("/v1/catalog/services")


async def offers(client: Any, name: str) -> bool:
    return name in await client.get("/v1/catalog/services")


async def refused(client: Any) -> bool:
    try:
        await client.get("/v1/catalog/services")
    except Denied:
        return True
    return False


async def test_a_node_in_a_network_of_its_own(start_consul: Start) -> None:
    """As a VM: its agent is reached at its own address, and its own network goes nowhere else."""
    try:
        network = NetworkNamespace(uplink=True)
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    with contextlib.closing(network):
        (dc1,) = await start_consul("dc1", addresses=iter([network.outside]))
        vm = await dc1.add_node("vm", address=network.inside, wrap=network.wrap)
        await dc1.command("services", "register", "-name=db", "-port=5432", at="vm")
        async with dc1.connect() as client:
            await until(lambda: lists(client, {"consul", "db"}), what="the service of the VM")
            (found,) = await client.get("/v1/catalog/service/db")
        assert (found["Node"], found["Address"]) == ("vm", vm.address)
        assert vm.address == network.inside
        dc1.stop()


async def test_an_old_snapshot_and_a_server_that_has_forgotten(start_consul: Start) -> None:
    (dc1,) = await start_consul("dc1")
    async with dc1.connect() as client:
        await client.transact(
            [node("far", "10.0.0.1"), service("far", "db", port=1, ID="db-1"), check("far", "db-1", "passing")]
        )
        assert await statuses(dc1, "db") == {"passing"}
        old = await client.save_snapshot()
        await client.transact([service("far", "db", port=1, ID="db-1", verb="delete"), service("far", "web", port=2)])
        newest = (await client.request("GET", "/v1/catalog/services")).index
        assert set(await client.get("/v1/catalog/services")) == {"consul", "web"}
        await client.restore_snapshot(old)
        await until(lambda: lists(client, {"consul", "db"}), what="the old catalog")
    dc1.kill()
    dc1.forget()
    await dc1.restart()
    async with dc1.connect() as client:
        answer = await client.request("GET", "/v1/catalog/services")
        assert set(answer.body) == {"consul"}
        assert answer.index < newest


async def lists(client: Any, names: set[str]) -> bool:
    return set(await client.get("/v1/catalog/services")) == names


STARTER = """
import asyncio, sys
from pathlib import Path
from clusters.consul import datacenters
async def main():
    (dc1,) = datacenters(Path(sys.argv[1]), ["dc1"])
    starting = asyncio.create_task(dc1.start())
    while not dc1.programs:
        await asyncio.sleep(0.01)
    print(dc1.programs["s1"].pid, flush=True)
    await starting
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_nothing_outlives_who_started_it(consul_program: Path, tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
    finally:
        starter.kill()
        starter.communicate()
    until_now(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of the server")
