"""plan and what it builds, carried out on a dictionary that behaves like Consul."""

from __future__ import annotations

from dataclasses import replace

import pytest

from discovery.consul.imports.desired import LocalGateway, instance_id
from discovery.consul.imports.plan import DropInstance, PutCheck, PutInstance, foreign
from federation.model.ids import ServiceName
from federation.model.service import Port, Protocol

DB = ServiceName("shop", "db")
ID = instance_id(DB, 5432, "gw-1")
GW1, GW2 = LocalGateway(name="gw-1", address="10.0.0.1", weight=3), LocalGateway(name="gw-2", address="10.0.0.2")


async def test_an_import_is_a_service_with_an_instance_per_gateway(world, make):
    world.site = replace(world.site, gateways=(GW1, GW2))
    await world.settle(make.imported(make.backend("east", local=True), make.backend("west")))
    ours = world.consul.ours()
    assert sorted(ours) == [ID, instance_id(DB, 5432, "gw-2")]
    made = ours[ID]
    assert (made["Service"], made["Address"], made["Port"]) == ("db", "10.0.0.1", 10_432)
    assert made["Tags"] == ["isthmus", "sql"]
    assert made["Weights"] == {"Passing": 3, "Warning": 1}
    assert made["Meta"] == {
        "isthmus-managed-by": "isthmus",
        "isthmus-cluster": "east",
        "isthmus-import": "shop/db",
        "isthmus-import-port": "5432",
        "isthmus-import-port-name": "sql",
        "isthmus-import-gateway": "gw-1",
        "isthmus-import-clusters": "east,west",
        "isthmus-import-plain": "true",
    }
    assert world.consul.resolve("db") == [("10.0.0.1", 10_432), ("10.0.0.2", 10_432)]
    check = world.consul.checks[(make.NODE, f"{ID}:ready")]
    assert (check["Status"], check["Output"], check["ServiceID"]) == ("passing", "ready in east, west", ID)


async def test_each_further_port_is_a_service_of_its_own(world, make):
    ports = (Port(name="admin", port=80), make.SQL, Port(port=9000), Port(name="dns", port=53, protocol=Protocol.UDP))
    everywhere = make.backend("west", ports=(53, 80, 5432, 9000))
    await world.settle(make.imported(everywhere, ports=ports))
    named = {s["Service"]: s["Port"] for s in world.consul.ours().values()}
    assert named == {"db": 10_080, "db-sql": 10_432, "db-9000": 10_000}


async def test_the_plain_name_stays_with_its_port(world, make):
    west = make.backend("west", ports=(80, 5432))
    await world.settle(make.imported(west))
    await world.settle(make.imported(west, ports=(Port(name="admin", port=80), make.SQL)))
    assert {s["Service"]: s["Port"] for s in world.consul.ours().values()} == {"db": 10_432, "db-admin": 10_080}
    await world.settle(make.imported(west, ports=(Port(name="admin", port=80),)))
    assert {s["Service"]: s["Port"] for s in world.consul.ours().values()} == {"db": 10_080}


async def test_nothing_ready_is_critical_and_resolves_to_nothing(world, make):
    await world.settle(make.imported())
    await world.settle(make.imported(make.backend("west", 0)))
    assert world.consul.resolve("db") == []
    assert world.consul.checks[(make.NODE, f"{ID}:ready")]["Output"] == "nothing is ready in west"
    changes = world.planned(DB, make.imported())
    assert [type(o) for c in changes for o in c.operations] == [PutCheck]


@pytest.mark.parametrize(
    ("ready", "others", "status"),
    [
        ({"west": 1}, {}, "passing"),
        ({"west": 0}, {}, "critical"),
        ({"west": 0, "south": 2}, {}, "passing"),
        ({}, {"west": 5}, "critical"),  # ready, but it does not offer this port
        ({"west": 0}, {"south": 5}, "critical"),
    ],
)
async def test_who_is_ready_for_the_port(world, make, ready, others, status):
    backends = [make.backend(c, n) for c, n in ready.items()] + [
        make.backend(c, n, ports=(80,)) for c, n in others.items()
    ]
    await world.settle(make.imported(*backends))
    assert world.consul.checks[(make.NODE, f"{ID}:ready")]["Status"] == status


async def test_a_draining_gateway_is_critical_unless_it_is_the_last(world, make):
    leaving = replace(GW2, draining=True)
    world.site = replace(world.site, gateways=(GW1, leaving))
    await world.settle(make.imported())
    assert world.consul.resolve("db") == [("10.0.0.1", 10_432)]
    world.site = replace(world.site, gateways=(leaving,))
    await world.settle(make.imported())
    assert world.consul.resolve("db") == [("10.0.0.2", 10_432)]


