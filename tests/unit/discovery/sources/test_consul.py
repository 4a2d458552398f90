"""The Consul source over a catalog in memory: what it reads, what it believes, what it keeps, what commands write."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusters.waiting import until
from discovery.consul.cache import NEW
from discovery.consul.client import Answer, Meta
from discovery.consul.errors import Forbidden, Refused, TooLarge, Unreachable
from discovery.consul.settings import ConsulSettings
from discovery.sources.base import SourceState
from discovery.sources.consul import ConsulSource
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.tasks import cancel
from federation.errors import Conflict, NotFound, Unavailable
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Grant, Locality, Service

WEB = ServiceName("shop", "web")


class Catalog:
    """What a ConsulClient reads, in memory: `services` is name → instances. `error` is raised instead, `meta` are
    headers of every answer."""

    host = "consul.test:8500"

    def __init__(self) -> None:
        self.services: dict[str, dict[str, dict[str, Any]]] = {"dc1": {}, "dc2": {}}
        self.index = 10
        self.errors: dict[str, Exception] = {}
        self.broken: dict[str, Exception] = {}
        """What reading the instances of a service raises."""
        self.meta: dict[str, Any] = {}
        self.hide: set[str] = set()
        self.streams = False
        """Blocking queries say nothing of leader and ACLs, as those that Consul streams."""
        self.moved = asyncio.Condition()
        self.asked: list[str] = []
        self.censuses = 0
        self.no_census: Exception | None = None
        self.problems: tuple[Problem, ...] = ()
        self.changed: dict[str, int] = {}
        """ID → the index at which its registration changed."""

    async def put(self, service: str, id_: str = "1", *, dc: str = "dc1", status: str = "passing", **rest: Any) -> None:
        made = {
            "Node": {"Node": f"node-{id_}", "Address": f"10.0.1.{id_}"},
            "Service": {"ID": id_, "Service": service, "Port": 80, "Meta": {"isthmus-export": "true"}, **rest},
            "Checks": [{"CheckID": f"service:{id_}", "Status": status, "ServiceID": id_, "ServiceName": service}],
        }
        self.services[dc].setdefault(service, {})[id_] = made
        self.changed[id_] = self.index + 1
        await self.move()

    async def remove(self, service: str, id_: str = "1", *, dc: str = "dc1") -> None:
        del self.services[dc][service][id_]
        if not self.services[dc][service]:
            del self.services[dc][service]
        await self.move()

    async def move(self) -> None:
        self.index += 1
        async with self.moved:
            self.moved.notify_all()

    async def _answer(self, dc: str, index: int, wait: float, make: Callable[[], Any]) -> Answer:
        if dc in self.errors:
            raise self.errors[dc]
        if index >= self.index:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait), self.moved:
                    await self.moved.wait()
        if dc in self.errors:
            raise self.errors[dc]
        meta = {"filtered": bool(self.hide), **self.meta}
        if self.streams and index > 0:
            meta |= {"streamed": True, "known_leader": False, "filtered": False}
        return Answer(msgspec.json.encode(make()), Meta(index=self.index, **meta))

    async def services_(self, dc: str, *, filter: str, index: int, wait: float) -> Answer:
        def make() -> Any:
            found = {n: i for n, i in self.services[dc].items() if n not in self.hide and "*" not in self.hide}
            if filter:
                found = {
                    n: i for n, i in found.items() if any("isthmus-export" in e["Service"]["Meta"] for e in i.values())
                }
            return {n: sorted({t for e in i.values() for t in e["Service"].get("Tags", [])}) for n, i in found.items()}

        return await self._answer(dc, index, wait, make)

    async def health(self, dc: str, service: str, *, index: int = 0, wait: float = 0.0, stale: bool = False) -> Answer:
        self.asked.append(service)
        if service in self.broken:
            raise self.broken[service]

        def make() -> Any:
            hidden = service in self.hide or "*" in self.hide
            return [] if hidden else list(self.services[dc].get(service, {}).values())

        return await self._answer(dc, index, wait, make)

    async def checks(self, dc: str, state: str, *, index: int = 0, wait: float = 0.0, stale: bool = False) -> Answer:
        def make() -> Any:
            return [
                {"Node": e["Node"]["Node"], **c}
                for i in self.services[dc].values()
                for e in i.values()
                for c in e["Checks"]
                if c["Status"] == state
            ]

        return await self._answer(dc, index, wait, make)

    async def nodes(self, dc: str, *, stale: bool = False) -> Answer:
        self.censuses += 1
        if self.no_census is not None:
            raise self.no_census

        def make() -> Any:
            hidden = [n for n in self.services[dc] if n in self.hide or "*" in self.hide]
            entries = [e for n, i in self.services[dc].items() if n not in hidden for e in i.values()]
            return [
                {**e["Node"], "Services": [{**e["Service"], "ModifyIndex": self.changed.get(e["Service"]["ID"], 1)}]}
                for e in entries
            ]

        return await self._answer(dc, 0, 0.0, make)

    async def close(self) -> None:
        pass


class _Client:
    """The catalog by the names of ConsulClient."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.host = catalog.host
        self.health, self.checks, self.close = catalog.health, catalog.checks, catalog.close
        self.nodes = catalog.nodes

    async def follow_token(self, on_problem: Callable[[], None]) -> None:
        pass

    def problems(self) -> tuple[Problem, ...]:
        return self._catalog.problems

    async def services(
        self, dc: str, *, filter: str = "", index: int = 0, wait: float = 0.0, stale: bool = False
    ) -> Answer:
        return await self._catalog.services_(dc, filter=filter, index=index, wait=wait)


