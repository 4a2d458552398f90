"""What one origin may claim: the excess is refused, a flood is slowed down, and the others do not notice."""

from __future__ import annotations

from typing import Any

import pytest

from federation.model.record import Kind
from federation.registry.settings import Quotas

pytestmark = pytest.mark.integration


async def test_the_excess_is_refused_record_by_record(make_world: Any, wait: Any) -> None:
    world = make_world(quotas=Quotas(services=3, gateways=1, endpoints=10))
    await world.start()
    try:
        east, west = await world.pair()
        west.put(*(west.service(f"shop/s{i}") for i in range(5)), west.gateway("second"))
        await wait(lambda: len(west.rejections) == 4)
        assert west.codes() == {"quota_exceeded"}
        await wait(lambda: sum(k.kind is Kind.SERVICE for k in east.view) == 3)
        echo = west.service("shop/echo", ready=100)
        before = east.view[echo.key]
        west.put(echo)
        await wait(lambda: len(west.rejections) == 5)
        assert east.view[echo.key] == before  # the last good one stays
        east.put(east.service(ready=3))
        await wait(lambda: not east.rejections and len(west.view) == 4)
        west.log.delete(west.service("shop/s0").key, west.service().version)
        west.put(west.service("shop/again"))
        await wait(lambda: any(k.name == "shop/again" for k in east.view))
        infos = {c.name: c.services for c in await world.operator().clusters()}
        assert infos == {"east": 1, "west": 3}
    finally:
        await world.close()


async def test_a_report_far_above_its_quota_is_cut_off(make_world: Any, wait: Any) -> None:
    world = make_world(quotas=Quotas(services=10, gateways=1))
    await world.start()
    try:
        east, west = await world.pair()
        west.put(*(west.service(f"shop/s{i}") for i in range(3000)))
        await wait(lambda: west.publish.last_error and west.publish.last_error.error_code == "quota_exceeded")
        east.put(east.service(ready=3))
        key = east.service().key
        await wait(lambda: west.view[key].payload == east.service(ready=3).payload)
        assert sum(k.kind is Kind.SERVICE for k in east.view) <= 10
    finally:
        await world.close()


async def test_a_flood_is_slowed_down_and_nothing_is_lost(make_world: Any, wait: Any) -> None:
    world = make_world(quotas=Quotas(burst=20, records_per_second=100))
    await world.start()
    try:
        east, west = await world.pair()
        for start in range(0, 60, 10):
            west.put(*(west.service(f"shop/s{i}") for i in range(start, start + 10)))
            await wait(lambda: True)
        east.put(east.service(ready=3))
        key = east.service().key
        await wait(lambda: west.view[key].payload == east.service(ready=3).payload)
        await wait(lambda: sum(k.kind is Kind.SERVICE for k in east.view) == 61)
        west.put(west.service(ready=9))
        await wait(lambda: "quota_exceeded" in west.codes())
        assert [r.name for r in west.rejections] == ["*"]
        await wait(lambda: east.view[west.service().key].payload == west.service(ready=9).payload)
        assert world.members["west"].publish.connections == 1
    finally:
        await world.close()
