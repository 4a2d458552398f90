"""Two clusters without the rest of the federation: agents that are told what to say, and real edge processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import grpc
import pytest
import yaml

from clusters.namespace import NetworkNamespace
from clusters.network import free_port, virtual_ranges
from clusters.waiting import ANSWER, DEADLINE, START, until
from discovery.identity.allow import AllowTable
from discovery.identity.server import IdentityServer
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.launch import die_with_parent
from federation.catalog.log import Log
from federation.errors import Unavailable
from federation.model.cluster import Peer
from federation.model.ids import SYSTEM_NAMESPACE, ServiceName, SpiffeId
from federation.model.record import Key, Kind, Origin, OriginState, Record, Version
from federation.model.service import AppProtocol, Backend, Endpoint, Export, Grant, Import, Locality, Port, Readiness
from federation.model.wire import encode_export, encode_import, encode_peer
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry.watch import SERVER_OPTIONS, CatalogServicer, Offer
from federation.trust.authority import Authority
from federation.trust.grpc_credentials import agent_server_name, server_credentials

FEDERATION = "test.isthmus"


class Agent:
    """One cluster's agent as far as its gateway and sidecars see it."""

    def __init__(self, cluster: str, directory: Path, *, ttl: float = 3600.0, host: str = "127.0.0.1") -> None:
        self.cluster, self.directory = cluster, directory
        self.trust_domain = f"{cluster}.{FEDERATION}"
        directory.mkdir(parents=True, exist_ok=True)
        self.clock = SystemClock()
        self.authority = Authority.open(directory / "authority", trust_domain=self.trust_domain, clock=self.clock)
        self.log = Log(history="h1")
        self.ttl, self.host = ttl, host
        self.sequence = 0
        self.presence: dict[str, pb.Presence] = {}
        self.acks: dict[str, int] = {}
        self.closed: list[str] = []
        self.port = free_port()
        self._server: Any = None
        self._identity: IdentityServer | None = None

    async def start(self) -> None:
        self._identity = IdentityServer(
            self.directory / "identity.sock",
            self.authority,
            allow=AllowTable({os.getuid(): ["*/*", f"{SYSTEM_NAMESPACE}/*"]}),
            federation=FEDERATION,
            cluster=self.cluster,
            agent_addresses=lambda: [f"{self.host}:{self.port}"],
            log=log.get("test-identity"),
            ttl=timedelta(seconds=self.ttl),
        )
        await self._identity.start()
        svid = self.authority.issue_with_key(
            spiffe_id=SpiffeId.workload(self.trust_domain, SYSTEM_NAMESPACE, "agent"),
            ttl=timedelta(hours=1),
            dns_names=[agent_server_name(self.trust_domain)],
        )
        server = grpc.aio.server(options=list(SERVER_OPTIONS))
        self.servicer = CatalogServicer(offer=self._offer, heartbeat=1.0)
        self.servicer.add_to(server)
        credentials = server_credentials(lambda: (svid, [self.authority.bundle]))
        assert server.add_secure_port(f"{self.host}:{self.port}", credentials)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """As if it was killed."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None
        if self._identity is not None:
            await self._identity.close()
            self._identity = None

    async def _offer(self, context: Any) -> Offer:
        seen: list[str] = []

        def on_presence(presence: pb.Presence) -> None:
            seen[:] = [presence.name]
            self.presence[presence.name] = presence

        def on_ack(ack: pb.Ack) -> None:
            for name in seen:
                self.acks[name] = ack.revision

        return Offer(log=self.log, on_presence=on_presence, on_ack=on_ack, on_close=self.closed.append)

    def put(self, kind: Kind, name: str, payload: bytes | None) -> None:
        self.sequence += 1
        version = Version(1, self.sequence)
        self.log.set_origin(Origin(self.cluster, version, OriginState.LIVE))
        self.log.put([Record(Key(self.cluster, kind, name), version, payload)])

    def put_peer(self, peer: Peer) -> None:
        self.put(Kind.PEER, peer.cluster, encode_peer(replace(peer, own=peer.cluster == self.cluster)))

    def put_import(self, imp: Import) -> None:
        self.put(Kind.IMPORT, str(imp.name), encode_import(imp))

    def put_export(self, export: Export) -> None:
        self.put(Kind.EXPORT, str(export.name), encode_export(export))

    def delete(self, kind: Kind, name: str) -> None:
        self.put(kind, name, None)

    def peer(self, **changes: Any) -> Peer:
        return Peer(cluster=self.cluster, trust_domain=self.trust_domain, bundle=self.authority.bundle, **changes)


class Process:
    """A process of ours as a child."""

    def __init__(self, module: str, directory: Path, settings: dict[str, Any], *, wrap: list[str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.state = directory / "state"
        self.path = directory / "settings.yaml"
        self.path.write_text(yaml.safe_dump({**settings, "state_directory": str(self.state)}))
        self.module, self.wrap = module, wrap
        self.log = directory / "log"
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        (self.state / "ports.json").unlink(missing_ok=True)
        with self.log.open("ab") as log_file:
            self.child = subprocess.Popen(
                die_with_parent([*self.wrap, sys.executable, "-m", self.module, "--settings", str(self.path)]),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
            )

    @property
    def ports(self) -> dict[str, int]:
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, int] = json.loads((self.state / "ports.json").read_text())
            return found
        return {}

    def http(self, path: str) -> tuple[int, str]:
        command = [
            *self.wrap,
            sys.executable,
            "-c",
            "import sys,urllib.request,urllib.error\n"
            "try: r=urllib.request.urlopen(sys.argv[1],timeout=15)\n"
            "except urllib.error.HTTPError as e: r=e\n"
            "print(r.status); print(r.read().decode())",
            f"http://127.0.0.1:{self.ports['metrics']}{path}",
        ]
        if self.wrap:
            done = subprocess.run(command, capture_output=True, text=True, timeout=START, check=True)
            status, _, body = done.stdout.partition("\n")
            return int(status), body
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}{path}", timeout=ANSWER) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def ready(self, limit: float = START) -> None:
        deadline = asyncio.get_running_loop().time() + limit
        detail: object = "no ports.json"
        while True:
            assert self.child is not None
            assert self.child.poll() is None, self.log.read_text()[-4000:]
            if "metrics" in self.ports:
                status, detail = await asyncio.to_thread(self.http, "/readyz")
                if status == 200:
                    return
            assert asyncio.get_running_loop().time() < deadline, f"{detail}\n{self.log.read_text()[-4000:]}"
            await asyncio.sleep(0.05)

    def metric(self, name: str) -> float:
        for line in self.http("/metrics")[1].splitlines():
            if line.startswith(name + " ") or line.startswith(name + "{"):
                return float(line.rpartition(" ")[2])
        raise KeyError(name)

    async def stop(self, number: int = signal.SIGTERM, limit: float = DEADLINE) -> int:
        assert self.child is not None
        if self.child.poll() is None:
            self.child.send_signal(number)
        try:
            return await asyncio.to_thread(self.child.wait, limit)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise

    def lookup(self, name: str, kind: str = "A", *, tcp: bool = False, wait: float = ANSWER) -> dns.message.Message:
        query = dns.message.make_query(name, kind, use_edns=0)
        ask = dns.query.tcp if tcp else dns.query.udp
        return ask(query, "127.0.0.1", port=self.ports["dns"], timeout=wait)

    async def address(self, name: str) -> str:
        """The one A record of `name`."""
        reply = await asyncio.to_thread(self.lookup, name)
        found = [item.address for rrset in reply.answer for item in rrset]
        assert len(found) == 1, reply.to_text() + self.log.read_text()[-3000:]
        return str(found[0])


GET = """
import sys, http.client
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=15)
connection.request("GET", "/", headers={"host": sys.argv[3]})
reply = connection.getresponse()
print(reply.status, reply.read().decode())
"""

SAY = """
import sys, socket
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=15) as connection:
    connection.sendall(b"x\\n")
    print(connection.recv(100).decode().strip())
