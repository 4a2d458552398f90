"""A machine whose agent goes away, moves, or has two addresses; and one that was off for longer than its identity."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from clusters.namespace import NetworkNamespace
from clusters.network import free_port
from clusters.waiting import START, until
from federation.errors import Unavailable

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


class Wire(NetworkNamespace):
    """A machine's own network, whose address changes."""

    def move(self) -> str:
        """Give the machine another address, by way of which it still reaches the agent's; returns it."""
        net = self.outside.rpartition(".")[0]
        for command in (
            f"ip addr add {net}.5/30 dev {self._link}",
            f"ip -n {self.name} addr del {self.inside}/30 dev {self._link}i",
            f"ip -n {self.name} addr add {net}.6/30 dev {self._link}i",
            f"ip -n {self.name} route add {self.outside}/32 via {net}.5",
        ):
            subprocess.run(command.split(), check=True, capture_output=True, timeout=30)
        return f"{net}.6"


@pytest.fixture
def wire() -> Iterator[Wire]:
    try:
        made = Wire(uplink=True)
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    yield made
    made.close()


async def test_a_machine_that_gets_another_address_is_still_itself(settled: Any, wire: Wire) -> None:
    site = settled
    site.kill()
    listen, door = (f"{wire.outside}:{free_port(wire.outside)}" for _ in range(2))
    site.adjust(listen=listen, vms={"listen": door}, heartbeat=0.5)
    await site.restart()
    vm = await site.invite("nomad")
    vm.space = wire
    vm.start()
    await vm.resolves()
    await until(lambda: site.is_joined("nomad"), seconds=START)
    assert (await site.listed("nomad"))["address"] == wire.inside
    moved = wire.move()

    async def there() -> bool:
        shown = await site.listed("nomad")
        return bool(shown["state"] == "joined" and shown["address"] == moved)

    await until(there, seconds=START)
    assert await vm.resolve()
    assert (await site.listed("nomad"))["problems"] == []
    vm.stop()
