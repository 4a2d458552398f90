"""The redirect way, whole: a network namespace with rule, sidecar and Envoy inside, and one listener for all calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytestmark = pytest.mark.integration

LOOK_UP = """
import sys, dns.message, dns.query
reply = dns.query.udp(dns.message.make_query(sys.argv[1], "A"), "127.0.0.1", port=int(sys.argv[2]), timeout=5)
print(*[item.address for rrset in reply.answer for item in rrset])
"""

GET = """
import sys, http.client
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=10)
connection.request("GET", "/", headers={"host": sys.argv[3]})
reply = connection.getresponse()
print(reply.status, reply.read().decode())
"""

SAY = """
import sys, socket
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
    connection.sendall(b"x\\n")
    print(connection.recv(100).decode().strip())
"""

RULES = """
import subprocess
print(subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout)
"""


async def test_one_listener_catches_every_call_and_asks_for_its_cluster(world: Any, shop: Any) -> None:
    space = world.namespace()
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
    port = str(sidecar.ports["dns"])

    async def inside(code: str, *arguments: str) -> str:
        return str(await asyncio.to_thread(space.python, code, *arguments)).strip()

    echo = await inside(LOOK_UP, "echo.shop.global", port)
    database = await inside(LOOK_UP, "db.shop.global", port)
    assert echo.startswith("240.7")  # HTTP has the upper half of the range
    assert database.startswith("240.6") or database.startswith("240.7")
    assert echo != database
    assert await inside(GET, echo, "80", "echo.shop.global") == "200 west-1"
    assert (await inside(GET, echo, "80", "other.shop.global")).startswith("421 ")
    assert await inside(SAY, database, "5432") == "west-db x"

    # Without a look-up: the addresses are known from the last run, and Envoy asks for their clusters.
    await shop.until(lambda: (sidecar.state / "addresses").exists() and (sidecar.state / "view").exists())
    await west.stop()
    assert await sidecar.stop() == 0
    assert "240.64" not in await inside(RULES)
    sidecar.start()
    await sidecar.ready()
    assert await inside(SAY, database, "5432") == "west-db x"
    assert await inside(GET, echo, "80", "echo.shop.global") == "200 west-1"
