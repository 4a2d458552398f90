"""A workload that listens on all addresses at the very port of a remote service, and what is restarted beside it.

In a network namespace, as a pod has one: workload, sidecar and Envoy are started and killed in either order, the
workload always gets its port, and the service is always reached.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

pytestmark = pytest.mark.integration

WORKLOAD = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"own")
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("0.0.0.0", 80), Handler)
print("listening", flush=True)
server.serve_forever()
"""
NAME, CLUSTERSET_IP = "echo.shop.global", "242.0.0.7"


def run(command: list[str], given: str | None = None) -> None:
    subprocess.run(command, input=given, text=True, check=True, capture_output=True, timeout=60)


class Pod:
    """One namespace with a sidecar, and a workload that listens on port 80, as the remote shop/echo does."""

    def __init__(self, world: Any, shop: Any) -> None:
        self.world, self.shop = world, shop
        self.space = world.space()
        self._workload: asyncio.subprocess.Process | None = None

    async def open(self) -> None:
        shop, outside = self.shop, self.space.outside
        self.agent = await self.world.agent("west", host=outside)
        shop.link(self.agent)
        http = await self.world.http_echo("remote", outside)
        backend = shop.backend("west", shop.http, local=http, host=outside)
        self.agent.put_import(replace(shop.imported(shop.echo, shop.http, backend), ips=(CLUSTERSET_IP,)))
        # The way through the gateway, as kube-proxy leads it.
        rule = f"ip daddr {CLUSTERSET_IP} tcp dport 80 dnat to {outside}:{http}"
        text = f"table ip services {{\nchain output {{\ntype nat hook output priority -100;\n{rule}\n}}\n}}\n"
        for command, given in (
            (["ip", "-n", self.space.name, "route", "add", "default", "via", outside], None),
            ([*self.space.wrap, "nft", "-f", "-"], text),
        ):
            await asyncio.to_thread(run, command, given)

    async def sidecar(self, **settings: Any) -> None:
        self.process = self.world.sidecar(self.agent, wrap=self.space.wrap, **settings)
        await self.process.ready()

    async def restart_sidecar(self) -> None:
        """As a container that was killed."""
        await self.process.stop(signal.SIGKILL)
        self.process.start()
        await self.process.ready()

    async def start_workload(self) -> None:
        """Raises where its port is taken."""
        self._workload = await asyncio.create_subprocess_exec(
            *self.space.wrap,
            sys.executable,
            "-c",
            WORKLOAD,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._workload.stdout is not None
        line = await asyncio.wait_for(self._workload.stdout.readline(), 30)
        assert line == b"listening\n", (await self._workload.communicate())[1].decode()

    async def stop_workload(self) -> None:
        if self._workload is not None:
            self._workload.kill()
            await self._workload.communicate()
            self._workload = None

    async def remote(self) -> str:
        """Where the name leads; the remote service, and no other, answers there."""
        address: str = await self.space.look_up(self.process, NAME)
        assert await self.space.get(address, 80, NAME) == "200 remote"
        return address

    async def own(self) -> None:
        assert await self.space.get("127.0.0.1", 80, "localhost") == "200 own"


@pytest.fixture
async def pod(world: Any, shop: Any) -> Any:
    made = Pod(world, shop)
    await made.open()
    yield made
    await made.stop_workload()


async def test_the_redirect_way_takes_no_port(pod: Pod) -> None:
    # As the init container does it.
    await asyncio.to_thread(run, [*pod.space.wrap, sys.executable, "-m", "sidecar.intercept"])
    await pod.sidecar(way="redirect")
    address = await pod.remote()
    assert address.startswith("240.")
    await pod.start_workload()  # the second: it finds its port
    await pod.own()
    assert await pod.remote() == address
    await pod.stop_workload()
    await pod.restart_sidecar()  # while the workload is away
    assert await pod.remote() == address
    await pod.start_workload()
    await pod.restart_sidecar()  # beside the workload
    assert await pod.remote() == address
    await pod.own()


async def test_the_loopback_way_takes_no_port_that_the_workload_declares(pod: Pod) -> None:
    await pod.sidecar(listens=[80])
    assert await pod.remote() == CLUSTERSET_IP  # before the workload has begun
    await pod.start_workload()
    assert await pod.remote() == CLUSTERSET_IP
    await pod.own()
    await pod.stop_workload()
    await pod.restart_sidecar()
    assert await pod.remote() == CLUSTERSET_IP
    await pod.start_workload()
    await pod.own()


async def test_the_loopback_way_remembers_a_port_that_was_held(pod: Pod, shop: Any) -> None:
    await pod.start_workload()
    await pod.sidecar()
    assert await pod.remote() == CLUSTERSET_IP
    await pod.stop_workload()
    end = time.monotonic() + 5.0  # proves an absence, for longer than it takes to see that the port is free
    while time.monotonic() < end:
        assert await pod.remote() == CLUSTERSET_IP
    await pod.start_workload()
    await pod.own()
    await pod.stop_workload()
    # Both are away; the sidecar comes back first, and knows it from the run before.
    await shop.until(lambda: (pod.process.state / "ports").exists())
    await pod.restart_sidecar()
    assert await pod.remote() == CLUSTERSET_IP
    await pod.start_workload()
    await pod.own()