"""

LOOK_UP = """
import sys, dns.message, dns.query
reply = dns.query.udp(dns.message.make_query(sys.argv[2], "A"), "127.0.0.1", port=int(sys.argv[1]), timeout=15)
print(*[item.address for rrset in reply.answer for item in rrset])
"""


class Space(NetworkNamespace):
    """A network namespace that reaches this one at `outside`, and what a workload in it would do."""

    async def run(self, code: str, *arguments: object) -> str:
        """What `code` prints, run inside."""
        return (await asyncio.to_thread(self.python, code, *map(str, arguments))).strip()

    async def get(self, address: str, port: int, host: str) -> str:
        """Status and body of a GET."""
        return await self.run(GET, address, port, host)

    async def say(self, address: str, port: int) -> str:
        """What a TCP workload answers to "x"."""
        return await self.run(SAY, address, port)

    async def look_up(self, process: Process, name: str) -> str:
        """The A records of `name`, asked of a sidecar inside."""
        return await self.run(LOOK_UP, process.ports["dns"], name)


@dataclass
class Held:
    """A request that a workload has, and does not answer yet."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)


class World:
    """What a test has started; `close` ends it all."""

    def __init__(self, root: Path, virtual_range: str) -> None:
        self.root, self.virtual_range = root, virtual_range
        self.processes: list[Process] = []
        self.agents: list[Agent] = []
        self.servers: list[asyncio.Server] = []
        self.spaces: list[Space] = []

    def space(self) -> Space:
        """A network namespace of the test; skips where it cannot be made."""
        try:
            self.spaces.append(Space(uplink=True))
        except Unavailable as error:
            pytest.skip(f"{error.message}: run scripts/test as root")
        return self.spaces[-1]

    async def agent(self, cluster: str, **options: Any) -> Agent:
        agent = Agent(cluster, self.root / cluster, **options)
        self.agents.append(agent)
        await agent.start()
        return agent

    def process(
        self, module: str, name: str, agent: Agent, *, wrap: list[str] | None = None, **settings: Any
    ) -> Process:
        process = Process(
            module,
            self.root / name,
            {
                "name": name,
                "agent_directory": str(agent.directory),
                "log": {"level": "debug", "json": True},
                **settings,
            },
            wrap=wrap or [],
        )
        self.processes.append(process)
        process.start()
        return process

    def gateway(self, agent: Agent, name: str = "gw", **settings: Any) -> Process:
        port = settings.pop("port", None) or free_port()
        settings = {"drain_seconds": 2, **settings}
        found = self.process("gateway", name, agent, address="127.0.0.1", bind="127.0.0.1", port=port, **settings)
        found.east_west = port  # type: ignore[attr-defined]
        return found

    def sidecar(self, agent: Agent, name: str = "sc", **settings: Any) -> Process:
        dns_settings = {"port": 0, **settings.pop("dns", {})}
        if settings.get("way") != "redirect":
            settings.setdefault("range", self.virtual_range)
        return self.process("sidecar", name, agent, namespace="shop", account="web", dns=dns_settings, **settings)

    def held(self) -> Held:
        """For `http_echo`."""
        return Held()

    async def http_echo(self, text: str, host: str = "127.0.0.1", *, held: Held | None = None) -> int:
        """An HTTP/1.1 workload with keep-alive that answers `text`, to POST when `held` lets it; its port."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    if held is not None and head.startswith(b"POST "):
                        held.arrived.set()
                        await held.released.wait()
                    body = text.encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                    await writer.drain()
            writer.close()

        return await self._serve(serve, host)

    async def tcp_echo(self, text: str, host: str = "127.0.0.1") -> int:
        """A TCP workload that sends each line back after `text`."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                while line := await reader.readline():
                    writer.write(text.encode() + b" " + line)
                    await writer.drain()
            writer.close()

        return await self._serve(serve, host)

    @contextlib.asynccontextmanager
    async def connection(self, address: str, port: int) -> AsyncIterator[Any]:
        """(reader, writer), closed at the end."""
        reader, writer = await asyncio.open_connection(address, port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def get(
        self,
        address: str,
        port: int = 80,
        host: str = "echo.shop.global",
        version: str = "1.1",
        method: str = "GET",
    ) -> tuple[int, str]:
        """(status, body) of a request on a connection of its own; status 0 where the connection just ended."""
        async with self.connection(address, port) as (reader, writer):
            writer.write(f"{method} / HTTP/{version}\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
            raw = (await asyncio.wait_for(reader.read(), ANSWER)).decode()
        head, _, body = raw.partition("\r\n\r\n")
        return (int(head.split(" ")[1]) if head else 0), body

    async def say(self, address: str, port: int, text: str) -> str:
        """What a TCP workload answers to a line; empty where the connection ended. Raises TimeoutError."""
        with contextlib.suppress(ConnectionError):
            async with self.connection(address, port) as (reader, writer):
                writer.write(text.encode() + b"\n")
                return (await asyncio.wait_for(reader.readline(), ANSWER)).decode().strip()
        return ""

    async def _serve(self, handler: Any, host: str) -> int:
        server = await asyncio.start_server(handler, host, 0)
        self.servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        for process in self.processes:
            if process.child is not None and process.child.poll() is None:
                process.child.send_signal(signal.SIGTERM)
        for process in self.processes:
            await process.stop(signal.SIGKILL if process.child and process.child.poll() is None else 0)
        for process in self.processes:  # pytest shows it when the test failed
            print(f"--- {process.directory.name}\n{process.log.read_text()[-60000:]}")
        for agent in self.agents:
            await agent.stop()
        for server in self.servers:
            server.close()
        for space in self.spaces:
            space.close()


@pytest.fixture
def short_root() -> Iterator[Path]:
    """A directory with a short path: UNIX sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="ie-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def virtual_range() -> str:
    """The addresses of all sidecars here, and of no other suite that runs on this machine."""
    return next(virtual_ranges(random.Random()))


@pytest.fixture
async def world(short_root: Path, virtual_range: str) -> AsyncIterator[World]:
    made = World(short_root, virtual_range)
    yield made
    await made.close()


ECHO = ServiceName("shop", "echo")
DB = ServiceName("shop", "db")


class Shop:
    """The service `shop/echo` (HTTP, port 80) or `shop/db` (opaque, port 5432), of two linked clusters."""

    until = staticmethod(until)
    echo, db = ECHO, DB
    http = Port(name="http", port=80, app=AppProtocol.HTTP)
    opaque = Port(name="sql", port=5432)

    @staticmethod
    def backend(
        cluster: str, port: Port, *, local: int | None = None, ready: int = 1, host: str = "127.0.0.1"
    ) -> Backend:
        """`local`: the port of the one local endpoint on `host`."""
        endpoints = (Endpoint(address=host, ports={port.port: local}),) if local is not None else ()
        return Backend(
            cluster=cluster,
            local=local is not None,
            ports=(port.port,),
            readiness=(Readiness(Locality(), ready),),
            endpoints=endpoints,
        )

    @staticmethod
    def imported(name: ServiceName, port: Port, *backends: Backend, **changes: Any) -> Import:
        return Import(
            name=name,
            ips=("242.0.0.7",),
            ip_families=("IPv4",),
            ports=(port,),
            backends=tuple(sorted(backends, key=lambda b: b.cluster)),
            **changes,
        )

    @staticmethod
    def exported(name: ServiceName, port: Port, target: int, *consumers: str) -> Export:
        return Export(
            name=name,
            ports=(port,),
            endpoints=(Endpoint(address="127.0.0.1", ports={port.port: target}),),
            grants=tuple(Grant(c) for c in consumers),
        )

    @staticmethod
    def link(*agents: Agent, gateways: dict[str, tuple[Any, ...]] | None = None) -> None:
        """Each tells its processes of all."""
        for agent in agents:
            for other in agents:
                agent.put_peer(other.peer(gateways=(gateways or {}).get(other.cluster, ())))


@pytest.fixture
def shop() -> type[Shop]:
    return Shop
