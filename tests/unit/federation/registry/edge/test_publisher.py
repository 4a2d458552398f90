"""One push in flight, the first at once, tickets and revisions that only rise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clusters.waiting import until
from federation import log
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.errors import InvalidInput
from federation.registry.edge.publisher import Built, Publisher


class FakeServer:
    """Remembers what was published; acknowledges when told."""

    def __init__(self) -> None:
        self.acked: Latest[int] = Latest(0)
        self.connected = True
        self.published: list[Any] = []

    def publish(self, snapshot: Any) -> int:
        self.published.append(snapshot)
        return len(self.published)

    def acknowledge(self) -> None:
        self.acked.set(len(self.published))


class Rig:
    def __init__(self) -> None:
        self.server = FakeServer()
        self.state = 0
        self.fail = False
        self.told: list[tuple[str, int]] = []
        self.failures: list[str | None] = []
        self.history = "h"
        self.publisher = Publisher(
            build=self.build,
            server=self.server,
            on_acknowledged=lambda history, revision: self.told.append((history, revision)),
            on_failure=self.failures.append,
            log=log.get("test"),
            in_flight_limit=0.2,
        )

    def build(self) -> Built:
        if self.fail:
            raise InvalidInput("cannot build")
        return Built(self.state, self.state, self.history)  # type: ignore[arg-type]

    def change(self) -> int:
        self.state += 1
        return self.publisher.poke()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    task = asyncio.create_task(rig.publisher.run(), name="publisher")
    yield rig
    await cancel(task)


async def turns(n: int = 10) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_the_first_change_goes_out_at_once_and_the_next_coalesce(rig: Rig) -> None:
    rig.change()
    await turns()
    assert rig.server.published == [1]
    rig.change()
    await turns()
    rig.change()
    await turns()
    assert rig.server.published == [1]  # in flight
    rig.server.acknowledge()
    await turns()
    assert rig.server.published == [1, 3]


async def test_what_somebody_waits_for_does_not_wait_for_what_is_in_flight(rig: Rig) -> None:
    rig.change()
    await turns()
    rig.state += 1
    rig.publisher.poke(urgent=True)
    await turns()
    assert rig.server.published == [1, 2]
    rig.change()
    await turns()
    assert rig.server.published == [1, 2]  # the urgent one is in flight now
    rig.server.acknowledge()
    await turns()
    assert rig.server.published == [1, 2, 3]


async def test_changes_of_one_turn_share_a_push(rig: Rig) -> None:
    for _ in range(5):
        rig.change()
    await turns()
    assert rig.server.published == [5]


async def test_a_push_that_is_never_acknowledged_holds_the_next_only_for_a_while(rig: Rig) -> None:
    rig.change()
    await turns()
    rig.change()
    await until(lambda: rig.server.published == [1, 2])
    assert rig.told == []


async def test_nothing_waits_for_an_envoy_that_is_not_there(rig: Rig) -> None:
    rig.server.connected = False
    rig.change()
    await turns()
    rig.change()
    await turns()
    assert rig.server.published == [1, 2]


async def test_revisions_are_told_after_the_acknowledgement_and_only_rise(rig: Rig) -> None:
    rig.change()
    await turns()
    assert rig.told == []
    rig.server.acknowledge()
    await turns()
    rig.publisher.poke()  # another cause, the same revision
    await turns()
    rig.server.acknowledge()
    await turns()
    assert rig.told == [("h", 1)]
    rig.history, rig.state = "other", 0
    rig.publisher.poke()
    await turns()
    rig.server.acknowledge()
    await turns()
    assert rig.told == [("h", 1), ("other", 0)]


async def test_wait_ends_with_the_acknowledgement_of_its_ticket(rig: Rig) -> None:
    ticket = rig.change()
    assert not await rig.publisher.wait(ticket, limit=0.01)
    rig.server.acknowledge()
    assert await rig.publisher.wait(ticket, limit=1)


async def test_a_failed_build_keeps_the_last_and_says_so(rig: Rig) -> None:
    rig.fail = True
    rig.change()
    await turns()
    assert rig.server.published == []
    assert rig.failures == ["cannot build"]
    rig.fail = False
    rig.change()
    await turns()
    assert rig.server.published == [2]
    assert rig.failures[-1] is None
