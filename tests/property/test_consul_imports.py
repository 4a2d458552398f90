"""Writing imports to Consul: from whatever is registered, plan and its transaction reach what is wanted, at once.

Who else is in the datacenter edits what he likes in between; what is his is never touched.
"""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.consul.imports.desired import LocalGateway, instance_id, parse_id
from federation.model.ids import ServiceName
from federation.model.service import Backend, Import, Locality, Port, Readiness

NAMES = (ServiceName("shop", "db"), ServiceName("shop", "api"), ServiceName("eu", "db"))
PORTS = (Port(name="sql", port=5432), Port(name="admin", port=80), Port(port=9000))
GATEWAYS = tuple(LocalGateway(name=f"gw-{n}", address=f"10.0.0.{n}") for n in (1, 2))
NODE = "isthmus-east"
OURS = {"isthmus-managed-by": "isthmus", "isthmus-cluster": "east"}

imports = st.none() | st.builds(
    lambda ports, ready, shift: (ports, ready, shift),
    st.sets(st.sampled_from(PORTS), min_size=1).map(lambda ports: tuple(sorted(ports, key=lambda p: p.port))),
    st.lists(st.integers(0, 2), min_size=1, max_size=2),
    st.integers(0, 1),
)
edits = st.sampled_from(["port", "tags", "name", "meta", "weight", "check", "no check", "gone", "foreign", "theirs"])
sites = st.tuples(st.sets(st.sampled_from(GATEWAYS)), st.sets(st.sampled_from(["gw-1", "gw-2"])))


def imported(name: ServiceName, drawn: Any) -> Import | None:
    if drawn is None:
        return None
    ports, ready, shift = drawn
    numbers = tuple(p.port for p in ports)
    backends = tuple(
        Backend(cluster=f"c{at}", ports=numbers, readiness=(Readiness(Locality(), n),)) for at, n in enumerate(ready)
    )
    return Import(
        name=name, ports=ports, backends=backends, gateway_ports={n: 10_000 + n % 1000 + shift for n in numbers}
    )


def edit(consul: Any, what: str, at: int) -> None:
    """By hand, of the instance number `at`."""
    ours = sorted(consul.ours())
    if what == "theirs":
        consul.register(f"vm-{at}", "db")
    elif what == "foreign":
        free = instance_id(NAMES[at % 3], 5432, "gw-1")
        if free not in ours:
            consul.register(NODE, "db", id=free)
    elif ours:
        id_ = ours[at % len(ours)]
        key = (NODE, f"{id_}:ready")
        fields: dict[str, dict[str, Any]] = {
            "port": {"Port": 1},
            "tags": {"Tags": ["x"]},
            "name": {"Service": "renamed"},
            "meta": {"Meta": {"by": "hand"}},
            "weight": {"Weights": {"Passing": 9, "Warning": 1}},
        }
        if what in fields:
            consul.edit(id_, **fields[what])
        elif what == "check" and key in consul.checks:
            consul.checks[key] |= {"Status": "critical", "ModifyIndex": consul.touch()}
        elif what == "no check":
            consul.checks.pop(key, None)
        elif what == "gone":
            consul.deregister(NODE, id_)


def foreign_at_ours(theirs: dict[Any, Any]) -> bool:
    """Somebody has one of our ids."""
    return any(node == NODE for node, _ in theirs)


def foreign(consul: Any) -> dict[Any, Any]:
    return copy.deepcopy(
        {k: s for k, s in consul.services.items() if k[0] != NODE or not s["Meta"].items() >= OURS.items()}
    )


@settings(max_examples=150)
@given(st.data())
def test_plan_reaches_what_is_wanted_from_anything_and_touches_nothing_else(
    make_world: Any, data: st.DataObject
) -> None:
    async def story() -> None:
        world = make_world()
        for _ in range(data.draw(st.integers(1, 4))):
            present, absent = data.draw(sites)
            world.site = replace(
                world.site,
                gateways=tuple(sorted(present)),
                absent=frozenset(absent) - {g.name for g in present},
            )
            wanted = {name: imported(name, data.draw(imports)) for name in NAMES}
            await world.begin()
            theirs = foreign(world.consul)
            for name, one in wanted.items():
                await world.round(name, one)
                if foreign_at_ours(theirs):
                    await world.round(
                        name, one
                    )  # the last instance that said which port has the plain name may be gone
                assert world.planned(name, one) == ()
            assert world.actual.replace(await world.catalog.registered()) == set(), (
                "what is remembered is what is there"
            )
            assert foreign(world.consul) == theirs
            check(world, wanted, {key[1] for key in theirs if key[0] == NODE})
            for what, at in data.draw(st.lists(st.tuples(edits, st.integers(0, 9)), max_size=4)):
                edit(world.consul, what, at)

    asyncio.run(story())


def check(world: Any, wanted: dict[ServiceName, Import | None], theirs: set[str]) -> None:
    """What is registered is what is wanted, by its meaning and not by the code that makes it."""
    expected = {
        instance_id(name, port, gateway.name)
        for name, one in wanted.items()
        if one is not None
        for port in one.gateway_ports
        for gateway in world.site.gateways
    } - theirs
    there = {id_ for id_, s in world.consul.ours().items() if s["Meta"].items() >= OURS.items()}
    assert expected <= there
    for id_ in there - expected:  # what may come back is kept, and leads nobody anywhere
        name, port, gateway = parse_id(id_) or (NAMES[0], 0, "")
        assert gateway in world.site.absent
        assert wanted[name] is not None
        assert world.consul.checks[(NODE, f"{id_}:ready")]["Status"] == "critical"
    for id_ in expected:
        name, port, gateway = parse_id(id_) or (NAMES[0], 0, "")
        one, service = wanted[name], world.consul.ours()[id_]
        assert one is not None
        assert service["Port"] == one.gateway_ports[port]
        assert service["Address"] == next(g.address for g in GATEWAYS if g.name == gateway)
        ready = any(b.ready for b in one.backends)
        assert world.consul.checks[(NODE, f"{id_}:ready")]["Status"] == ("passing" if ready else "critical")


@pytest.fixture(scope="module")
def make_world() -> Any:
    """The datacenter in a few lines that the unit tests have."""
    import importlib.util

    path = Path(__file__).parents[1] / "unit/discovery/consul/imports/conftest.py"
    spec = importlib.util.spec_from_file_location("consul_in_a_few_lines", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.World
