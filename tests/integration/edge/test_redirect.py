"""The redirect way, whole: a network namespace with rule, sidecar and Envoy inside, and one listener for all calls."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.integration

RULES = """
import subprocess
print(subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout)
"""


async def test_one_listener_catches_every_call_and_asks_for_its_cluster(world: Any, shop: Any) -> None:
    space = world.space()
    west = await world.agent("west", host=space.outside)
    shop.link(west)
    http = await world.http_echo("west-1", space.outside)
    tcp = await world.tcp_echo("west-db", space.outside)
    west.put_import(
        shop.imported(shop.echo, shop.http, shop.backend("west", shop.http, local=http, host=space.outside))
    )
    west.put_import(
        shop.imported(shop.db, shop.opaque, shop.backend("west", shop.opaque, local=tcp, host=space.outside))
    )
    sidecar = world.sidecar(west, wrap=space.wrap, way="redirect", intercept=True)
    await sidecar.ready()

    echo = await space.look_up(sidecar, "echo.shop.global")
    database = await space.look_up(sidecar, "db.shop.global")
    assert echo.startswith("240.7")  # HTTP has the upper half of the range
    assert database.startswith("240.6") or database.startswith("240.7")
    assert echo != database
    assert await space.get(echo, 80, "echo.shop.global") == "200 west-1"
    assert (await space.get(echo, 80, "other.shop.global")).startswith("421 ")
    assert await space.say(database, 5432) == "west-db x"

    # Without a look-up: the addresses are known from the last run, and Envoy asks for their clusters.
    await shop.until(lambda: (sidecar.state / "addresses").exists() and (sidecar.state / "view").exists())
    await west.stop()
    assert await sidecar.stop() == 0
    assert "240.64" not in await space.run(RULES)
    sidecar.start()
    await sidecar.ready()
    assert await space.say(database, 5432) == "west-db x"
    assert await space.get(echo, 80, "echo.shop.global") == "200 west-1"
