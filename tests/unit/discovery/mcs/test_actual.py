"""What there is of each name, told by lists, watches and the answers to writes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from discovery.mcs.actual import Actuals
from discovery.mcs.desired import Desired, LocalGateway, Site, derived_name, derived_service, service_import, slices
from discovery.mcs.held import Kind, read
from federation import log
from federation.aio.clock import FakeClock
from federation.aio.tasks import cancel
from federation.model.ids import ServiceName

ECHO = ServiceName("shop", "echo")
SITE = Site(gateways=(LocalGateway("10.1.0.1"),))


@pytest.fixture
def world(server: Any, imported: Any) -> SimpleNamespace:
    """Objects of one import at the server, and Actuals that have not begun."""
    made = SimpleNamespace(server=server, clock=FakeClock(), changed=[], services=[])
    made.actuals = Actuals(
        server,
        on_change=lambda names: made.changed.extend(names),
        on_service=lambda name, held: made.services.append((name, held.ips)),
        clock=made.clock,
        rng=random.Random(1),
        log=log.get("test"),
        lists=asyncio.Semaphore(1),
    )
    desired = Desired(name=ECHO, import_=imported(), ports={80: 10_080})
    for wanted in (
        service_import(imported(), SITE),
        derived_service(imported(), desired, SITE, owner="u"),
        *slices(imported(), desired, SITE, owner="u"),
    ):
        body = {**wanted.body, "metadata": {**wanted.body["metadata"], "uid": "u", "resourceVersion": "0"}}
        server.objects[(wanted.kind.value, "shop", wanted.name)] = body
    server.edit("Service", derived_name(ECHO), lambda o: o["spec"].update(clusterIPs=["10.96.0.7"]))
    return made


async def turn() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


@pytest.fixture
async def running(world: SimpleNamespace) -> AsyncIterator[SimpleNamespace]:
    task = asyncio.create_task(world.actuals.run(), name="actuals")
    await asyncio.wait_for(world.actuals.synced(), 10)
    await turn()
    yield world
    await cancel(task)


async def test_what_is_listed_belongs_to_its_name(running: SimpleNamespace) -> None:
    found = running.actuals.of(ECHO)
    assert found.import_.name == "echo"
    assert found.service.ips == ("10.96.0.7",)
    assert list(found.slices) == [f"{derived_name(ECHO)}-west-ipv4"]
    assert running.actuals.names() == {ECHO}
    assert (ECHO, ("10.96.0.7",)) in running.services
    assert running.actuals.version == "v1beta1"


async def test_a_slice_that_changes_its_service_is_news_to_both(running: SimpleNamespace) -> None:
    running.changed.clear()
    label = {"multicluster.kubernetes.io/service-name": "other"}
    name = f"{derived_name(ECHO)}-west-ipv4"
    running.server.edit("EndpointSlice", name, lambda o: o["metadata"]["labels"].update(label))
    await turn()
    assert set(running.changed) == {ECHO, ServiceName("shop", "other")}
    assert not running.actuals.of(ECHO).slices
    running.server.remove("EndpointSlice", name)
    await turn()
    assert not running.actuals.of(ServiceName("shop", "other")).slices


async def test_the_watch_of_an_own_write_is_no_news(running: SimpleNamespace) -> None:
    found = running.server.objects[("ServiceImport", "shop", "echo")]
    running.server.edit("ServiceImport", "echo", lambda o: o["spec"].update(ports=[]))
    answer = read(Kind.IMPORT, json.dumps(found).encode())
    running.actuals.wrote(answer)
    running.changed.clear()
    await turn()
    assert running.changed == []
    assert running.actuals.of(ECHO).import_ == answer


async def test_an_answer_that_comes_after_the_end_brings_nothing_back(running: SimpleNamespace) -> None:
    held = running.actuals.of(ECHO).import_
    running.server.remove("ServiceImport", "echo")
    await turn()
    running.actuals.wrote(held)
    assert running.actuals.of(ECHO).import_ is None
    running.actuals.gone(Kind.SERVICE, "shop", derived_name(ECHO))
    assert running.actuals.of(ECHO).service is None


async def test_the_version_is_that_which_is_served(world: SimpleNamespace) -> None:
    world.server.versions = {"v1alpha1": frozenset({"serviceimports"})}
    task = asyncio.create_task(world.actuals.run(), name="actuals")
    await asyncio.wait_for(world.actuals.synced(), 10)
    assert world.actuals.version == "v1alpha1"
    await cancel(task)


async def test_without_the_definitions_nothing_is_complete_and_it_is_said(world: SimpleNamespace) -> None:
    versions, world.server.versions = world.server.versions, {}
    task = asyncio.create_task(world.actuals.run(), name="actuals")
    await turn()
    (problem,) = world.actuals.problems()
    assert "CRDs" in problem.detail
    world.server.versions = versions
    world.clock.advance(10)
    await asyncio.wait_for(world.actuals.synced(), 10)
    await turn()
    assert not list(world.actuals.problems())
    await cancel(task)
