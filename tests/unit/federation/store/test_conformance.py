"""What every store promises, whatever keeps it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from federation.aio.clock import FakeClock
from federation.errors import AlreadyExists, Conflict, Denied, NotFound
from federation.model.cluster import Bundle
from federation.model.record import MAX_EPOCH, MAX_FLOOR
from federation.store import plans
from federation.store.base import KEEP_TOKENS_NS, Change, Store


async def test_a_token_admits_its_cluster_once(store: Store, make: Any) -> None:
    token = make.token("east")
    await store.tokens.issue(token)
    member = make.member("east")
    assert await store.clusters.enrol(token.hash, member, "print") == member
    assert dict(store.clusters.all()) == {"east": member}
    assert store.tokens.all()[token.hash].redeemed_by == "print"
    with pytest.raises(Denied) as caught:
        await store.clusters.enrol(token.hash, make.member("east", root=b"other"), "other print")
    assert caught.value.error_code == "token_used"
    assert dict(store.clusters.all()) == {"east": member}


async def test_of_many_concurrent_redemptions_one_wins(store: Store, make: Any) -> None:
    token = make.token("east")
    await store.tokens.issue(token)
    results = await asyncio.gather(
        *(store.clusters.enrol(token.hash, make.member("east", root=b"%d" % i), f"print {i}") for i in range(100)),
        return_exceptions=True,
    )
    winners = [r for r in results if not isinstance(r, BaseException)]
    assert len(winners) == 1
    assert {getattr(r, "error_code", "") for r in results if isinstance(r, BaseException)} == {"token_used"}
    assert store.clusters.all()["east"] == winners[0]


async def test_a_retry_of_the_winner_changes_nothing(store: Store, make: Any, clock: FakeClock) -> None:
    token = make.token("east")
    await store.tokens.issue(token)
    first = await store.clusters.enrol(token.hash, make.member("east"), "print")
    clock.advance(3600)
    assert await store.clusters.enrol(token.hash, make.member("east"), "print") == first


async def test_a_retry_after_leaving_is_refused(store: Store, make: Any, clock: FakeClock) -> None:
    token = make.token("east")
    await store.tokens.issue(token)
    await store.clusters.enrol(token.hash, make.member("east"), "print")
    await store.clusters.remove("east")
    with pytest.raises(Denied):
        await store.clusters.enrol(token.hash, make.member("east"), "print")
    clock.advance(1)
    again = make.token("east", secret=b"2")
    await store.tokens.issue(again)
    await store.clusters.enrol(again.hash, make.member("east", root=b"new root"), "new print")
    with pytest.raises(Denied):  # the old token does not speak for the new membership
        await store.clusters.enrol(token.hash, make.member("east"), "print")
    assert store.clusters.all()["east"].bundle.roots == (b"new root",)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        ("unknown", "token_unknown"),
        ("foreign", "token_foreign"),
        ("revoked", "token_revoked"),
        ("expired", "token_expired"),
        ("replaced", "token_revoked"),
    ],
)
async def test_tokens_that_do_not_admit(store: Store, make: Any, clock: FakeClock, spoil: str, code: str) -> None:
    token = make.token("west" if spoil == "foreign" else "east", seconds=10)
    if spoil != "unknown":
        await store.tokens.issue(token)
    if spoil == "revoked":
        assert await store.tokens.revoke("east") == 1
    elif spoil == "expired":
        clock.advance(10)
    elif spoil == "replaced":
        await store.tokens.issue(make.token("east", secret=b"2"))
    with pytest.raises(Denied) as caught:
        await store.clusters.enrol(token.hash, make.member("east"), "print")
    assert caught.value.error_code == code
    assert not store.clusters.all()


async def test_a_taken_name_gets_no_token_and_no_second_member(store: Store, make: Any) -> None:
    token = make.token("east")
    await store.tokens.issue(token)
    await store.clusters.enrol(token.hash, make.member("east"), "print")
    with pytest.raises(AlreadyExists):
        await store.tokens.issue(make.token("east", secret=b"2"))


async def test_revoking_counts_only_what_could_be_used(store: Store, make: Any, clock: FakeClock) -> None:
    await store.tokens.issue(make.token("east", seconds=10))
    clock.advance(11)
    assert await store.tokens.revoke("east") == 0
    assert await store.tokens.revoke("nobody") == 0


async def test_old_tokens_are_forgotten(store: Store, make: Any, clock: FakeClock) -> None:
    await store.tokens.issue(make.token("east"))
    clock.advance(901 + KEEP_TOKENS_NS / 1e9)
    fresh = make.token("west", secret=b"2")
    await store.tokens.issue(fresh)
    assert list(store.tokens.all()) == [fresh.hash]


async def test_links_need_both_ends_and_keep_their_birthday(store: Store, make: Any, clock: FakeClock) -> None:
    await make.joined(store, "east")
    with pytest.raises(NotFound):
        await store.links.put(make.link())
    await make.joined(store, "west")
    first = await store.links.put(make.link())
    clock.advance(5)
    changed = await store.links.put(make.link(grants=()))
    assert changed.link == replace(first.link, grants=())
    assert dict(store.links.all()) == {"east/west": changed}
    assert await store.links.remove("east/west") == changed
    with pytest.raises(NotFound) as caught:
        await store.links.remove("east/west")
    assert caught.value.error_code == "link_unknown"


async def test_who_leaves_takes_links_and_unused_tokens_along(store: Store, make: Any) -> None:
    await make.joined(store, "east", "west", "edge")
    await store.links.put(make.link("east", "west"))
    await store.links.put(make.link("edge", "west"))
    cut = await store.clusters.remove("east")
    assert [e.link.name for e in cut] == ["east/west"]
    assert list(store.links.all()) == ["edge/west"]
    assert list(store.clusters.all()) == ["edge", "west"]
    with pytest.raises(NotFound):
        await store.clusters.remove("east")


async def test_bundles_only_rise(store: Store, make: Any) -> None:
    await make.joined(store, "east")
    second = Bundle(trust_domain="east.demo.test", sequence=2, roots=(b"r1", b"r2"), signature=b"s")
    await store.clusters.set_bundle("east", second)
    await store.clusters.set_bundle("east", second)
    with pytest.raises(Conflict):
        await store.clusters.set_bundle("east", replace(second, roots=(b"evil",)))
    assert store.clusters.all()["east"].bundle == second
    with pytest.raises(NotFound):
        await store.clusters.set_bundle("west", second)


async def test_epochs_only_rise(store: Store, make: Any) -> None:
    await make.joined(store, "east")
    for epoch in (5, 9, 7):
        await store.clusters.raise_epoch("east", epoch)
    assert store.clusters.all()["east"].epoch == 9


async def rejoin(store: Store, make: Any, name: str = "east") -> int:
    """Let `name` join again; returns the epoch that it has to exceed."""
    await make.joined(store, name)
    return store.clusters.all()[name].epoch


async def test_epochs_outlive_the_membership(store: Store, make: Any) -> None:
    await make.joined(store, "east", "west")
    await store.clusters.raise_epoch("east", 9)
    await store.clusters.remove("east")
    assert await rejoin(store, make) == 9
    await store.clusters.remove("east")  # it never reported this time
    assert await rejoin(store, make) == 9
    await store.clusters.raise_epoch("east", 11)
    await store.clusters.remove("east")
    assert await rejoin(store, make) == 11
    assert store.clusters.all()["west"].epoch == 0


async def test_an_epoch_that_is_kept_after_its_cluster_left_still_counts(store: Store, make: Any) -> None:
    await make.joined(store, "east")
    await store.clusters.remove("east")
    for epoch in (9, 7):
        await store.clusters.raise_epoch("east", epoch)
    assert await rejoin(store, make) == 9
    with pytest.raises(NotFound):
        await store.clusters.raise_epoch("west", 1)


async def test_a_retry_of_a_join_is_told_the_same_epoch(store: Store, make: Any) -> None:
    await make.joined(store, "east")
    await store.clusters.raise_epoch("east", 9)
    await store.clusters.remove("east")
    token = make.token("east", secret=b"again")
    await store.tokens.issue(token)
    for _ in range(2):
        assert (await store.clusters.enrol(token.hash, make.member("east"), "print")).epoch == 9


async def test_no_cluster_uses_up_the_epochs_of_its_name(store: Store, make: Any) -> None:
    await make.joined(store, "east")
    await store.clusters.raise_epoch("east", MAX_EPOCH)
    await store.clusters.remove("east")
    await store.clusters.raise_epoch("east", MAX_EPOCH)
    assert await rejoin(store, make) == MAX_FLOOR < MAX_EPOCH


async def test_only_so_many_names_are_remembered(
    store: Store, make: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "KEEP_DEPARTED", 2)
    names = ("east", "west", "edge")
    await make.joined(store, *names)
    for name in names:
        await store.clusters.raise_epoch(name, 9)
    for name in names:
        clock.advance(1)
        await store.clusters.remove(name)
    assert [await rejoin(store, make, name) for name in names] == [0, 9, 9]


async def test_listeners_hear_of_each_change_before_the_write_returns(store: Store, make: Any) -> None:
    heard: list[Change] = []
    store.subscribe(heard.append)
    await make.joined(store, "east", "west")
    assert heard == [Change(clusters=frozenset({"east"})), Change(clusters=frozenset({"west"}))]
    await store.links.put(make.link())
    assert heard[2:] == [Change(links=frozenset({"east/west"}))]
    await store.links.put(make.link())  # nothing new
    assert len(heard) == 3
    await store.clusters.remove("west")
    assert heard[3:] == [Change(clusters=frozenset({"west"}), links=frozenset({"east/west"}))]


async def test_a_picture_does_not_change_under_its_reader(store: Store, make: Any) -> None:
    before = store.clusters.all()
    await make.joined(store, "east")
    assert not before
    with pytest.raises(TypeError):
        store.clusters.all()["west"] = make.member("west")  # type: ignore[index]


async def test_a_write_whose_caller_went_away_is_whole(store: Store, make: Any) -> None:
    token = make.token("east")
    await store.tokens.issue(token)
    task = asyncio.ensure_future(store.clusters.enrol(token.hash, make.member("east"), "print"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    # A retry finds the one or the other, never half of it.
    await store.clusters.enrol(token.hash, make.member("east"), "print")
    assert store.tokens.all()[token.hash].redeemed_by == "print"
