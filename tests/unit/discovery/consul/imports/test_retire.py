"""What is removed when a cluster leaves."""

from __future__ import annotations

import pytest

from discovery.consul.imports.retire import retire
from federation.errors import Denied
from federation.model.ids import ServiceName


async def test_everything_of_ours_and_the_node_go(world, make):
    for n in range(70):
        await world.settle(make.imported(name=ServiceName("shop", f"s{n}")), ServiceName("shop", f"s{n}"))
    world.consul.register("vm", "web")
    removed = await retire(world.catalog)
    assert len(removed) == 71
    assert removed[-1] == "node isthmus-east"
    assert list(world.consul.services) == [("vm", "web")]
    assert list(world.consul.nodes) == ["vm"]
    assert await retire(world.catalog) == []


async def test_what_is_somebody_elses_stays_and_so_does_the_node(world, make):
    await world.settle(make.imported())
    world.consul.register(make.NODE, "theirs")
    assert len(await retire(world.catalog)) == 1
    assert list(world.consul.ours()) == ["theirs"]


async def test_a_node_that_is_not_ours_is_left_alone(world, make):
    world.consul.register(make.NODE, "theirs")
    assert await retire(world.catalog) == []


async def test_a_missing_right_is_said(world, make):
    await world.settle(make.imported())
    world.consul.denied = {"db"}
    with pytest.raises(Denied, match="may not remove what is ours"):
        await retire(world.catalog)


async def test_what_is_written_meanwhile_is_removed_too(world, make):
    await world.settle(make.imported())
    put = world.consul.put

    async def slow(path, body, **how):
        if len(world.consul.transactions) == before:
            (id_,) = world.consul.ours()
            world.consul.edit(id_, Port=7)  # after it was read
        return await put(path, body, **how)

    before = len(world.consul.transactions)
    world.consul.put = slow
    assert len(await retire(world.catalog)) == 2
    assert make.NODE not in world.consul.nodes
