"""A machine whose agent goes away, moves, or has two addresses; and one that was off for longer than its identity."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from clusters.network import free_port
from clusters.waiting import START, until

pytestmark = pytest.mark.integration


def expired(vm: Any) -> bool:
    return bool(vm.grant.not_after < datetime.now(UTC))


async def test_an_identity_that_expired_while_the_agent_was_away_is_renewed_by_the_key_alone(settled: Any) -> None:
    site = settled
    site.kill()
    site.adjust(svid_ttl=4)
    await site.restart()
    running, off = await site.invite("running"), await site.invite("off")
    for vm in (running, off):
        vm.start()
        await vm.resolves()
        (vm.folder / "join.token").unlink()
    off.stop()
    site.kill()
    await until(lambda: expired(running) and expired(off))
    assert await running.resolve(), "it serves from what it has"
    assert not await running.connected()

    # With the agent away it starts all the same.
    off.start()
    await off.resolves()

    site.adjust(svid_ttl=3600)
    await site.restart()
    await until(lambda: site.is_joined("running"), seconds=START)
    await until(lambda: site.is_joined("off"), seconds=START)
    assert not expired(running)
    assert not expired(off)


async def test_an_agent_that_moved_is_found_where_it_said_last(settled: Any) -> None:
    """Two addresses, of which one is dead: in the settings, in what the agent tells, and after it has moved."""
    site = settled
    vm = await site.invite("mover")
    host = site.place.address
    ports = [free_port(host) for _ in range(4)]
    here, there, enrol_here, enrol_there = (f"{host}:{port}" for port in ports)
    site.kill()
    site.adjust(
        listen=here, advertise=[there, here], vms={"listen": enrol_here, "advertise": [enrol_there, enrol_here]}
    )
    await site.restart()
    vm.adjust(agent={"enrolment": [enrol_there, enrol_here], "addresses": [there, here]})
    vm.start()
    await vm.resolves()
    await until(lambda: site.is_joined("mover"))
    assert vm.grant.agent_addresses == (there, here)

    site.kill()
    site.adjust(listen=there, vms={"listen": enrol_there, "advertise": [enrol_there, enrol_here]})
    vm.stop()
    vm.adjust(agent={"enrolment": [enrol_here], "addresses": [here]})  # what the settings know is old
    vm.start()
    await vm.resolves()
    await site.restart()
    await until(lambda: site.is_joined("mover"), seconds=START)


async def test_an_agent_that_moved_without_a_word_is_found_by_its_enrolment_port(settled: Any) -> None:
    """Its Catalog is elsewhere than it ever said: where machines are let in, it tells."""
    site = settled
    vm = await site.invite("seeker")
    vm.start()
    await vm.resolves()
    await until(lambda: site.is_joined("seeker"))
    site.kill()
    moved = f"{site.place.address}:{free_port(site.place.address)}"
    site.adjust(listen=moved)
    await site.restart()
    await until(lambda: site.is_joined("seeker"), seconds=START)
    await until(lambda: asyncio.to_thread(lambda: vm.grant.addresses == (moved,)))
