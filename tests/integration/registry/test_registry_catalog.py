"""Real streams over mutual TLS: join, link, publish, watch; and what happens when links, members or the registry go."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from federation.catalog.replica import Log
from federation.model.cluster import LinkGrant
from federation.model.record import Kind, OriginState
from federation.model.service import Grant

pytestmark = pytest.mark.integration


def kinds(view: Any) -> list[tuple[str, str, str]]:
    return sorted((k.origin, k.kind.name, k.name) for k in view)


def payloads(view: Any) -> dict[Any, bytes]:
    """Byte-identical, but for the versions: a new registry numbers its own records anew."""
    return {key: record.payload for key, record in view.items()}


OF_WEST = [("@registry", "LINK", "east/west")] + [
    ("west", kind, name) for kind, name in (("CLUSTER", "west"), ("GATEWAY", "gw"), ("SERVICE", "shop/echo"))
]


async def test_linked_clusters_see_each_other_and_nobody_else(world: Any, wait: Any) -> None:
    east, west = await world.pair()
    edge = await world.join("edge")
    edge.report(edge.service("shop/secret"))
    world.follow(edge)
    await wait(lambda: edge.sink.synced and edge.publish.acknowledged)
    assert kinds(east.view) == OF_WEST
    assert not edge.view
    west.put(west.service(ready=7))
    key = next(k for k in east.view if k.kind is Kind.SERVICE)
    record = west.log.get(key)
    await wait(lambda: east.view[key] == record)
    assert kinds(east.view) == OF_WEST


async def test_unlinking_takes_the_origin_away_from_this_consumer_only(world: Any, wait: Any) -> None:
    east, west = await world.pair()
    edge = await world.join("edge")
    world.follow(edge)
    await world.link("edge", "west")
    await wait(lambda: len(edge.view) == 4)
    await world.operator().unlink("west", "east")
    await wait(lambda: not east.view)
    assert any(o.name == "west" and o.state is OriginState.GONE for c in east.changes for o in c.origins)
    await wait(lambda: kinds(west.view) == [("@registry", "LINK", "edge/west")])
    assert len(edge.view) == 4


async def test_grants_of_links_and_services_decide_at_once(world: Any, wait: Any) -> None:
    east, west = await world.pair()
    west.put(west.service("shop/other"), west.service("pay/card", grants=(Grant("edge"),)))
    await wait(lambda: len(east.view) == 5)
    await world.link(
        "east", "west", grants=[LinkGrant(origin="west", consumer="east", namespace="shop", service="other")]
    )
    await wait(lambda: [k.name for k in east.view if k.kind is Kind.SERVICE] == ["shop/other"])
    await wait(lambda: not [k for k in west.view if k.kind is Kind.SERVICE])
    await world.link("east", "west")
    await wait(lambda: len(east.view) == 5 and len(west.view) == 4)
    west.put(west.service("pay/card", grants=(Grant("east"),)))
    await wait(lambda: len(east.view) == 6)
    west.put(west.service("pay/card", grants=(Grant("edge"),)))
    await wait(lambda: len(east.view) == 5)


async def test_a_registry_that_restarts_takes_nothing_away(world: Any, wait: Any) -> None:
    east, west = await world.pair()
    before = payloads(east.view)
    history = east.sink.replica.history
    await world.stop()
    await world.unfollow("west")  # west does not come back yet
    await world.start()
    await wait(lambda: east.sink.replica.history != history and east.sink.synced)
    assert payloads(east.view) == before
    assert east.sink.replica.origins["west"].state is OriginState.UNKNOWN
    clusters = {c.name: c.state for c in await world.operator().clusters()}
    assert clusters["west"] == "stale"
    world.follow(west)
    await wait(lambda: east.sink.replica.origins["west"].state is OriginState.LIVE)
    assert payloads(east.view) == before
    deleted = [key for changes in east.changes for key in changes.deleted]
    assert not deleted


async def test_what_went_while_the_registry_was_down_is_gone_afterwards(world: Any, wait: Any) -> None:
    east, west = await world.pair()
    await world.stop()
    west.log.delete(next(k for k in east.view if k.kind is Kind.SERVICE), west.service().version)
    await world.start()
    await wait(lambda: len(east.view) == 3)


async def test_a_silent_origin_goes_stale_and_nothing_is_deleted(world: Any, wait: Any) -> None:
    east, west = await world.pair()
    before = east.view
    await world.unfollow("west")
    await wait(lambda: east.sink.replica.origins["west"].state is OriginState.STALE)
    assert east.view == before
    states = {c.name: c.state for c in await world.operator().clusters()}
    assert states == {"east": "live", "west": "stale"}
    (link,) = await world.operator().links()
    assert (link.state, "west" in link.detail) == ("down", True)
    world.follow(west)
    await wait(lambda: east.sink.replica.origins["west"].state is OriginState.LIVE)
    assert east.view == before


async def test_who_leaves_is_gone_for_everybody_and_may_come_back_with_a_new_root(world: Any, wait: Any) -> None:
    east, _ = await world.pair()
    await world.operator().leave("west")
    await wait(lambda: not east.view)
    west_old = world.members["west"]
    await wait(lambda: west_old.watch.last_error is not None and west_old.publish.last_error is not None)
    await world.unfollow("west")
    (world.directory / "clusters" / "west").rename(world.directory / "clusters" / "west-old")
    west = await world.join("west")
    west.report(west.service("shop/new"))
    world.follow(west)
    await world.link("east", "west")
    await wait(lambda: [k.name for k in east.view if k.kind is Kind.SERVICE] == ["shop/new"])


async def joined_anew(world: Any, name: str, *, epoch: int) -> Any:
    """`name` joins from an empty directory, links itself to east, and reports shop/new with `epoch`."""
    await world.unfollow(name)
    clusters = world.directory / "clusters"
    (clusters / name).rename(clusters / f"{name} until {epoch}")
    member = await world.join(name, epoch=epoch)
    member.report(member.service("shop/new"))
    world.follow(member)
    await world.link("east", name)
    return member


def services(member: Any) -> list[str]:
    return sorted(key.name for key in member.view if key.kind is Kind.SERVICE)


async def test_who_joins_again_with_a_lower_epoch_is_refused_each_time(world: Any, wait: Any) -> None:
    west = await world.join("west", epoch=100)
    await world.join("east")
    west.report(west.service("shop/old"))
    world.follow(west)
    await wait(lambda: west.publish.acknowledged == west.log.revision)
    await world.operator().leave("west")
    west = await joined_anew(world, "west", epoch=7)
    assert west.joined.epoch_floor == 100
    attempts = west.publish.connections
    await wait(lambda: west.publish.connections > attempts + 3)
    await wait(lambda: getattr(west.publish.last_error, "error_code", "") == "stale_epoch")
    assert not west.publish.acknowledged


async def test_an_agent_that_is_behind_is_refused_each_time(world: Any, wait: Any) -> None:
    """Not only the first time: the registry must not say that it has taken what it ignores."""
    west = await world.join("west", epoch=100)
    west.report(west.service())
    world.follow(west)
    await wait(lambda: west.publish.acknowledged == west.log.revision)
    await world.unfollow("west")
    west.epoch, west.log = 7, Log(history="west, with its clock set back")
    west.report(west.service("shop/new"))
    world.follow(west)
    await wait(lambda: west.publish.connections > 4)
    await wait(lambda: getattr(west.publish.last_error, "error_code", "") == "stale_epoch")
    assert not west.publish.acknowledged


async def test_a_consumer_follows_who_joined_again_with_a_lower_epoch_at_a_restored_registry(
    world: Any, wait: Any
) -> None:
    """The registry's backup is older than the membership: nothing is left that could tell west to exceed its epoch."""
    east = await world.join("east")
    await world.stop()
    backup = [(file, file.read_bytes()) for file in world.directory.glob("registry.db*")]
    await world.start()
    world.follow(east)
    west = await world.join("west", epoch=100)
    west.report(west.service("shop/old"))
    world.follow(west)
    await world.link("east", "west")
    await wait(lambda: services(east) == ["shop/old"])
    await world.unfollow("east")
    await world.unfollow("west")
    await world.stop()
    for file in world.directory.glob("registry.db*"):
        file.unlink()
    for file, content in backup:
        file.write_bytes(content)
    await world.start()
    west = await joined_anew(world, "west", epoch=7)
    assert west.joined.epoch_floor == 0
    east.changes.clear()
    world.follow(east)
    await wait(lambda: services(east) == ["shop/new"])
    await wait(lambda: east.sink.synced)
    first = next(changes for changes in east.changes if changes.synced)
    assert {record.key.name for record in first.put} >= {"shop/new"}, (
        "it was not synced as long as it held the old ones"
    )
    west.put(west.service("shop/newer"))
    await wait(lambda: services(east) == ["shop/new", "shop/newer"])


