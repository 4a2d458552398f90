"""The keeper between a scripted agent and a scripted Envoy: what is subscribed, put, published, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import replace

import pytest

from federation import log
from federation.aio.clock import FakeClock
from federation.aio.tasks import cancel
from federation.dns.table import CLUSTERSET, Table
from federation.model.ids import ServiceName
from federation.model.service import AppProtocol, Backend, Import, Port
from sidecar.demand import Demand, State
from sidecar.keeper import RECHECK, Keeper, KeeperConfig
from sidecar.vip import NETWORKS, VirtualAddresses

ECHO = ServiceName("shop", "echo")
NAME = "echo.shop.global"
IMPORT = Import(
    name=ECHO,
    ips=("241.0.0.7",),
    ports=(Port(name="http", port=80, app=AppProtocol.HTTP),),
    backends=(Backend(cluster="east", ports=(80,)), Backend(cluster="west", local=True, ports=(80,))),
)


class Scripted:
    """The process around the keeper: says what it is told to, remembers what it was asked."""

    def __init__(self) -> None:
        self.imports: dict[ServiceName, Import] = {}
        self.subscribed: set[ServiceName] = set()
        self.ticket = 0
        self.urgent = False
        self.acked = -1
        self.acknowledging = asyncio.Event()
        self.acknowledging.set()
        self.clashes: dict[str, str] = {}
        self.rejections: dict[str, str] = {}
        self.reported: dict[str, str] = {}

    def find(self, service: ServiceName) -> Import | None:
        return self.imports.get(service)

    def clusters(self) -> Collection[str]:
        return ["east", "west"]

    def subscribe(self, services: Iterable[ServiceName]) -> None:
        self.subscribed |= set(services)

    def unsubscribe(self, services: Iterable[ServiceName]) -> None:
        self.subscribed -= set(services)

    def publish(self, *, urgent: bool = False) -> int:
        self.ticket += 1
        self.urgent |= urgent
        return self.ticket

    async def acknowledged(self, ticket: int, limit: float) -> bool:
        if ticket > self.acked:
            await self.acknowledging.wait()
        return True

    def clash(self, address: str, ports: Sequence[int]) -> str:
        return self.clashes.get(address, self.clashes.get("*", ""))

    def rejected(self, address: str, ports: Sequence[int]) -> str:
        return self.rejections.get(address, "")

    def told(self, clashes: dict[str, str]) -> None:
        self.reported = clashes


class Rig:
    def __init__(self, *, redirect: bool = False, vips: VirtualAddresses | None = None) -> None:
        self.clock = FakeClock()
        self.outside = Scripted()
        self.table = Table([CLUSTERSET, "global"])
        self.vips = vips or VirtualAddresses(networks=NETWORKS, clock=self.clock)
        self.keeper = Keeper(
            demand=Demand(limit=2, absent_limit=10, idle=600, absent_for=600),
            vips=self.vips,
            table=self.table,
            outside=self.outside,
            config=KeeperConfig(suffix="global", redirect=redirect),
            clock=self.clock,
            log=log.get("test"),
        )

    def tell(self, *imports: Import) -> None:
        for imp in imports:
            self.outside.imports[imp.name] = imp
        self.keeper.changed([imp.name for imp in imports], ())

    def delete(self, service: ServiceName) -> None:
        self.outside.imports.pop(service, None)
        self.keeper.changed([service], ())

    def address(self, name: str = NAME) -> tuple[str, ...]:
        records = self.table.get(name)
        return records.a if records is not None else ()

    async def look_up(self, name: str = NAME) -> bool | str:
        async with asyncio.timeout(5):
            return await self.keeper.look_up(name)

    async def in_use(self, imp: Import = IMPORT) -> str:
        """The virtual address of `imp`, looked up."""
        self.outside.imports[imp.name] = imp
        asking = asyncio.create_task(self.look_up(f"{imp.name.name}.{imp.name.namespace}.global"), name="asking")
        await turns()
        self.tell(imp)
        assert await asking is True
        return self.address(f"{imp.name.name}.{imp.name.namespace}.global")[0]


async def turns(n: int = 10) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    running = asyncio.create_task(made.keeper.run(), name="keeper")
    await turns()
    yield made
    await cancel(running)


async def test_a_look_up_subscribes_and_is_answered_when_envoy_is_ready(rig: Rig) -> None:
    rig.outside.acknowledging.clear()
    asking = asyncio.create_task(rig.look_up(), name="asking")
    await turns()
    assert rig.outside.subscribed == {ECHO}
    rig.tell(IMPORT)
    await turns()
    assert not asking.done()
    assert rig.address() == ()  # nothing leads there yet
    assert [use.name for use in rig.keeper.uses()] == [ECHO]
    rig.outside.acknowledging.set()
    assert await asking is True
    assert rig.address() == (rig.keeper.uses()[0].vip,)
    assert rig.address("echo.shop.svc.clusterset.local") == rig.address()


@pytest.mark.parametrize(
    ("ports", "waits"),
    [
        ((AppProtocol.HTTP,), False),
        ((AppProtocol.OPAQUE,), False),
        ((AppProtocol.HTTP, AppProtocol.OPAQUE), True),  # the listener has to know which is which
    ],
)
async def test_in_the_redirect_way_envoy_asks_for_what_it_lacks(ports: tuple[AppProtocol, ...], waits: bool) -> None:
    rig = Rig(redirect=True)
    rig.outside.acknowledging.clear()
    rig.outside.acked = 1  # the listener stands
    rig.outside.ticket = 5
    running = asyncio.create_task(rig.keeper.run(), name="keeper")
    asking = asyncio.create_task(rig.look_up(), name="asking")
    await turns()
    rig.tell(replace(IMPORT, ports=tuple(Port(name=f"p{n}", port=80 + n, app=app) for n, app in enumerate(ports))))
    await turns()
    assert asking.done() is not waits
    rig.outside.acknowledging.set()
    assert await asking is True
    await cancel(running)


async def test_a_name_that_is_absent_is_explained_and_put_when_it_comes_to_exist(rig: Rig) -> None:
    asking = asyncio.create_task(rig.look_up(), name="asking")
    await turns()
    rig.keeper.changed((), ["shop/echo"])
    assert "not exported" in str(await asking)
    assert rig.outside.subscribed == {ECHO}
    rig.tell(IMPORT)
    await turns()
    assert rig.address() != ()


@pytest.mark.parametrize("name", ["global", "a.b.c.d.global", "_x.echo.shop.global", "echo.shop.example.com"])
async def test_names_that_no_service_can_have_ask_nobody(rig: Rig, name: str) -> None:
    assert isinstance(await rig.look_up(name), str)
    assert rig.outside.subscribed == set()


async def test_a_deleted_import_leaves_table_and_envoy_and_keeps_its_address(rig: Rig) -> None:
    address = await rig.in_use()
    rig.delete(ECHO)
    assert rig.address() == ()
    assert rig.keeper.uses() == []
    assert rig.keeper.count(State.ABSENT) == 1
    rig.tell(IMPORT)
    await turns()
    assert rig.address() == (address,)


async def test_pinned_names_are_uses_of_their_own(rig: Rig) -> None:
    address = await rig.in_use()
    assert await rig.look_up("echo.shop.east.global") is True
    assert rig.address("echo.shop.east.global") not in ((), (address,))
    assert sorted(str(use.pinned) for use in rig.keeper.uses()) == ["None", "east"]
    assert isinstance(await rig.look_up("echo.shop.north.global"), str)
    rig.tell(replace(IMPORT, backends=IMPORT.backends[1:]))  # east exports it no longer
    await turns()
    assert rig.address("echo.shop.east.global") == ()
    assert [use.pinned for use in rig.keeper.uses()] == [None]


async def test_idle_names_are_released_and_used_ones_are_not(rig: Rig) -> None:
    await rig.in_use()
    rig.clock.advance(599)
    rig.keeper.sweep({ECHO})
    rig.clock.advance(599)
    rig.keeper.sweep(set())
    assert rig.address() != ()
    rig.clock.advance(1)
    rig.keeper.sweep(set())
    assert rig.address() == ()
    assert rig.outside.subscribed == set()
    assert rig.keeper.uses() == []


async def test_a_clash_leads_through_the_gateway_until_it_ends(rig: Rig) -> None:
    rig.outside.clashes["*"] = "port 80 is held"
    assert await rig.in_use() == "241.0.0.7"
    assert rig.keeper.uses() == []
    assert rig.keeper.via_gateway() == [ECHO]
    assert rig.outside.reported == {"shop/echo": "port 80 is held, so it is led through the gateway at 241.0.0.7"}
    why = rig.table.get(f"_why.{NAME}")
    assert why is not None
    assert "port 80 is held" in " ".join(why.txt)
    rig.keeper.recheck()
    await turns()
    assert rig.address() == ("241.0.0.7",)
    rig.outside.clashes.clear()
    rig.clock.advance(RECHECK)
    await turns()
    assert rig.address()[0].startswith("127.")
    assert rig.outside.reported == {}


async def test_a_listener_that_envoy_cannot_open_is_a_clash(rig: Rig) -> None:
    address = rig.vips.allocate(ECHO, kind=next(iter(NETWORKS)))
    rig.outside.rejections[address] = "port 80 of it is held by another process"
    assert await rig.in_use() == "241.0.0.7"
    assert ECHO in rig.keeper.via_gateway()


async def test_names_beyond_the_limit_are_refused_while_the_others_are_used(rig: Rig) -> None:
    await rig.in_use()
    await rig.in_use(replace(IMPORT, name=ServiceName("shop", "b")))
    asking = asyncio.create_task(rig.look_up("c.shop.global"), name="asking")
    await turns()
    rig.tell(replace(IMPORT, name=ServiceName("shop", "c")))
    assert "names_limit" in str(await asking)
    assert rig.outside.subscribed == {ECHO, ServiceName("shop", "b")}


async def test_what_was_in_use_is_held_again_after_a_restart(rig: Rig) -> None:
    address = await rig.in_use()
    assert await rig.look_up("echo.shop.east.global") is True
    again = Rig(vips=rig.vips)
    again.outside.imports[ECHO] = IMPORT
    again.keeper.restore()
    assert again.outside.subscribed == {ECHO}
    assert len(again.keeper.uses()) == 2
    running = asyncio.create_task(again.keeper.run(), name="keeper")
    await turns()
    assert again.address() == (address,)
    await cancel(running)


async def test_a_name_of_the_last_run_is_held_back_until_envoy_serves_it(rig: Rig) -> None:
    address = await rig.in_use()
    again = Rig(vips=rig.vips)
    again.outside.imports[ECHO] = IMPORT
    again.outside.acknowledging.clear()
    again.keeper.restore()
    asking = asyncio.create_task(again.look_up(), name="asking")  # DNS is open before the keeper runs
    await turns()
    assert not asking.done()
    running = asyncio.create_task(again.keeper.run(), name="keeper")
    await turns()
    assert not asking.done()
    assert again.address() == ()
    again.outside.acknowledging.set()
    assert await asking is True
    assert again.address() == (address,)
    await cancel(running)


async def test_a_pinned_name_that_clashes_exists_without_an_address(rig: Rig) -> None:
    await rig.in_use()
    rig.outside.clashes["*"] = "port 80 is held"
    assert await rig.look_up("echo.shop.east.global") is not True
    assert rig.address("echo.shop.east.global") == ()
    why = rig.table.get("_why.echo.shop.east.global")
    assert why is not None
    assert "port_clash: port 80 is held, and there is no other way to it" in why.txt
    assert rig.address()[0].startswith("127.")  # the name that is not pinned has its listeners already
    assert rig.keeper.via_gateway() == []
    assert rig.outside.reported == {"shop/echo": "by east's name: port 80 is held, and there is no other way to it"}


async def test_what_a_look_up_waits_for_is_urgent_and_the_rest_is_not(rig: Rig) -> None:
    await rig.in_use()
    assert rig.outside.urgent
    rig.outside.urgent = False
    rig.tell(replace(IMPORT, session_affinity="ClientIP"))
    assert not rig.outside.urgent


async def test_envoy_asks_for_an_address_that_nobody_looked_up() -> None:
    rig = Rig(redirect=True)
    vip = rig.vips.allocate(ECHO, kind=list(NETWORKS)[2])
    rig.vips.release(ECHO)
    running = asyncio.create_task(rig.keeper.run(), name="keeper")
    await turns()
    assert rig.keeper.demanded([f"vip/{vip}:80", "vip/240.64.9.9:80", "out/x/y/1"]) == [
        "vip/240.64.9.9:80",
        "out/x/y/1",
    ]
    assert rig.outside.subscribed == {ECHO}
    rig.tell(IMPORT)
    assert [use.vip for use in rig.keeper.uses()] == [vip]
    rig.delete(ECHO)
    assert rig.keeper.demanded([f"vip/{vip}:80"]) == [f"vip/{vip}:80"]
    await cancel(running)
