"""The same faults on processes as on clusters of containers: east calls west by its name, and is kept from it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

from clusters.faults import NotSupported
from clusters.processes import ProcessFederation
from clusters.processfaults import ProcessFaults
from clusters.program import events
from clusters.separation import Separation
from clusters.topology import EAST, WEST, Topology
from clusters.waiting import START, until_now
from federation.errors import NotFound, Unavailable

pytestmark = pytest.mark.e2e

TWO = Topology.full_mesh("test.isthmus", EAST, WEST)
IN_WEST, IN_EAST = "echo.shop.west.global", "echo.shop.east.global"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessFederation]:
    directory = tmp_path_factory.mktemp("s")
    try:
        apart = Separation(TWO.names, directory, network=True, disks=True, clocks=True)
    except Unavailable as error:
        pytest.skip(str(error))
    federation = ProcessFederation(TWO, directory, separation=apart)
    yield federation
    federation.stop()


@pytest.fixture
def faults(running: ProcessFederation, eventually: Any, east: Any, west: Any) -> Iterator[ProcessFaults]:
    """What a test has broken is healed, and both call each other again."""
    made = ProcessFaults(running)
    yield made
    asyncio.run(made.heal())
    eventually(
        lambda: east.answers(IN_WEST) and west.answers(IN_EAST), what="calls in both directions", seconds=2 * START
    )


async def comes(caller: Any, name: str) -> None:
    """Wait for an answer."""
    await asyncio.to_thread(until_now, lambda: caller.answers(name), what=f"an answer of {name}")


async def stays_away(caller: Any, name: str) -> None:
    """Nothing answers for seconds, and that is no matter of time."""
    assert await asyncio.to_thread(caller.answers, name, timeout=3.0) == ""


def test_both_answer(faults: ProcessFaults, east: Any, west: Any, eventually: Any) -> None:
    eventually(lambda: (east.answers(IN_WEST), west.answers(IN_EAST)) == ("west", "east"), what="answers")


async def test_a_partition_is_of_two_clusters(faults: ProcessFaults, east: Any, west: Any) -> None:
    """What either sends to the other is lost; what is its own is not, and it is undone as a whole."""
    await faults.partition("east", "west")
    await stays_away(east, IN_WEST)
    await stays_away(west, IN_EAST)
    await comes(east, IN_EAST)


async def test_a_partition_one_way(faults: ProcessFaults, east: Any, west: Any) -> None:
    """What west sends is lost: its requests, and its answers to east's."""
    await faults.partition("west", "east", one_way=True)
    await stays_away(west, IN_EAST)
    await stays_away(east, IN_WEST)


async def test_lost_packets(faults: ProcessFaults, east: Any, west: Any) -> None:
    await faults.drop("west", 1.0)
    await stays_away(east, IN_WEST)
    with pytest.raises(NotSupported, match=r"a share of 1\.5 packets"):
        await faults.drop("west", 1.5)


async def test_killed_and_paused(faults: ProcessFaults, running: ProcessFederation, east: Any) -> None:
    await faults.kill("west", "gateway")
    assert not running.running["west-gateway"].alive
    assert running.running["west-agent"].alive
    await stays_away(east, IN_WEST)
    await faults.heal()
    assert running.running["west-gateway"].alive
    await faults.pause("west")
    await stays_away(east, IN_WEST)


async def test_a_full_disk(faults: ProcessFaults, running: ProcessFederation, east: Any) -> None:
    """Nothing can be written in west; east's own disk has room, and calls go on."""
    await faults.disk_full("west")
    full, room = (running.places[name].directory / "more" for name in ("west", "east"))
    with pytest.raises(OSError, match="No space left"):
        full.write_bytes(bytes(4096))
    room.write_bytes(bytes(4096))
    await comes(east, IN_WEST)


async def test_a_clock(faults: ProcessFaults, running: ProcessFederation, eventually: Any) -> None:
    """West's agent believes that it is an hour later, east's does not."""
    await faults.clock("west", 3600)
    # What an agent starts with it logs at once.
    for name in ("west-agent", "east-agent"):
        running.kill(name)
        running.restart(name)
    await running.wait_ready("west-agent", "east-agent")

    def ahead(name: str) -> float:
        """Of what the agent has logged last, against the time at which its log was last written (s)."""
        log = running.directory / "logs" / f"{name}-agent.log"
        told = dt.datetime.fromisoformat(events(log)[-1]["timestamp"]).timestamp()
        return told - log.stat().st_mtime

    assert ahead("west") > 3000
    assert ahead("east") < 60


async def test_what_cannot_be(faults: ProcessFaults, tmp_path: Any) -> None:
    with pytest.raises(NotSupported, match="share its loopback interface"):
        await faults.slow("east", delay=0.1)
    with pytest.raises(NotSupported, match="slow by what"):
        await faults.slow("east")
    with pytest.raises(NotFound, match="no cluster north"):
        await faults.kill("north")
    with pytest.raises(NotFound, match="east has no part etcd"):
        await faults.pause("east", "etcd")
    together = ProcessFaults(ProcessFederation(TWO, tmp_path))
    with pytest.raises(NotSupported, match="whose packet it is nobody sees"):
        await together.partition("east", "west")
    with pytest.raises(NotSupported, match="clock of this machine"):
        await together.clock("east", 60)