async def test_states_follow_what_was_applied(world: Any, wait: Any) -> None:
    east, west = await world.join("east"), await world.join("west")
    operator = world.operator()
    assert {c.name: c.state for c in await operator.clusters()} == {"east": "pending", "west": "pending"}
    await world.link("east", "west")
    (link,) = await operator.links()
    assert (link.state, link.detail) == ("down", "east has not reported yet")
    for member in (east, west):
        member.report(member.service())
        world.follow(member)
    await wait(lambda: len(east.view) == 4 and len(west.view) == 4)

    async def state() -> str:
        (link,) = await operator.links()
        return str(link.state)

    for _ in range(200):
        if await state() == "live":
            break
        await wait(lambda: True)
    assert await state() == "live"
    (info, _) = await operator.clusters()
    assert (info.name, info.services, info.gateways, info.agent_version) == ("east", 1, 1, "1")
    assert info.applied_revision > 0
    assert info.last_seen_ns > 0
    assert [(s.cluster, s.service.name) for s in await operator.services()] == [("east", "echo"), ("west", "echo")]
    assert [(g.cluster, g.gateway.name, g.stale) for g in await operator.gateways()] == [
        ("east", "gw", False),
        ("west", "gw", False),
    ]
    status = await operator.status()
    assert (status.federation, status.streams) == ("demo.test", 4)
    west.log.delete(west.gateway().key, west.service().version)
    await wait(lambda: len(east.view) == 3)
    (link,) = await operator.links()
    assert (link.state, link.detail) == ("degraded", "west has no gateway")


async def test_the_end_of_the_process_is_announced(world: Any, wait: Any) -> None:
    east, _ = await world.pair()
    await world.stop()
    await wait(lambda: east.watch.last_error is not None)
    await wait(lambda: east.publish.last_error is not None)
    assert east.watch.last_error.error_code in ("going_away", "unavailable")
    assert len(east.view) == 4


async def test_a_restored_backup_is_told_and_nothing_is_lost_in_silence(world: Any, wait: Any) -> None:
    east, west = await world.pair()
    await world.stop()
    shutil.copy(world.directory / "registry.db", world.directory / "backup")
    await world.start()
    edge = await world.join("edge")
    await world.operator().unlink("east", "west")
    await wait(lambda: not east.view)
    await world.stop()
    shutil.copy(world.directory / "backup", world.directory / "registry.db")
    await world.start()
    assert [p.code for p in (await world.operator().status()).problems] == ["store_restored"]
    await wait(lambda: len(east.view) == 4 and len(west.view) == 4)  # the link of the backup, from a new epoch
    world.follow(edge)  # which the backup does not know
    await wait(lambda: edge.watch.last_error is not None)
    assert [c.name for c in await world.operator().clusters()] == ["east", "west"]
