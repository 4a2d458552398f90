"""The registry's decisions without a network: leases, views, restarts of agents, and requests that cannot be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from federation.errors import Conflict, IsthmusError, QuotaExceeded
from federation.model.record import Key, Kind, OriginState
from federation.model.service import Grant, Locality
from federation.proto.v1 import catalog_pb2, records_pb2
from federation.registry.inventory import Inventory
from federation.registry.settings import Quotas
from federation.trust.bundle import fingerprint
from federation.trust.possession import possession_message
from federation.trust.token import JoinToken


async def join(registry: Any, *all_claims: Any) -> None:
    for claims in all_claims:
        text, _ = await registry.issue_token(claims.name, 0)
        possession = claims.authority.sign_possession(possession_message(JoinToken.parse(text)))
        await registry.enrol(text, claims.name, claims.authority.bundle, possession, Locality())


async def link(registry: Any, a: Any, b: Any, grants: tuple[Any, ...] = ()) -> None:
    prints = (fingerprint(a.authority.bundle), fingerprint(b.authority.bundle))
    await registry.link(a.name, b.name, prints, grants)


def seen_by(registry: Any, name: str) -> set[Key]:
    sight = registry.reports.session(name).sight
    return {r.key for r in registry.reports.log.records() if sight(r)}


async def test_a_hundred_retries_at_once_are_one_join(make_registry: Any, claims: Any) -> None:
    registry, east = make_registry(), claims("east")
    text, _ = await registry.issue_token("east", 60)
    possession = east.authority.sign_possession(possession_message(JoinToken.parse(text)))
    results = await asyncio.gather(
        *(registry.enrol(text, "east", east.authority.bundle, possession, Locality()) for _ in range(100))
    )
    assert len({r.SerializeToString(deterministic=True) for r in results}) == 1
    assert list(registry.store.clusters.all()) == ["east"]


async def test_a_lease_that_runs_out_makes_stale_and_deletes_nothing(
    make_registry: Any, claims: Any, send: Any, clock: Any
) -> None:
    registry, east, west = make_registry(), claims("east"), claims("west")
    await join(registry, east, west)
    await link(registry, east, west)
    intake = registry.reports.intake("west")
    assert send(intake, west.log(west.cluster(), west.gateway(), west.service())) == []
    before = seen_by(registry, "east")
    assert len(before) == 4
    clock.advance(14.9)
    registry.reports.tick()
    assert registry.reports.log.origins()["west"].state is OriginState.LIVE
    intake.on_alive()
    clock.advance(14.9)
    registry.reports.tick()
    assert registry.reports.log.origins()["west"].state is OriginState.LIVE
    clock.advance(0.2)
    registry.reports.tick()
    assert registry.reports.log.origins()["west"].state is OriginState.STALE
    assert seen_by(registry, "east") == before
    intake.on_alive()
    assert registry.reports.log.origins()["west"].state is OriginState.LIVE


async def test_grants_are_judged_by_the_version_of_the_record(make_registry: Any, claims: Any, send: Any) -> None:
    registry, east, west = make_registry(), claims("east"), claims("west")
    await join(registry, east, west)
    await link(registry, east, west)
    log = west.log(west.cluster(), west.service("shop/open"), west.service("shop/closed", grants=(Grant("edge"),)))
    send(registry.reports.intake("west"), log)
    sight = registry.reports.session("east").sight
    catalog = registry.reports.log
    opened, closed = (catalog.get(Key("west", Kind.SERVICE, name)) for name in ("shop/open", "shop/closed"))
    assert (sight(opened), sight(closed)) == (True, False)
    log.put([west.service("shop/open", grants=(Grant("edge"),)), west.service("shop/closed")])
    send(registry.reports.intake("west"), log)
    newer = catalog.get(opened.key), catalog.get(closed.key)
    assert (sight(newer[0]), sight(newer[1])) == (False, True)
    assert (sight(opened), sight(closed)) == (True, False)  # a Sight never changes its mind


async def test_endpoints_are_shown_on_one_network_and_to_whom_the_service_is_granted(
    make_registry: Any, claims: Any, send: Any
) -> None:
    registry, east, west = make_registry(), claims("east"), claims("west")
    await join(registry, east, west)
    await link(registry, east, west)
    log = west.log(west.cluster(network="flat"), west.service(), west.endpoints("10.1.0.1"))
    send(registry.reports.intake("west"), log)
    where = Key("west", Kind.ENDPOINTS, "shop/echo")
    assert where in seen_by(registry, "east")  # which network east is on is not known yet
    send(registry.reports.intake("east"), east.log(east.cluster()))
    assert where not in seen_by(registry, "east")
    east.epoch = 2
    send(registry.reports.intake("east"), east.log(east.cluster(network="other")))
    assert where not in seen_by(registry, "east")
    east.epoch = 3
    send(registry.reports.intake("east"), east.log(east.cluster(network="flat")))
    assert where in seen_by(registry, "east")
    log.put([west.service(grants=(Grant("edge"),)), west.endpoints("10.1.0.1", grants=(Grant("edge"),))])
    send(registry.reports.intake("west"), log)
    assert where not in seen_by(registry, "east")


async def test_an_older_epoch_is_refused_while_the_newer_one_is_there(
    make_registry: Any, claims: Any, send: Any
) -> None:
    registry, west = make_registry(), claims("west")
    await join(registry, west)
    old = west.log(west.cluster(), west.service(ready=1))
    west.epoch = 5
    new = west.log(west.cluster(), west.service(ready=5))
    send(registry.reports.intake("west"), new)
    held = registry.reports.log.get(Key("west", Kind.SERVICE, "shop/echo"))
    with pytest.raises(Conflict) as caught:
        send(registry.reports.intake("west"), old)
    assert caught.value.error_code == "stale_epoch"
    assert registry.reports.log.get(held.key) == held


async def test_who_joins_again_is_told_its_epoch_and_held_to_it(make_registry: Any, claims: Any, send: Any) -> None:
    registry, west = make_registry(), claims("west")
    await join(registry, west)
    west.epoch = 5
    send(registry.reports.intake("west"), west.log(west.cluster(), west.service()))
    await registry.leave("west")
    await registry.flush()  # what was reported last is written when it has left already
    text, _ = await registry.issue_token("west", 0)
    possession = west.authority.sign_possession(possession_message(JoinToken.parse(text)))
    reply = await registry.enrol(text, "west", west.authority.bundle, possession, Locality())
    assert reply.epoch_floor == 5
    west.epoch = 4
    with pytest.raises(Conflict) as caught:
        send(registry.reports.intake("west"), west.log(west.cluster(), west.service("shop/new")))
    assert caught.value.error_code == "stale_epoch"
    west.epoch = reply.epoch_floor + 1
    send(registry.reports.intake("west"), west.log(west.cluster(), west.service("shop/new")))
    names = [r.key.name for r in registry.reports.log.records(kind=Kind.SERVICE)]
    assert names == ["shop/new"]


async def test_a_rejected_record_keeps_the_last_good_one(make_registry: Any, claims: Any, send: Any) -> None:
    registry, west = make_registry(quotas=Quotas(endpoints=10)), claims("west")
    await join(registry, west)
    log = west.log(west.cluster(), west.service(ready=5), west.service("shop/b", ready=5))
    assert send(registry.reports.intake("west"), log) == []
    key = Key("west", Kind.SERVICE, "shop/echo")
    held = registry.reports.log.get(key)
    log.put([west.service(ready=6)])
    (rejection,) = send(registry.reports.intake("west"), log)
    assert (rejection.name, rejection.code) == ("shop/echo", "quota_exceeded")
    assert registry.reports.log.get(key) == held
    west.epoch = 2  # a restart of the agent brings the same again
    again = west.log(west.cluster(), west.service(ready=6), west.service("shop/b", ready=5))
    (rejection,) = send(registry.reports.intake("west"), again)
    assert (rejection.name, rejection.code) == ("shop/echo", "quota_exceeded")
    assert registry.reports.log.get(key).payload == held.payload


async def test_a_snapshot_without_end_is_cut_off(make_registry: Any, claims: Any, send: Any) -> None:
    registry, west = make_registry(quotas=Quotas(services=10, gateways=1)), claims("west")
    await join(registry, west)
    huge = west.log(*(west.service(f"shop/s{i}", labels={"x": "y" * 200}) for i in range(3000)))
    intake = registry.reports.intake("west")
    with pytest.raises(QuotaExceeded):
        send(intake, huge)
    assert len(registry.reports.log) == 0
    assert len(intake.sink.replica) < 1100


async def test_leaving_empties_everything(make_registry: Any, claims: Any, send: Any) -> None:
    registry, east, west = make_registry(), claims("east"), claims("west")
    await join(registry, east, west)
    await link(registry, east, west)
    ended: list[str] = []
    intake = registry.reports.intake("west")
    intake.on_open(lambda code, detail: ended.append(code))
    send(intake, west.log(west.cluster(), west.service()))
    await registry.leave("west")
    assert ended == ["not_authorised"]
    assert not seen_by(registry, "east")
    assert not list(registry.reports.log.records())
    inventory = Inventory(registry, clock=registry._clock)
    assert [c.name for c in inventory.clusters().clusters] == ["east"]
    with pytest.raises(IsthmusError):
        registry.reports.intake("west")


async def test_the_newest_revisions_are_not_due_yet(make_registry: Any, claims: Any, clock: Any) -> None:
    registry, east, west = make_registry(), claims("east"), claims("west")
    await join(registry, east, west)
    registry.reports.tick()
    before = registry.reports.log.revision
    await link(registry, east, west)
    assert registry.reports.settled() == 0
    clock.advance(15)
    assert registry.reports.settled() == before


async def test_streams_of_one_member_are_limited(make_registry: Any, claims: Any) -> None:
    registry, west = make_registry(), claims("west")
    await join(registry, west)
    open_ones = []
    for _ in range(4):
        intake = registry.reports.intake("west")
        intake.on_open(lambda *_: None)
        open_ones.append(intake)
    with pytest.raises(QuotaExceeded) as caught:
        registry.reports.intake("west")
    assert caught.value.error_code == "too_many_streams"
    open_ones[0].on_close("closed")
    registry.reports.intake("west")


async def test_a_second_stream_gets_no_second_burst(make_registry: Any, claims: Any, send: Any) -> None:
    registry, west = make_registry(quotas=Quotas(burst=10, records_per_second=1)), claims("west")
    await join(registry, west)
    first = registry.reports.intake("west")
    first.on_open(lambda *_: None)
    log = west.log(west.cluster(), *(west.service(f"shop/s{i}") for i in range(9)))
    assert send(first, log) == []
    assert first.pause() == 0
    second = registry.reports.intake("west")
    second.on_open(lambda *_: None)
    west.epoch = 2
    (slowed,) = send(second, west.log(west.cluster(), *(west.service(f"shop/s{i}") for i in range(9))))
    assert (slowed.name, slowed.code) == ("*", "quota_exceeded")
    assert second.pause() == pytest.approx(10)


async def test_an_epoch_that_no_store_can_keep_is_refused(make_registry: Any, claims: Any, send: Any) -> None:
    registry, west = make_registry(), claims("west")
    await join(registry, west)
    west.epoch = 2**63
    with pytest.raises(IsthmusError) as caught:
        send(registry.reports.intake("west"), west.log(west.cluster()))
    assert caught.value.error_code == "invalid_epoch"
    await registry.flush()
    assert "west" not in registry.reports.log.origins()
    west.epoch = 7
    assert send(registry.reports.intake("west"), west.log(west.cluster())) == []


async def test_a_frame_that_was_on_its_way_does_not_bring_back_who_left(
    make_registry: Any, claims: Any, send: Any
) -> None:
    registry, west = make_registry(), claims("west")
    await join(registry, west)
    intake = registry.reports.intake("west")
    assert send(intake, west.log(west.cluster())) == []
    await registry.leave("west")
    intake.on_alive()
    west.epoch = 2
    with pytest.raises(IsthmusError) as caught:
        send(intake, west.log(west.cluster()))
    assert caught.value.error_code == "not_authorised"
    assert registry.reports.log.origins()["west"].state is OriginState.GONE
    assert registry.reports.leases.next_deadline() is None


async def test_problems_of_an_agent_are_cut_to_a_size_that_can_be_shown(make_registry: Any, claims: Any) -> None:
    registry, west = make_registry(), claims("west")
    await join(registry, west)
    offer = registry.reports.offer("west")
    crowd = [records_pb2.Problem(code="c" * 100_000, subject="s" * 100_000, detail="d" * 100_000)] * 30
    offer.on_presence(catalog_pb2.Presence(problems=crowd))
    shown = registry.reports.session("west").agent_problems
    assert len(shown) == 30
    assert sum(len(p.code) + len(p.subject) + len(p.detail) for p in shown) < 64 * 1024
