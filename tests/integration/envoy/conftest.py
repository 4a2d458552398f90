"""A small federation of real Envoys: authorities, workloads, gateways and sidecars on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clusters.network import free_port, virtual_ranges
from clusters.waiting import ANSWER, until
from federation.aio.clock import SystemClock
from federation.envoy.bootstrap import bootstrap
from federation.envoy.ledger import Changes
from federation.envoy.process import EnvoyProcess, find_envoy
from federation.model.cluster import Gateway, Peer
from federation.model.ids import ServiceName, SpiffeId
from federation.model.service import AppProtocol, Backend, Endpoint, Export, Grant, Import, Locality, Port, Readiness
from federation.model.view import View
from federation.trust.authority import Authority
from federation.trust.svid import Svid
from federation.xds.server import AdsServer
from federation.xds.snapshot import Resource, Snapshot, TypeUrl
from gateway import build as gateway_build
from gateway.asked import Asked
from gateway.called import Called
from sidecar.build import outbound as sidecar_build
from sidecar.build.inbound import Inbound
from sidecar.build.inbound import Workload as Served

FEDERATION = "test.internal"
SHOP_ECHO = ServiceName("shop", "echo")
HANDSHAKE = 22
"""How TLS begins (RFC 8446, 5.1)."""


@dataclass
class Request:
    """What a workload was sent."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def get(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name), None)


class Workload:
    """An HTTP/1.1 server that says its name; a TCP client that does not speak HTTP is echoed line by line."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: list[Request] = []
        self.connections = 0
        self.status = 200
        self.delay = 0.0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, port: int = 0) -> Workload:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                if b"HTTP/1" not in line:
                    writer.write(f"{self.name}:".encode() + line)
                    await writer.drain()
                    continue
                await self._answer(line.decode().strip(), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, line: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers = []
        while (raw := await reader.readline()) not in (b"\r\n", b""):
            key, _, value = raw.decode().strip().partition(": ")
            headers.append((key, value))
        request = Request(line, headers)
        if (length := request.get("content-length")) is not None:
            request.body = await reader.readexactly(int(length))
        self.requests.append(request)
        if (request.get("upgrade") or "").lower() == "websocket":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            while data := await reader.read(4096):
                writer.write(data)
            return
        if self.delay:
            await asyncio.sleep(self.delay)
        body = self.name.encode()
        writer.write(
            f"HTTP/1.1 {self.status} X\r\nserver: {self.name}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        )
        await writer.drain()


class Tap:
    """Stands before a port and remembers how each connection began."""

    def __init__(self, to: int) -> None:
        self._to = to
        self.port = 0
        self.first: list[int] = []
        """The first byte of each; HANDSHAKE where that is TLS."""

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry(reader, back, self.first), name="there")
            group.create_task(self._carry(there, writer, []), name="back")

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, first: list[int]) -> None:
        begun = False
        try:
            while data := await source.read(65536):
                if not begun:
                    first.append(data[0])
                    begun = True
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()


@dataclass
class Domain:
    """A cluster's trust."""

    name: str
    authority: Authority

    @property
    def trust_domain(self) -> str:
        return self.authority.trust_domain

    def svid(self, account: str, namespace: str = "isthmus-system") -> Svid:
        return self.authority.issue_with_key(
            spiffe_id=SpiffeId.workload(self.trust_domain, namespace, account), ttl=timedelta(hours=1)
        )


