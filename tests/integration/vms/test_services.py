"""A machine registers its own services by a file; what its checks find is what the cluster sees. Real processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from clusters.network import free_port
from clusters.waiting import ANSWER, START, until
from federation.cli.status import assess, look

pytestmark = pytest.mark.integration

QUICK = {"interval": 0.1, "timeout": 5, "failures": 2}


class Workloads:
    """The programs of a machine: what they answer can be changed."""

    def __init__(self, folder: Path) -> None:
        self.status, self.serving = 200, True
        self.script = folder / "check.sh"
        self.ports: dict[str, int] = {}
        self._servers: list[asyncio.Server] = []
        self._grpc: Any = None

    async def start(self) -> None:
        for name, handler in (("http", self._http), ("tcp", self._tcp)):
            server = await asyncio.start_server(handler, "127.0.0.1", 0)
            self._servers.append(server)
            self.ports[name] = server.sockets[0].getsockname()[1]
        self._grpc = grpc.aio.server()
        health = grpc.unary_unary_rpc_method_handler(self._health)
        self._grpc.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health}),)
        )
        self.ports["grpc"] = self._grpc.add_insecure_port("127.0.0.1:0")
        await self._grpc.start()
        self.say(0)

    def say(self, status: int) -> None:
        """What the script says from now on."""
        beside = self.script.with_suffix(".new")
        beside.write_text(f"#!/bin/sh\necho disk is full\nexit {status}\n")
        beside.chmod(0o755)
        beside.replace(self.script)

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        await self._grpc.stop(1)

    async def end(self, name: str) -> None:
        """Nobody listens there any more."""
        self._servers[("http", "tcp").index(name)].close()

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 %d Whatever\r\ncontent-length: 0\r\n\r\n" % self.status)
            await writer.drain()
        writer.close()

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def _health(self, request: bytes, context: Any) -> bytes:
        return b"\x08\x01" if self.serving and request == b"\x0a\x04shop" else b"\x08\x02"


@pytest.fixture
async def workloads(tmp_path: Path) -> AsyncIterator[Workloads]:
    made = Workloads(tmp_path)
    await made.start()
    yield made
    await made.stop()


def service(name: str, port: int, *checks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "shop",
        "ports": [{"port": 80, "name": "http", "target": port}],
        "address": "127.0.0.1",
        "checks": [{**check, **QUICK} for check in checks],
        **more,
    }


def write(vm: Any, *services: dict[str, Any]) -> None:
    beside = vm.folder / "services.new"
    beside.write_text(yaml.safe_dump({"services": list(services)}))
    beside.replace(vm.folder / "services.yaml")


async def endpoints(site: Any, name: str) -> list[tuple[str, int]]:
    """(source, ready) of the copies of shop/`name`, as `fedctl get endpoints` shows them."""
    found = await site.fedctl("get", "endpoints", "--from", "dc1", "--service", f"shop/{name}")
    return sorted((row["source"], row["ready"]) for row in found)


async def sees(site: Any, name: str, *wanted: tuple[str, int]) -> None:
    async def same() -> bool:
        return await endpoints(site, name) == sorted(wanted)

    await until(same, what=f"{name}: {wanted}")


async def get(client: Any, name: str) -> int:
    """The status of an answer from `name`, called by a workload beside the sidecar of `client`."""
    (address,) = await client.resolve(name)
    async with asyncio.timeout(ANSWER):
        reader, writer = await asyncio.open_connection(address, 80)
        writer.write(f"GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n".encode())
        line = await reader.readline()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return int(line.split()[1])


async def findings(site: Any) -> dict[str, str]:
    """What `fedctl status` finds of each code."""
    return {f.code: f"{f.subject}: {f.detail}" for f in assess(await look(site.processes.home))}


async def lost(site: Any) -> bool:
    """Whether `fedctl status` misses the second machine; the first may have left while the agent was killed."""
    found = assess(await look(site.processes.home))
    return any(f.code == "vm_lost" and "offers-2" in f.subject for f in found)


async def test_what_checks_find_is_what_the_cluster_sees(site: Any, workloads: Workloads) -> None:
    vm = await site.invite("offers-1", "--service", "shop/*")
    vm.adjust(services="services.yaml", drain_seconds=0.1)
    vm.adjust(inbound={"port": free_port(), "address": "127.0.0.1"})
    ports = workloads.ports
    write(
        vm,
        service("web", ports["http"], {"http": {"port": ports["http"], "path": "/healthz"}}, export=True),
        service("db", ports["tcp"], {"tcp": {"port": ports["tcp"]}}, export=True),
        service("api", ports["grpc"], {"grpc": {"port": ports["grpc"], "service": "shop"}}, export=True),
        service("disk", ports["tcp"], {"script": {"command": [str(workloads.script)]}}, export={"consumers": "west"}),
        # exported by nobody, and so seen by nobody; the copy joins what the cluster's own manifests export
        service("echo", ports["http"], ports=[{"port": 8080, "name": "http", "target": ports["http"]}]),
        service("quiet", ports["http"]),
    )
    vm.start()
    up, down = ("vm offers-1", 1), ("vm offers-1", 0)
    for name in ("web", "db", "api", "disk"):
        await sees(site, name, up)
    await sees(site, "echo", up, ("files", 1))
    assert await endpoints(site, "quiet") == []
    listed = await site.fedctl("get", "services")
    assert {s["service"]: s["to"] for s in listed}["shop/disk"] == ["west"]

    client = await site.invite("caller-1")
    client.start()
    await until(lambda: client.asked("/readyz"), seconds=START)
    await client.resolves("web.shop.global")
    assert await get(client, "web.shop.global") == 200
    (copy,) = await site.fedctl("get", "endpoints", "--from", "dc1", "--service", "shop/web")
    assert copy["identity"] == "spiffe://dc1.vm.isthmus/ns/shop/sa/web", "it was reached by mutual TLS"

    workloads.status, workloads.serving = 503, False
    workloads.say(2)
    await workloads.end("tcp")
    for name in ("web", "db", "api", "disk"):
        await sees(site, name, down)
    await until(lambda: _told(site, "check_failed"))
    workloads.status, workloads.serving = 204, True
    workloads.say(1)
    for name in ("web", "api", "disk"):
        await sees(site, name, up)
    assert await endpoints(site, "db") == [down]

    # A migration: what is resolved shows whose share is how large.
    resolved = await site.fedctl("resolve", "echo.shop.global", "--from", "dc1")
    assert sorted((p["source"], p["ready"], p["share"]) for p in resolved["shares"]) == [
        ("files", 1, 50.0),
        ("vm", 1, 50.0),
    ]
    write(vm, service("web", ports["http"], export=True))
    await sees(site, "echo", ("files", 1))
    assert await endpoints(site, "api") == []


async def _told(site: Any, code: str) -> bool:
    return code in await findings(site)


async def test_a_broken_file_and_a_machine_that_is_gone_lose_nothing(settled: Any, workloads: Workloads) -> None:
    site = settled
    site.kill()
    site.adjust(vms={"listen": site.address, "services": {"grace": 3.0}})
    await site.restart()
    vm = await site.invite("offers-2", "--service", "shop/store")
    vm.adjust(services="services.yaml", drain_seconds=0.1)
    web = service("store", workloads.ports["http"], export=True)
    write(vm, web, service("other", workloads.ports["http"], export=True))
    vm.start()
    up, down = ("vm offers-2", 1), ("vm offers-2", 0)
    await sees(site, "store", up)
    await until(lambda: _told(site, "service_denied"))
    assert "VM offers-2 may not register shop/other" in (await findings(site))["service_denied"]
    assert await endpoints(site, "other") == []

    write(vm, {**web, "chekcs": []})
    await until(lambda: _told(site, "services_malformed"))
    said = (await findings(site))["services_malformed"]
    assert "services.yaml:" in said
    assert "chekcs" in said
    assert await endpoints(site, "store") == [up]

    # A restart with the broken file: what was read before counts. An agent that starts knows it from its disk.
    vm.stop(signal.SIGKILL)
    site.kill()
    await site.restart()
    assert await endpoints(site, "store") == [up]
    vm.start()
    await until(vm.connected, seconds=START)
    await sees(site, "store", up)

    # Without a word it is believed for the grace period, then it is not ready, and its name stays.
    vm.stop(signal.SIGKILL)
    await sees(site, "store", down)
    await until(lambda: lost(site))
    write(vm, web)
    vm.start()
    await sees(site, "store", up)

    # A goodbye drains at once.
    vm.stop()
    await sees(site, "store", down)
    assert not await lost(site)
    await site.fedctl("vm", "remove", "offers-2", "--cluster", "dc1")
    await sees(site, "store")