class Running:
    def __init__(self, source: ConsulSource, catalog: Catalog) -> None:
        self.source, self.catalog = source, catalog

    @property
    def state(self) -> SourceState:
        return self.source.state.value

    def claim(self, name: ServiceName = WEB) -> Service | None:
        return self.state.exports.get(name)

    def codes(self) -> list[str]:
        return [p.code for p in self.state.problems]

    async def has(self, count: int, name: ServiceName = WEB) -> Service:
        def found() -> Service | None:
            claim = self.claim(name)
            return claim if claim is not None and claim.ready == count else None

        result: Service = await until(found, what=f"{count} ready of {name}")
        return result


Follow = Callable[..., contextlib.AbstractAsyncContextManager[Running]]


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def follow(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Follow:
    monkeypatch.setattr("discovery.consul.datacenter._LOOK_SECONDS", 0.02)
    monkeypatch.setattr("discovery.consul.blocking.REFILL", 50.0)

    @contextlib.asynccontextmanager
    async def following(
        *, complete: bool = True, live: bool = True, alone: bool = True, **settings: Any
    ) -> AsyncIterator[Running]:
        given = ConsulSettings(
            **{"datacenters": {"dc1": "shop"}, "wait": 1.0, "confirm": 0.1, "resync": 0.2, **settings}
        )
        given.check()
        source = ConsulSource(
            given,
            cache_path=tmp_path / "consul.state",
            locality=Locality("eu", "a"),
            single_machine=False,
            clock=SystemClock(),
            log=log.get("test"),
            rng=random.Random(1),
            cache_seconds=0.01,
            first=tmp_path / NEW,
            alone=alone,
            client=_Client(catalog),  # type: ignore[arg-type]
        )
        running = asyncio.create_task(source.run(), name="source")
        try:
            if complete:
                await until(lambda: source.state.value.complete and (source.live.value or not live))
            yield Running(source, catalog)
        finally:
            await cancel(running)

    return following


@pytest.mark.parametrize("watches", [0, 1, 100])
async def test_services_are_followed_with_and_without_watches(catalog: Catalog, follow: Follow, watches: int) -> None:
    for number in range(1, 4):
        await catalog.put(f"s{number}", str(number))
    async with follow(watches=watches) as running:
        assert len(running.state.exports) == 3
        for number in range(1, 4):
            name = ServiceName("shop", f"s{number}")
            await catalog.put(f"s{number}", str(number), status="critical")
            await running.has(0, name)
            await catalog.put(f"s{number}", str(number), status="warning")
            await running.has(1, name)
            await catalog.put(f"s{number}", "9")  # which no failing check tells
            await running.has(2, name)
            await catalog.remove(f"s{number}", "9")
            await running.has(1, name)
        await catalog.put("late", "5")
        await running.has(1, ServiceName("shop", "late"))
        assert running.codes() == []


@pytest.mark.parametrize("refused", [None, Refused("/v1/internal is not let through")])
async def test_what_no_check_tells_is_found_by_a_census_or_in_turn(
    catalog: Catalog, follow: Follow, refused: Exception | None
) -> None:
    catalog.no_census = refused
    for number in range(1, 21):
        await catalog.put(f"s{number}", str(number))
    async with follow(watches=0, sweep=1000 if refused else 0.1) as running:
        await catalog.put("s7", "7", Port=81, Meta={"isthmus-export": "true", "isthmus-service-port": "81"})

        def moved() -> bool:
            claim = running.claim(ServiceName("shop", "s7"))
            return claim is not None and claim.ports[0].port == 81

        await until(moved, what="another port of s7")
        await catalog.put("s8", "99")
        await running.has(2, ServiceName("shop", "s8"))
        await catalog.remove("s8", "99")
        await running.has(1, ServiceName("shop", "s8"))
        assert running.codes() == (["consul_census"] if refused else [])
        catalog.no_census = None
        await catalog.put("s9", "98")
        await running.has(2, ServiceName("shop", "s9"))
        await until(lambda: running.codes() == [])


async def test_the_changed_names_are_those_that_changed(catalog: Catalog, follow: Follow) -> None:
    await catalog.put("web")
    await catalog.put("db")
    async with follow() as running:
        before = running.state
        await catalog.put("web", status="critical")
        await running.has(0)
        after = running.state
        assert after.exports[ServiceName("shop", "db")] is before.exports[ServiceName("shop", "db")]
        assert after.number > before.number
        assert after.changed == {WEB}


async def test_a_restarted_source_serves_from_the_disk(catalog: Catalog, follow: Follow) -> None:
    await catalog.put("web")
    async with follow() as running:
        first = running.claim()
    catalog.errors["dc1"] = Unreachable("Consul is away")
    async with follow(live=False) as running:
        assert running.state.complete
        assert running.claim() == first
        await until(lambda: "consul_from_disk" in running.codes())
        assert "consul_unreachable" in running.codes()
        catalog.errors.clear()
        await until(lambda: running.source.live.value)
        await until(lambda: running.codes() == [])
        assert running.claim() == first


async def test_without_a_disk_nothing_is_said_before_all_was_read(catalog: Catalog, follow: Follow) -> None:
    await catalog.put("web")
    catalog.errors["dc2"] = Unreachable("dc2 is away")
    async with follow(complete=False, datacenters={"dc1": "shop", "dc2": "lab"}) as running:
        await running.has(1)
        assert not running.state.complete
        await until(lambda: "consul_unreachable" in running.codes())
        with pytest.raises(Unavailable, match="could not be read"):
            await running.source.export(ServiceName("lab", "x"), ())
        catalog.errors.clear()
        await until(lambda: running.state.complete)


TWO = {"dc1": "shop", "dc2": "lab"}


async def test_where_nothing_was_ever_reported_a_datacenter_that_is_away_is_not_waited_for(
    catalog: Catalog, follow: Follow, tmp_path: Path
) -> None:
    (tmp_path / NEW).touch()
    await catalog.put("web")
    await catalog.put("db", dc="dc2")
    catalog.errors = {"dc1": Unreachable("dc1 is away"), "dc2": Unreachable("dc2 is away")}
    async with follow(live=False, datacenters=TWO) as running:
        assert running.state.unread == {"shop", "lab"}
        await until(lambda: "consul_unread" in running.codes())
        with pytest.raises(Unavailable, match="could not be read"):
            await running.source.export(ServiceName("lab", "x"), ())
        del catalog.errors["dc1"]
        await running.has(1)
        assert running.state.unread == {"lab"}
        assert not (tmp_path / NEW).exists()  # from now on the cache says what was read
        assert (tmp_path / "consul.state").exists()
    catalog.errors["dc1"] = Unreachable("dc1 is away")
    async with follow(live=False, datacenters=TWO) as running:
        assert running.claim() is not None
        assert running.state.unread == {"lab"}
        await until(lambda: {"consul_unread", "consul_from_disk"} <= set(running.codes()))
        catalog.errors.clear()
        await running.has(1, ServiceName("lab", "db"))
        assert not running.state.unread
        await until(lambda: running.codes() == [])


async def test_a_datacenter_that_is_added_and_away_keeps_nothing_else_back(catalog: Catalog, follow: Follow) -> None:
    await catalog.put("web")
    async with follow() as running:
        await running.has(1)
    catalog.errors["dc2"] = Unreachable("dc2 is away")
    async with follow(live=False, datacenters=TWO) as running:
        assert running.claim() is not None
        await catalog.put("web", "2")
        await running.has(2)
    async with follow(complete=False, alone=False, datacenters=TWO) as running:  # another agent may have read it
        await running.has(2)
        await until(lambda: "consul_unreachable" in running.codes())
        assert not running.state.complete


async def test_of_half_a_datacenter_nothing_is_exported(catalog: Catalog, follow: Follow, tmp_path: Path) -> None:
    """Who restarts then would not know that something of it was reported."""
    (tmp_path / NEW).touch()
    await catalog.put("web")
    await catalog.put("db")
    catalog.broken["db"] = Unreachable("cut")
    async with follow(live=False) as running:
        await until(lambda: "web" in catalog.asked and running.codes())
        assert not running.state.exports
        assert (tmp_path / NEW).exists()
        catalog.broken.clear()
        await running.has(1)
        await running.has(1, ServiceName("shop", "db"))


@pytest.mark.parametrize("watches", [0, 100])
async def test_one_answer_that_is_too_long_keeps_nothing_else_back(
    catalog: Catalog, follow: Follow, watches: int
) -> None:
    await catalog.put("web")
    await catalog.put("db")
    catalog.broken["db"] = TooLarge("instances of db")
    async with follow(watches=watches) as running:
        await running.has(1)
        await until(lambda: running.codes() == [TooLarge.code])
        assert running.claim(ServiceName("shop", "db")) is None


async def test_a_token_that_sees_nothing_is_not_believed(catalog: Catalog, follow: Follow) -> None:
    await catalog.put("web")
    catalog.hide = {"*"}
    async with follow(complete=False) as running:
        await until(lambda: "consul_filtered" in running.codes())
        assert not running.state.complete
        catalog.hide = set()
        await catalog.move()
        await until(lambda: running.state.complete and running.claim() is not None)
        catalog.hide = {"*"}  # revoked
        await catalog.move()
        await until(lambda: "consul_filtered" in running.codes())
        await catalog.put("web", status="critical")
        assert running.claim() is not None
        catalog.hide = set()
        await catalog.move()
        await running.has(0)
        await until(lambda: running.codes() == [])


@pytest.mark.parametrize("meta", [{"known_leader": False}, {"last_contact": 60.0}])
async def test_a_server_without_a_leader_changes_nothing(
    catalog: Catalog, follow: Follow, meta: dict[str, Any]
) -> None:
    await catalog.put("web")
    async with follow(consistency="stale") as running:
        catalog.meta = meta
        await catalog.remove("web")
        await until(lambda: {"consul_no_leader", "consul_stale"} & set(running.codes()))
        assert running.claim() is not None
        catalog.meta = {}
        await catalog.put("web")
        await catalog.move()
        await until(lambda: running.codes() == [])
        assert running.claim() is not None


async def test_streamed_answers_remove_only_what_a_plain_one_confirms(catalog: Catalog, follow: Follow) -> None:
    await catalog.put("web", "1")
    await catalog.put("web", "2")
    catalog.streams = True
    async with follow() as running:
        await catalog.remove("web", "2")
        await running.has(1)
        catalog.hide = {"*"}  # revoked: the stream says nothing of it, the plain answer does
        await catalog.move()
        await until(lambda: "consul_filtered" in running.codes())
        assert running.claim() is not None
        catalog.hide = set()
        await catalog.put("web", "1", status="critical")
        await running.has(0)


async def test_a_mass_removal_is_held_and_forgotten_when_all_is_back(catalog: Catalog, follow: Follow) -> None:
    for number in range(1, 21):
        await catalog.put(f"s{number}", str(number))
    async with follow(confirm=3600.0) as running:
        held = dict(catalog.services["dc1"])
        catalog.services["dc1"].clear()
        await catalog.move()
        await until(lambda: "removal_held" in running.codes())
        assert len(running.state.exports) >= 15
        catalog.services["dc1"].update(held)
        await catalog.move()
        await until(lambda: len(running.state.exports) == 20 and running.codes() == [])


async def test_a_mass_removal_is_believed_at_a_second_look(catalog: Catalog, follow: Follow) -> None:
    for number in range(1, 21):
        await catalog.put(f"s{number}", str(number))
    async with follow(confirm=0.1) as running:
        catalog.services["dc1"].clear()
        await catalog.move()
        await until(lambda: len(running.state.exports) == 0 and running.codes() == [])


async def test_a_service_that_cannot_be_looked_at_again_keeps_no_other(catalog: Catalog, follow: Follow) -> None:
    for number in range(1, 31):
        await catalog.put(f"s{number}", str(number))
    async with follow(confirm=1.0) as running:
        for number in range(1, 21):
            del catalog.services["dc1"][f"s{number}"]
        await catalog.move()
        await until(lambda: "removal_held" in running.codes())
        detail = next(p.detail for p in running.state.problems if p.code == "removal_held")
        held = detail.partition(" of ")[2].partition(",")[0]
        catalog.broken[held] = Unreachable("cut")
        await until(lambda: len(running.state.exports) == 11)
        assert running.claim(ServiceName("shop", held)) is not None
        await until(lambda: "consul_unreachable" in running.codes())
        catalog.broken.clear()
        await until(lambda: len(running.state.exports) == 10 and running.codes() == [])


async def test_without_a_token_nothing_is_missing_where_consul_denies_by_default(
    catalog: Catalog, follow: Follow
) -> None:
    for number in range(1, 4):
        await catalog.put(f"s{number}", str(number))
    async with follow() as running:
        catalog.meta = {"default_deny": True}
        held = dict(catalog.services["dc1"])
        catalog.services["dc1"].clear()  # as it looks to somebody who may see nothing
        await catalog.move()
        await until(lambda: "consul_filtered" in running.codes())
        assert "consul.token_file" in next(p.detail for p in running.state.problems if p.code == "consul_filtered")
        asked = len(catalog.asked)
        await until(lambda: len(catalog.asked) > asked + 10)
        assert len(running.state.exports) == 3
        catalog.meta, catalog.services["dc1"] = {}, held
        await catalog.move()
        await until(lambda: running.codes() == [])


@pytest.mark.parametrize("how", ["restored", "empty", "begun anew while away"])
async def test_servers_that_begin_anew_are_given_time(catalog: Catalog, follow: Follow, how: str) -> None:
    for number in range(1, 31):
        await catalog.put(f"s{number}", str(number))
    async with follow(resync=3600.0) as running:
        held = dict(catalog.services["dc1"])

        async def lose() -> None:
            for number in range(1, 31 if how == "empty" else 4):
                del catalog.services["dc1"][f"s{number}"]
            if how != "empty":
                catalog.index = 3
            async with catalog.moved:
                catalog.moved.notify_all()

        if how != "begun anew while away":
            await lose()
            await until(lambda: "removal_held" in running.codes())
            catalog.index += 50
            await catalog.move()
            asked = len(catalog.asked)
            await until(lambda: len(catalog.asked) > asked + 10)
            # That the catalogue is empty may be read after the first lists, of which the ordinary part is believed.
            assert len(running.state.exports) >= (24 if how == "empty" else 30)
            catalog.services["dc1"] = held
            await catalog.move()
            await until(lambda: running.codes() == [])
    if how == "begun anew while away":
        await lose()
        async with follow(resync=3600.0) as running:
            await until(lambda: "removal_held" in running.codes())
            assert len(running.state.exports) == 30
        async with follow(resync=0.2) as running:
            await until(lambda: len(running.state.exports) == 27)


async def test_a_second_look_that_sees_less_confirms_nothing(catalog: Catalog, follow: Follow) -> None:
    for number in range(1, 31):
        await catalog.put(f"s{number}", str(number))
    async with follow(confirm=0.3) as running:
        for number in range(1, 21):
            del catalog.services["dc1"][f"s{number}"]
        await catalog.move()
        await until(lambda: "removal_held" in running.codes())
        catalog.meta = {"filtered": True}
        await catalog.move()
        await until(lambda: "consul_filtered" in running.codes())
        before = len(running.state.exports)
        asked = len(catalog.asked)
        await until(lambda: len(catalog.asked) > asked + 100)
        assert len(running.state.exports) == before
        catalog.meta = {}
        await until(lambda: len(running.state.exports) == 10 and running.codes() == [])


async def test_an_error_that_lasts_is_told_and_changes_nothing(catalog: Catalog, follow: Follow) -> None:
    await catalog.put("web")
    async with follow() as running:
        catalog.errors["dc1"] = Forbidden("Consul does not know our token", hint="write one")
        await catalog.move()
        await until(lambda: "consul_forbidden" in running.codes())
        assert running.codes().count("consul_forbidden") == 1
        assert running.claim() is not None


async def test_what_is_wrong_with_the_token_itself_is_told_beside_what_is_read(
    catalog: Catalog, follow: Follow
) -> None:
    catalog.problems = (Problem("consul_plain_token", "Consul at consul.test:8500", "unencrypted"),)
    await catalog.put("web")
    async with follow() as running:
        await until(lambda: running.codes() == ["consul_plain_token"])
        assert running.claim() is not None


# --- commands ---


async def test_export_and_unexport_by_the_rule_file(catalog: Catalog, follow: Follow, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    await catalog.put("web", Meta={})
    async with follow(rules=str(file)) as running:
        source = running.source
        looked = await source.preview(WEB, (Grant("west"),))
        assert (looked.where, looked.changed) == (str(file), True)
        assert looked.claim is not None
        assert looked.claim.grants == (Grant("west"),)
        assert not file.exists()
        assert running.claim() is None

        where, changed = await source.export(WEB, (Grant("west"),))
        assert (where, changed) == (f"{file}:2", True)
        claim = running.claim()
        assert claim is not None
        assert claim.grants == (Grant("west"),)
        assert (await source.export(WEB, (Grant("west"),))) == (f"{file}:2", False)
        assert (await source.export(WEB, ()))[1]
        assert (await source.export(WEB, ()))[1] is False
        claim = running.claim()
        assert claim is not None
        assert claim.grants == ()
        since = claim.exported_at_ns

        assert (await source.preview(WEB, None)).changed
        assert (await source.unexport(WEB))[1]
        assert running.claim() is None
        assert (await source.unexport(WEB)) == ("", False)
        await source.export(WEB, ())
        again = running.claim()
        assert again is not None
        assert again.exported_at_ns == since // 10**9 * 10**9
        with pytest.raises(NotFound, match="there is no Service shop/other"):
            await source.export(ServiceName("shop", "other"), ())


async def test_what_others_export_is_not_unexported(catalog: Catalog, follow: Follow, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("exports:\n- service: d*\n")
    await catalog.put("web")
    await catalog.put("db", Meta={})
    async with follow(rules=str(file)) as running:
        assert (await running.source.export(WEB, ()))[1] is False
        with pytest.raises(Conflict, match="by the meta isthmus-export of its instances"):
            await running.source.unexport(WEB)
        with pytest.raises(Conflict, match=r"the rule for 'd\*'"):
            await running.source.unexport(ServiceName("shop", "db"))


async def test_without_a_rule_file_a_command_says_what_to_do(catalog: Catalog, follow: Follow) -> None:
    await catalog.put("web", Meta={})
    async with follow() as running:
        with pytest.raises(Conflict, match=r"set consul\.rules") as caught:
            await running.source.export(WEB, ())
        assert caught.value.error_code == "no_rule_file"


async def test_a_rule_file_that_is_broken_or_gone_keeps_its_rules(
    catalog: Catalog, follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discovery.consul.rulefile._POLL_SECONDS", 0.05)
    file = tmp_path / "rules.yaml"
    file.write_text("exports:\n- service: web\n")
    await catalog.put("web", Meta={})
    async with follow(rules=str(file)) as running:
        assert running.claim() is not None
        for break_, code in (
            (lambda: file.write_text("exports: [\n"), "rules_invalid"),
            (lambda: file.write_text(""), "rules_gone"),
            (file.unlink, "rules_gone"),
        ):
            break_()
            await until(lambda code=code: code in running.codes())  # type: ignore[misc]
            assert running.claim() is not None
    async with follow(rules=str(file)) as running:  # also after a restart
        assert running.claim() is not None
        file.write_text("exports: []\n")
        await until(lambda: running.claim() is None)
        assert running.codes() == []