class Proxy:
    """A real Envoy with its ADS server, fed by one of our builders."""

    def __init__(self, directory: Path, update: Callable[[frozenset[str]], Changes], *, name: str) -> None:
        self.directory = directory
        self.update = update
        self.asked: set[str] = set()
        self.renewed: Svid | None = None
        """Its identity from the next update on, if another than in the beginning."""
        self.snapshot = Snapshot()
        self.ads = AdsServer(directory / "ads.sock", demand=self._demand)
        self.envoy = EnvoyProcess(
            bootstrap(
                node_id=name,
                cluster=name,
                ads_path=directory / "ads.sock",
                admin_path=directory / "admin.sock",
                stats=("cluster.", "http.", "listener.", "tcp."),
            ),
            directory,
            log_level=os.environ.get("ISTHMUS_ENVOY_LOG", "warning"),
        )

    async def start(self) -> None:
        await self.ads.start()
        self.publish()
        await self.envoy.start()
        await self.settled()
        await until(self.envoy.ready)  # listeners of the first configuration open when all of it is there
        self.begin_checks()
        await self.settled()
        await until(self._checked)

    async def _checked(self) -> bool:
        return "pending_active_hc" not in await self.clusters()

    async def settled(self) -> None:
        """Wait until Envoy has taken all that was published."""
        await until(lambda: self.ads.synced, what=f"synced, nacks {dict(self.ads.nacks)}")
        assert not self.ads.nacks, dict(self.ads.nacks)

    def publish(self) -> None:
        changes = self.update(frozenset(self.asked))
        self._begin_checks = changes.begin_checks
        for kind in TypeUrl:
            put = [Resource.of(n, m) for n, m in changes.put.get(kind, {}).items()]
            gone = changes.removed.get(kind, frozenset()) & self.snapshot.names(kind)
            self.snapshot = self.snapshot.with_(kind, put=put, remove=gone)
        self.ads.publish(self.snapshot)

    def begin_checks(self) -> None:
        """As the process beside Envoy does now and then."""
        if self._begin_checks(self.ads.subscribed(TypeUrl.ENDPOINT), None):
            self.publish()

    def _demand(self, kind: TypeUrl, names: frozenset[str]) -> None:
        self.asked |= names
        self.publish()
        self.ads.refuse(kind, names - self.snapshot.names(kind))

    def kill(self) -> None:
        """End Envoy as a crash would."""
        assert self.envoy.pid is not None
        os.kill(self.envoy.pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop Envoy without a word to its peers, until the test ends."""
        assert self.envoy.pid is not None
        os.kill(self.envoy.pid, signal.SIGSTOP)

    async def clusters(self) -> str:
        return (await self.envoy.admin.get("/clusters")).decode()

    async def stop(self) -> None:
        if (pid := self.envoy.pid) is not None:
            os.kill(pid, signal.SIGCONT)
        await self.envoy.stop(grace=0.5)
        await self.ads.close()


@dataclass
class World:
    """Clusters, who exports what, and the proxies that serve it."""

    directory: Path
    domains: dict[str, Domain] = field(default_factory=dict)
    localities: dict[str, Locality] = field(default_factory=dict)
    gateways: dict[str, tuple[Gateway, ...]] = field(default_factory=dict)
    exports: dict[str, dict[ServiceName, Export]] = field(default_factory=dict)
    imports: dict[str, dict[ServiceName, Import]] = field(default_factory=dict)
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _made: int = 0

    def domain(self, name: str) -> Domain:
        if name not in self.domains:
            authority = Authority.open(
                self.directory / f"ca-{name}", trust_domain=f"{name}.{FEDERATION}", clock=SystemClock()
            )
            self.domains[name] = Domain(name, authority)
            self.exports.setdefault(name, {})
            self.imports.setdefault(name, {})
        return self.domains[name]

    def view(self, cluster: str, *, strangers: Iterable[str] = ()) -> View:
        """What `cluster` sees: every cluster of the world but the `strangers` is linked with it."""
        peers = {
            name: Peer(
                cluster=name,
                trust_domain=domain.trust_domain,
                locality=self.localities.get(name, Locality()),
                own=name == cluster,
                bundle=domain.authority.bundle,
                gateways=self.gateways.get(name, ()),
            )
            for name, domain in self.domains.items()
            if name not in strangers
        }
        return View(
            cluster=cluster, imports=dict(self.imports[cluster]), exports=dict(self.exports[cluster]), peers=peers
        )

    def sub(self) -> Path:
        self._made += 1
        directory = self.directory / str(self._made)
        directory.mkdir()
        return directory

    async def workload(self, name: str) -> Workload:
        made = await Workload(name).start()
        self.stack.push_async_callback(made.stop)
        return made

    async def tap(self, to: int) -> Tap:
        made = Tap(to)
        self.stack.callback((await made.start()).close)
        return made

    async def gateway(
        self, cluster: str, *, strangers: Sequence[str] = (), port: int | None = None, refused_limit: int = 1_000
    ) -> Proxy:
        """A gateway of `cluster`; it is announced to the others."""
        asked, called = Asked(limit=10_000, refused_limit=refused_limit), Called()
        at = port or free_port()
        domain = self.domain(cluster)
        builder = gateway_build.Builder(
            gateway_build.GatewayConfig(
                cluster=cluster,
                trust_domain=domain.trust_domain,
                address="127.0.0.1",
                port=at,
                identity=domain.svid("gateway"),
            ),
            called=called,
        )

        def update(wanted: frozenset[str]) -> Changes:
            asked.ask(wanted - asked.names)
            called.ask(wanted)
            view = self.view(cluster, strangers=strangers)
            changes = builder.update(view, asked=asked.names, silent=asked.silent, identity=proxy.renewed)
            asked.settle(builder.take_moved())
            return changes

        proxy = Proxy(self.sub(), update, name=f"{cluster}-gateway")
        known = self.gateways.get(cluster, ())
        self.gateways[cluster] = (*known, Gateway(name=f"g{len(known)}", address="127.0.0.1", port=at))
        self.stack.push_async_callback(proxy.stop)
        await proxy.start()
        return proxy

    async def sidecar(
        self,
        cluster: str,
        uses: Sequence[sidecar_build.Use],
        *,
        account: str = "client",
        workloads: Sequence[Served] = (),
        **config: Any,
    ) -> Proxy:
        domain = self.domain(cluster)
        builder = sidecar_build.Builder(
            sidecar_build.SidecarConfig(
                cluster=cluster,
                identity=domain.svid(account, "shop"),
                locality=self.localities.get(cluster, Locality()),
                **{"way": "loopback", **config},
            )
        )

        def update(_: frozenset[str]) -> Changes:  # tests add to `uses` and `workloads` meanwhile
            given = sidecar_build.by_service(uses)
            return builder.update(self.view(cluster), given, identity=proxy.renewed, workloads=workloads)

        proxy = Proxy(self.sub(), update, name=f"{cluster}-sidecar")
        self.stack.push_async_callback(proxy.stop)
        await proxy.start()
        return proxy

    async def vm(self, cluster: str, *workloads: Served, account: str = "vm", **at: Any) -> tuple[Proxy, Endpoint]:
        """A sidecar that serves `workloads` by mutual TLS, and the endpoint that it then is."""
        port = free_port()
        at = Inbound(address="127.0.0.1", port=port, **at)
        proxy = await self.sidecar(cluster, [], account=account, workloads=workloads, inbound=at)
        identity = str(SpiffeId.workload(self.domain(cluster).trust_domain, "shop", account))
        return proxy, Endpoint(address="127.0.0.1", ports={w.port: port for w in workloads}, identity=identity)


def export_of(name: ServiceName, ports: dict[int, tuple[AppProtocol, int]], *, to: Iterable[str]) -> Export:
    """`ports`: service port → (protocol, workload's port)."""
    return Export(
        name=name,
        ports=tuple(Port(name=f"p{p}", port=p, app=app) for p, (app, _) in ports.items()),
        endpoints=(Endpoint(address="127.0.0.1", ports={p: target for p, (_, target) in ports.items()}),),
        grants=tuple(Grant(consumer) for consumer in to),
    )


def remote(cluster: str, *ports: int, ready: int = 1) -> Backend:
    return Backend(cluster=cluster, ports=ports, readiness=(Readiness(Locality(), ready),))


def local(cluster: str, *ports: int, targets: Sequence[dict[int, int]]) -> Backend:
    return Backend(
        cluster=cluster,
        local=True,
        ports=ports,
        readiness=(Readiness(Locality(), len(targets)),),
        endpoints=tuple(Endpoint(address="127.0.0.1", ports=t) for t in targets),
    )


async def http(
    ip: str, port: int, *, host: str, path: str = "/", method: str = "GET", headers: Sequence[str] = (), body: str = ""
) -> tuple[int, dict[str, str], str]:
    """One HTTP/1.1 request on a connection of its own: status, headers, body."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    raw = await exchange(ip, port, ("\r\n".join(lines) + "\r\n\r\n" + body).encode())
    head, _, rest = raw.partition(b"\r\n\r\n")
    if not head:
        return 0, {}, ""
    first, *others = head.decode().split("\r\n")
    answered = {k.lower(): v for k, _, v in (line.partition(": ") for line in others)}
    return int(first.split()[1]), answered, rest.decode()


async def exchange(ip: str, port: int, data: bytes, *, tls: ssl.SSLContext | None = None, sni: str = "") -> bytes:
    """Send `data`, return all that comes until the other end closes."""
    reader, writer = await asyncio.wait_for(
        asyncio.open_connection(ip, port, ssl=tls, server_hostname=sni if tls else None), ANSWER
    )
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(-1), ANSWER)
    finally:
        writer.close()


async def line(ip: str, port: int, text: str) -> str:
    """Send a line over TCP and read one back; empty when the connection was closed instead."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(ip, port), ANSWER)
    try:
        writer.write(text.encode() + b"\n")
        return (await asyncio.wait_for(reader.readline(), ANSWER)).decode().strip()
    except ConnectionError:
        return ""
    finally:
        writer.close()


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers of this file: with --import-mode=importlib tests cannot import it."""
    return SimpleNamespace(
        HANDSHAKE=HANDSHAKE,
        Proxy=Proxy,
        Served=Served,
        TypeUrl=TypeUrl,
        Use=sidecar_build.Use,
        exchange=exchange,
        export_of=export_of,
        http=http,
        line=line,
        local=local,
        remote=remote,
        replace=dataclasses.replace,
        until=until,
        # A virtual address of this suite, and of no other one that runs on this machine.
        vip=next(virtual_ranges(random.Random())).replace(".0/22", ".1"),
    )


@pytest.fixture(scope="session")
def envoy_binary() -> Path:
    return find_envoy()


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory with a short name: the path of a UNIX socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ist") as directory:
        yield Path(directory)


@pytest.fixture
async def world(short_directory: Path) -> AsyncIterator[World]:
    made = World(short_directory)
    async with made.stack:
        yield made