async def test_a_gateway_that_is_gone_turns_critical_first(world, make):
    world.site = replace(world.site, gateways=(GW1, GW2))
    await world.settle(make.imported())
    world.site = replace(world.site, gateways=(), absent=frozenset({"gw-1", "gw-2"}))
    await world.settle(make.imported())
    assert len(world.consul.ours()) == 2
    assert world.consul.resolve("db") == []
    assert world.consul.checks[(make.NODE, f"{ID}:ready")]["Output"] == "the gateway gw-1 is gone"
    world.site = replace(world.site, gateways=(GW1,), absent=frozenset({"gw-2"}))
    await world.settle(make.imported())
    assert world.consul.resolve("db") == [("10.0.0.1", 10_432)]
    world.site = replace(world.site, absent=frozenset())
    await world.settle(make.imported())
    assert sorted(world.consul.ours()) == [ID]


async def test_what_ends_goes_even_if_its_gateway_is_gone(world, make):
    await world.settle(make.imported())
    world.site = replace(world.site, gateways=(), absent=frozenset({"gw-1"}))
    await world.settle(None)
    assert world.consul.ours() == {}


async def test_nothing_goes_while_it_is_not_known_what_a_source_exports(world, make):
    await world.settle(make.imported())
    await world.settle(None, deletable=False)
    assert sorted(world.consul.ours()) == [ID]


async def test_headless_imports_and_ports_without_a_listener_are_nothing(world, make):
    await world.settle(make.imported(headless=True))
    await world.settle(make.imported(gateway_ports={}))
    assert world.consul.ours() == {}


@pytest.mark.parametrize(
    "edit",
    [
        {"Port": 1},
        {"Address": "192.0.2.66"},
        {"Tags": ["isthmus", "sql", "canary"]},
        {"Weights": {"Passing": 0, "Warning": 1}},
        {"Service": "db-renamed"},
    ],
)
async def test_what_was_edited_by_hand_is_put_right(world, make, edit):
    await world.settle(make.imported())
    before = dict(world.consul.ours()[ID])
    world.consul.edit(ID, **edit)
    assert world.actual.replace(await world.catalog.registered()) == {DB}
    await world.settle(make.imported())
    assert {**world.consul.ours()[ID], "ModifyIndex": 0} == {**before, "ModifyIndex": 0}
    assert (make.NODE, f"{ID}:ready") in world.consul.checks


async def test_a_check_that_was_changed_or_removed_by_hand_is_put_right(world, make):
    await world.settle(make.imported())
    key = (make.NODE, f"{ID}:ready")
    world.consul.checks[key] |= {"Status": "critical", "ModifyIndex": world.consul.touch()}
    await world.settle(make.imported())
    assert world.consul.checks[key]["Status"] == "passing"
    del world.consul.checks[key]
    await world.settle(make.imported())
    assert world.consul.checks[key]["Status"] == "passing"


async def test_what_lost_its_meta_is_somebody_elses(world, make):
    await world.settle(make.imported())
    world.consul.edit(ID, Meta={}, Port=7)
    world.actual.replace(await world.catalog.registered())
    wanted = {ID: None}
    assert foreign(wanted, {ID: world.actual.get(ID)}) == ID
    assert world.planned(DB, make.imported()) == ()
    assert world.planned(DB, None) == ()


async def test_another_import_that_takes_the_name_has_other_ids(world, make):
    await world.settle(make.imported())
    other = ServiceName("other", "db-shop")
    world.rule = replace(world.rule, namespace="other")
    await world.settle(make.imported(name=other), other)
    assert {s["Service"] for s in world.consul.ours().values()} == {"db", "db-shop"}
    await world.settle(make.imported())  # the rule is another one: it is called db-shop, too, for the book to decide
    assert [type(o) for c in world.planned(DB, None) for o in c.operations] == [DropInstance]


async def test_a_version_that_was_not_seen_is_not_overwritten(world, make):
    await world.settle(make.imported())
    changes = world.planned(DB, make.imported(gateway_ports={5432: 12_000}))
    assert [type(o) for c in changes for o in c.operations] == [PutInstance]
    world.consul.edit(ID, Port=7)
    outcome = await world.catalog.transact(changes[0].operations, make.FENCE)
    assert [f.at for f in outcome.faults] == [0]
    assert not outcome.faults[0].denied
    assert world.consul.ours()[ID]["Port"] == 7
