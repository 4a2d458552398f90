"""What the agent is told of a VM's services."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clusters.waiting import until
from federation import log
from federation.aio.clock import FakeClock
from federation.model.service import AppProtocol, Locality
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2 as records
from federation.registry.edge.problems import Problems
from sidecar.vm.registrar import Registrar, own_address

TEXT = """
services:
- name: db
  namespace: shop
  ports:
  - {port: 5432, name: sql, target: 15432}
  - {port: 53, name: dns, protocol: UDP}
  export: {consumers: "west:5432"}
  labels: {tier: gold}
- name: web
  namespace: shop
  address: 192.0.2.7
  ports: [{port: 80, app: http}]
  checks: [{script: {command: [/no/such/program]}, failures: 1}]
"""


class Vm:
    def __init__(self, folder: Path) -> None:
        self.path, self.clock, self.agent, self.changes = folder / "services.yaml", FakeClock(), "127.0.0.1:7445", 0
        self.problems = Problems(clock=self.clock, log=log.get("test"), on_change=lambda: None)
        self.folder, self.listening = folder, False

    def registrar(self, *, inbound: int | None = None) -> Registrar:
        def changed() -> None:
            self.changes += 1

        return Registrar(
            self.path,
            kept=self.folder / "kept",
            agent=lambda: self.agent,
            inbound_port=inbound,
            listening=lambda: self.listening,
            locality=Locality("eu", "eu-1"),
            problems=self.problems,
            on_change=changed,
            clock=self.clock,
            log=log.get("test"),
        )

    async def turn(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return Vm(tmp_path)


async def test_services_as_the_agent_hears_of_them(vm: Vm) -> None:
    vm.path.write_text(TEXT)
    registrar = vm.registrar()
    assert registrar.workloads() is None, "nothing is known yet"
    registrar.start()
    await registrar.locate()
    said = registrar.workloads()
    assert said is not None
    db, web = said.items
    assert db == pb.Workload(
        namespace="shop",
        name="db",
        ports=[
            records.Port(name="sql", port=5432, protocol=records.TCP),
            records.Port(name="dns", port=53, protocol=records.UDP),
        ],
        targets={5432: 15432, 53: 53},
        address="127.0.0.1",
        locality=records.Locality(region="eu", zone="eu-1"),
        ready=True,
        exported=True,
        grants=[records.Grant(consumer="west", ports=[5432])],
        labels={"tier": "gold"},
    )
    assert (web.address, web.ready, web.exported, web.ports[0].app) == ("192.0.2.7", False, False, records.HTTP)


async def test_by_mutual_tls_callers_come_to_the_inbound_port(vm: Vm) -> None:
    vm.path.write_text(TEXT)
    registrar = vm.registrar(inbound=15006)
    registrar.start()
    await registrar.locate()
    said = registrar.workloads()
    assert said is not None
    db = said.items[0]
    assert (db.secure, dict(db.targets), db.ready) == (True, {5432: 15006, 53: 53}, False)
    assert [(str(w.name), w.port, w.app, w.address, w.target) for w in registrar.served()] == [
        ("shop/db", 5432, AppProtocol.OPAQUE, "127.0.0.1", 15432),
        ("shop/web", 80, AppProtocol.HTTP, "127.0.0.1", 80),
    ]
    assert vm.registrar().served() == ()

    task = asyncio.create_task(registrar.run(), name="registrar")
    for listening in (True, False):  # Envoy comes, and goes
        vm.listening = listening
        await vm.turn(0.3)
        said = registrar.workloads()
        assert said is not None
        assert said.items[0].ready is listening
    task.cancel()
    await asyncio.wait({task})


async def test_a_file_that_was_never_read_takes_nothing_back(vm: Vm) -> None:
    registrar = vm.registrar()
    registrar.start()
    await registrar.locate()
    assert registrar.workloads() is None
    vm.path.write_text("services: []")
    registrar = vm.registrar()
    registrar.start()
    await registrar.locate()
    said = registrar.workloads()
    assert said is not None
    assert list(said.items) == []


async def test_draining_is_told(vm: Vm) -> None:
    vm.path.write_text(TEXT)
    registrar = vm.registrar()
    registrar.start()
    await registrar.locate()
    assert registrar.drain()
    assert vm.changes == 1
    said = registrar.workloads()
    assert said is not None
    assert [w.draining for w in said.items] == [True, True]
    vm.path.write_text("services: []")
    empty = vm.registrar()
    empty.start()
    assert not empty.drain(), "nobody calls it"


async def test_a_machine_that_moves_says_so(vm: Vm) -> None:
    """The address is the one from which the agent is reached; here the agent moves to the other family."""
    vm.path.write_text(TEXT)
    vm.agent = "[::1]:7445"
    registrar = vm.registrar()
    registrar.start()
    await registrar.locate()
    said = registrar.workloads()
    assert said is not None
    assert [w.address for w in said.items] == ["::1", "192.0.2.7"]
    task = asyncio.create_task(registrar.run(), name="registrar")
    await until(lambda: "check_failed" in {p.code for p in vm.problems.all()})
    changes = vm.changes
    vm.agent = "127.0.0.1:7445"
    await vm.turn(5.1)
    await until(lambda: vm.changes > changes)
    said = registrar.workloads()
    assert said is not None
    assert said.items[0].address == "127.0.0.1"
    task.cancel()
    await asyncio.wait({task})
    await registrar.close()


async def test_without_an_address_what_needs_one_waits(vm: Vm) -> None:
    vm.path.write_text(TEXT)
    vm.agent = "nonsense"
    registrar = vm.registrar()
    registrar.start()
    await registrar.locate()
    assert registrar.workloads() is None
    assert [p.code for p in vm.problems.all()] == ["no_address"]
    vm.path.write_text("services: [{name: web, namespace: shop, address: 192.0.2.7, ports: [{port: 80}]}]")
    registrar = vm.registrar()
    registrar.start()
    await registrar.locate()
    said = registrar.workloads()
    assert said is not None
    assert [w.address for w in said.items] == ["192.0.2.7"]


async def test_the_own_address_is_that_of_the_way_to_the_agent() -> None:
    assert await own_address("127.0.0.9:1") == "127.0.0.1"
    with pytest.raises(OSError):
        await own_address("no-such-host.invalid:1")
