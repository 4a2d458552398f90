"""Where the agent is dialled, and what a kept identity is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from federation.aio.clock import SystemClock
from federation.errors import Unavailable
from federation.model.ids import SpiffeId
from federation.registry.edge.keys import Addresses, Keys
from federation.registry.edge.problems import Problems
from federation.trust.authority import Authority
from federation.trust.workload import Grant

CLOCK = SystemClock()
TD = "dc1.fed.test"


@pytest.fixture
def grant(tmp_path: Path) -> Grant:
    authority = Authority.open(tmp_path / "keys", trust_domain=TD, clock=CLOCK)
    return Grant(
        svid=authority.issue_with_key(spiffe_id=SpiffeId.workload(TD, "shop", "web")),
        bundle=authority.bundle,
        agent_address="a:1",
        federation="fed.test",
        cluster="dc1",
        agent_addresses=("a:1", "b:1"),
    )


def test_addresses_are_taken_in_turn_until_one_answers(grant: Grant) -> None:
    addresses = Addresses(["c:1", "b:1"])
    assert [addresses.next(grant, None) for _ in range(4)] == ["a:1", "b:1", "c:1", "a:1"]
    addresses.next(grant, None)
    assert addresses.next(grant, 7.0) == "b:1", "it was heard there: once more"
    assert addresses.next(grant, 8.0) == "b:1"
    assert addresses.next(grant, 8.0) == "c:1", "and not again since"


def test_an_agent_that_says_other_addresses_is_dialled_there_at_once(grant: Grant) -> None:
    addresses = Addresses()
    assert addresses.next(grant, None) == "a:1"
    assert addresses.next(replace(grant, agent_addresses=("x:1",)), None) == "x:1"


def test_what_an_older_agent_gave_has_one_address(grant: Grant) -> None:
    old = replace(grant, agent_addresses=())
    assert old.addresses == ("a:1",)
    assert [Addresses().next(old, None) for _ in range(2)] == ["a:1", "a:1"]


class Giver:
    """An agent that is away, or gives the same grant each time."""

    def __init__(self, gives: Grant | None, *, ours: bool = True) -> None:
        self._gives, self._ours = gives, ours
        self.held: list[Grant | None] = []

    def ours(self, grant: Grant) -> bool:
        return self._ours

    async def fetch(self, held: Grant | None) -> Grant:
        self.held.append(held)
        if self._gives is None:
            raise Unavailable("nobody there")
        return self._gives


def keys(giver: Giver, path: Path, account: str = "web") -> Keys:
    log = structlog.get_logger()
    problems = Problems(clock=CLOCK, log=log, on_change=lambda: None)
    return Keys(giver, path=path, namespace="shop", account=account, clock=CLOCK, log=log, problems=problems)


async def test_what_is_kept_is_used_and_told_to_who_gives_the_next(grant: Grant, tmp_path: Path) -> None:
    path = tmp_path / "state" / "identity"
    grant.save(path)
    away = Giver(None)
    one = keys(away, path)
    assert (await one.open()).current == grant
    with pytest.raises(Unavailable):
        await one.fetch()
    assert away.held == [grant]


@pytest.mark.parametrize(("ours", "account"), [(False, "web"), (True, "other")])
async def test_what_was_kept_of_others_is_not_used(grant: Grant, tmp_path: Path, ours: bool, account: str) -> None:
    path = tmp_path / "state" / "identity"
    replace(grant, agent_address="old:1", agent_addresses=()).save(path)
    giver = Giver(grant, ours=ours)
    assert (await keys(giver, path, account).open()).current == grant
    assert giver.held == [None]
    assert Grant.load(path) == grant
