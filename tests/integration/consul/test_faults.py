"""A real Consul that is away, loses its leader, comes back from an old snapshot, or is behind a bad network."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from clusters.consul import Datacenter
from clusters.consulclient import ConsulClient, check, node, service
from clusters.faultproxy import FaultProxy
from clusters.waiting import until
from federation.errors import IsthmusError

from .conftest import Follow, endpoints, ready

pytestmark = pytest.mark.integration

Start = Callable[..., Awaitable[tuple[Datacenter, ...]]]
EXPORT = {"isthmus-export": "true"}


async def test_a_leader_is_lost(start_consul: Start, follow: Follow) -> None:
    """1. the leader dies: nothing vanishes  2. changes go on  3. no quorum: it is said, nothing vanishes  4. healed"""
    (dc1,) = await start_consul("dc1", servers=3)
    first = await dc1.leader()
    at = next(site.name for site in dc1.servers if site.name != first)
    async with dc1.connect(at) as consul, follow(dc1, address=dc1.url(at), wait=2.0) as running:
        await consul.transact(
            [node("n1", "10.0.0.1"), service("n1", "web", port=80, Meta=EXPORT), check("n1", "web", "passing")]
        )
        await running.exported("web")
        counts: set[int] = set()

        def watch() -> None:
            counts.add(len(running.state.exports))

        dc1.kill(first)
        await until(lambda: watch() or dc1.wait_leader(other_than=first))
        await until(lambda: written(consul, "critical"), what="a write under the new leader")
        await running.exported("web", lambda s: watch() or not ready(s))
        third = next(s.name for s in dc1.servers if s.name not in (first, at))
        dc1.kill(third)
        # A server that still takes the dead one for its leader says so by other words, until it is asked again.
        await until(lambda: watch() or running.state.problems, what="word of it")
        assert {p.code for p in running.state.problems} <= {
            "consul_no_leader",
            "consul_server_failed",
            "consul_unreachable",
        }
        assert counts == {1}
        await dc1.heal()
        async with dc1.connect(at) as again:
            await until(lambda: written(again, "passing"), what="a write")
        await running.exported("web", ready)
        await until(lambda: not running.state.problems)


async def written(consul: ConsulClient, status: str) -> bool:
    """Whether the check has been set: without a leader, or before its servers know of it, Consul refuses."""
    try:
        await consul.transact([check("n1", "web", status)])
    except IsthmusError:
        return False
    return True


async def test_servers_come_back_from_an_old_snapshot(start_consul: Start, follow: Follow) -> None:
    """Indexes go backwards, and most instances are gone: all are held for as long as agents of Consul may need to
    register them again, then those are believed to be gone that a second look does not find."""
    (dc1,) = await start_consul("dc1")
    async with dc1.connect() as consul, follow(dc1, wait=2.0, resync=5.0, watches=4) as running:

        def registered(number: int) -> list[dict[str, object]]:
            return [service("n1", f"s{number:02}", port=80, Address=f"10.0.0.{number + 1}", Meta=EXPORT)]

        await consul.transact([node("n1", "10.0.0.1"), *registered(0), *registered(1)])
        await running.exported("s01")
        old = await consul.save_snapshot()
        for number in range(2, 12):
            await consul.transact(registered(number))
        await running.exported("s11")
        began = time.monotonic()
        await consul.restore_snapshot(old)
        held = await running.told("removal_held")
        assert "second look" in held.detail
        await until(lambda: len(running.state.exports) < 12, what="the end of the first")
        assert time.monotonic() - began >= 5.0
        await until(lambda: len(running.state.exports) == 2, what="the end of what the snapshot lacks")
        await running.untold("removal_held")
        await consul.transact([service("n1", "s01", port=81, Address="10.0.0.99", Meta=EXPORT)])
        await running.exported("s01", lambda s: [e.address for e in s.endpoints] == ["10.0.0.99"])


async def test_consul_is_absent_at_the_start(start_consul: Start, follow: Follow, tmp_path: Path) -> None:
    """1. never seen: nothing is said  2. it comes  3. a restart without it serves from the disk"""
    (dc1,) = await start_consul("dc1")
    async with dc1.connect() as consul:
        await consul.register("web", port=80, Address="10.0.0.1", Meta=EXPORT)
    dc1.kill()
    async with follow(dc1, complete=False) as running:
        assert "cannot be reached" in (await running.told("consul_unreachable")).detail
        assert not running.state.complete
        await dc1.restart()
        await running.exported("web")
        await until(lambda: running.state.complete and not running.state.problems)
        await until((tmp_path / "consul.state").exists)
    dc1.kill()
    async with follow(dc1, live=False) as running:
        assert ready(running.claim("web")) == ["10.0.0.1"]
        await running.told("consul_from_disk")
        await dc1.restart()
        await until(lambda: running.source.live.value)
        await until(lambda: not running.state.problems)


async def test_a_network_that_breaks(start_consul: Start, follow: Follow) -> None:
    """1. connections are cut  2. refused: said, and all stays  3. half open: noticed when the query is late"""
    (dc1,) = await start_consul("dc1")
    site = dc1.sites["s1"]
    with FaultProxy((site.address, site.http)) as proxy:
        async with dc1.connect() as consul, follow(dc1, address=f"http://{proxy.address}", wait=1.0) as running:

            async def move(number: int) -> None:
                await consul.register("web", port=80, Address=f"10.0.0.{number}", Meta=EXPORT)

            await move(1)
            await running.exported("web")
            proxy.cut()
            await move(2)
            await running.exported("web", lambda s: ready(s) == ["10.0.0.2"])
            proxy.refuse()
            await running.told("consul_unreachable")
            await move(3)
            assert ready(running.claim("web")) == ["10.0.0.2"]
            proxy.heal()
            await running.exported("web", lambda s: ready(s) == ["10.0.0.3"])
            proxy.half_open()
            await move(4)
            proxy.heal()
            await running.exported("web", lambda s: ready(s) == ["10.0.0.4"])
            await until(lambda: not running.state.problems)
            assert len(endpoints(running.claim("web"))) == 1


async def test_a_server_behind_a_cut_off_leader_is_not_believed(start_consul: Start, follow: Follow) -> None:
    """Stale reads of one of three servers that the others cannot reach any more: 1. it answers, and what it says is of
    the time before: that is noticed, and said  2. nothing is lost  3. healed: what has changed meanwhile is there"""
    (dc1,) = await start_consul("dc1", servers=3)
    leader = await dc1.leader()
    at, third = (site.name for site in dc1.servers if site.name != leader)
    async with (
        dc1.connect(leader) as consul,
        follow(dc1, address=dc1.url(at), wait=2.0, consistency="stale", max_stale=1.0) as running,
    ):
        await consul.transact(
            [node("n1", "10.0.0.1"), service("n1", "web", port=80, Meta=EXPORT), check("n1", "web", "passing")]
        )
        await running.exported("web", ready)
        # What is left answers alone: as at the wrong end of a cut, its peers are there and say nothing.
        for name in (leader, third):
            dc1.pause(name)
        told: set[str] = set()

        def noticed() -> bool:
            assert ready(running.claim("web")) == ["10.0.0.1"]
            told.update(p.code for p in running.state.problems)
            return bool(told & {"consul_stale", "consul_no_leader"})

        await until(noticed, what="word of it")
        async with dc1.connect(at) as alone:  # whoever asks for it is answered all the same
            assert await alone.get("/v1/health/service/web", stale="")
        for name in (leader, third):
            dc1.resume(name)
        await dc1.wait_leader()

        async def written() -> bool:
            try:
                await consul.transact([check("n1", "web", "critical")])
            except Exception:
                return False
            return True

        await until(written, what="a write")
        await running.exported("web", lambda s: not ready(s))
        await until(lambda: not running.state.problems)
