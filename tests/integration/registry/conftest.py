"""A real registry over loopback with mutual TLS, and clusters that join it, publish and watch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from clusters.network import free_port
from clusters.waiting import until
from federation.aio.backoff import Backoff
from federation.aio.clock import SystemClock
from federation.catalog.replica import Changes, Log, Sink
from federation.model import wire
from federation.model.cluster import Cluster, Gateway
from federation.model.ids import ServiceName, SpiffeId
from federation.model.record import Key, Kind, Record, Version
from federation.model.service import Grant, Locality, Port, Readiness, Service
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry import settings as registry_settings
from federation.registry.client import CHANNEL_OPTIONS, PublishClient, Rejection, WatchClient
from federation.registry.init import init
from federation.registry.operator import Joined, OperatorClient, join
from federation.registry.server import Registry
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint
from federation.trust.grpc_credentials import channel_credentials, channel_options, registry_server_name
from federation.trust.svid import Svid

FEDERATION = "demo.test"


@dataclass
class Member:
    """A cluster with keys of its own, and the two clients that its agent would run."""

    name: str
    authority: Authority
    joined: Joined
    epoch: int = 1
    sequence: int = 0
    rejections: list[Rejection] = field(default_factory=list)
    changes: list[Changes] = field(default_factory=list)
    path: str = "/ns/isthmus-system/sa/agent"

    def __post_init__(self) -> None:
        self.log = Log(history=f"{self.name} {self.epoch}")
        self.sink = Sink()
        self.watch: WatchClient
        self.publish: PublishClient

    @property
    def view(self) -> dict[Key, Record]:
        return {r.key: r for r in self.sink.replica.records()}

    def svid(self) -> Svid:
        return self.authority.issue_with_key(
            spiffe_id=SpiffeId.parse(f"spiffe://{self.joined.trust_domain}{self.path}"), ttl=timedelta(hours=1)
        )

    async def connect(self) -> grpc.aio.Channel:
        return channel(self.joined, self.svid())

    def record(self, kind: Kind, name: str, payload: bytes | None, *, origin: str = "") -> Record:
        self.sequence += 1
        return Record(Key(origin or self.name, kind, name), Version(self.epoch, self.sequence), payload)

    def about_itself(self, **more: Any) -> Record:
        cluster = Cluster(
            **{
                "name": self.name,
                "trust_domain": self.joined.trust_domain,
                "bundle": self.authority.bundle,
                "agent_version": "1",
                **more,
            }
        )
        return self.record(Kind.CLUSTER, self.name, wire.encode_cluster(cluster))

    def gateway(self, name: str = "gw", address: str = "127.0.0.1", port: int = 4000) -> Record:
        return self.record(Kind.GATEWAY, name, wire.encode_gateway(Gateway(name=name, address=address, port=port)))

    def service(self, name: str = "shop/echo", *, ready: int = 1, grants: tuple[Grant, ...] = ()) -> Record:
        service = Service(
            name=ServiceName.parse(name),
            exported_at_ns=1,
            ports=(Port(port=80),),
            readiness=(Readiness(Locality("eu", "a"), ready),),
            grants=grants,
        )
        return self.record(Kind.SERVICE, name, wire.encode_service(service))

    def report(self, *records: Record) -> None:
        """Publish everything at once: CLUSTER, a gateway, and `records`."""
        whole = [self.about_itself(), self.gateway(), *records]
        self.log.reset_origin(self.name, Version(self.epoch, self.sequence), whole)

    def put(self, *records: Record) -> None:
        self.log.put(records)

    def codes(self) -> set[str]:
        return {r.code for r in self.rejections}


def channel(joined: Joined, svid: Svid) -> grpc.aio.Channel:
    options = [*channel_options(registry_server_name(joined.federation)), *CHANNEL_OPTIONS]
    return grpc.aio.secure_channel(
        joined.registry_address, channel_credentials(svid, joined.registry_bundle), options=options
    )


class World:
    """A federation with one registry, which can be stopped and started again at the same addresses."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.registry: Registry
        self.members: dict[str, Member] = {}
        self._tasks: dict[str, list[asyncio.Task[Any]]] = {}
        self._running: asyncio.Task[None] | None = None
        self._operators: list[OperatorClient] = []

    async def start(self, **settings: Any) -> None:
        loaded = registry_settings.load(self.directory / "settings.yaml")
        self.registry = Registry(msgspec.structs.replace(loaded, **settings))
        await self.registry.__aenter__()
        self.address, self.enrolment = self.registry.address, self.registry.enrolment_address
        self._running = asyncio.create_task(self.registry.run(), name="registry")

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
            await self.registry.close()

    def operator(self) -> OperatorClient:
        client = OperatorClient.open(self.directory / "operator")
        self._operators.append(client)
        return client

    def authority(self, name: str) -> Authority:
        return Authority.open(
            self.directory / "clusters" / name, trust_domain=f"{name}.{FEDERATION}", clock=SystemClock()
        )

    async def join(self, name: str, **more: Any) -> Member:
        (self.directory / "clusters").mkdir(exist_ok=True)
        token = await self.operator().issue_token(name)
        authority = self.authority(name)
        member = Member(name, authority, await join(token.token, authority), **more)
        self.members[name] = member
        return member

    def follow(self, member: Member) -> None:
        """Watch and publish until the end of the test."""
        backoff = lambda: Backoff(base=0.02, cap=0.1)  # noqa: E731
        member.watch = WatchClient(
            connect=member.connect,
            sink=member.sink,
            on_changes=member.changes.append,
            presence=lambda: pb.Presence(role=pb.Presence.AGENT, name="agent", version="1.2.3"),
            backoff=backoff(),
            ack_delay=(0.0, 0.01),
        )
        member.publish = PublishClient(
            connect=member.connect,
            log_=member.log,
            on_rejections=member.rejections.extend,
            backoff=backoff(),
            heartbeat=0.5,
        )
        self._tasks.setdefault(member.name, []).extend(
            asyncio.create_task(client.run(), name=member.name) for client in (member.watch, member.publish)
        )

    async def unfollow(self, name: str) -> None:
        tasks = self._tasks.pop(name, [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def link(self, a: str, b: str, **more: Any) -> None:
        prints = {
            "fingerprint_a": fingerprint(self.members[a].authority.bundle),
            "fingerprint_b": fingerprint(self.members[b].authority.bundle),
        }
        await self.operator().link(a, b, **prints, **more)

    async def pair(self) -> tuple[Member, Member]:
        """East and west, joined, linked, publishing one service each, and each other's records seen."""
        east, west = await self.join("east"), await self.join("west")
        for member in (east, west):
            member.report(member.service())
            self.follow(member)
        await self.link("east", "west")
        await until(lambda: len(east.view) == 4 and len(west.view) == 4)
        return east, west

    async def close(self) -> None:
        for name in list(self._tasks):
            await self.unfollow(name)
        for client in self._operators:
            await client.close()
        with contextlib.suppress(AttributeError):
            await self.stop()


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    def make(**settings: Any) -> World:
        init(
            tmp_path / "registry",
            FEDERATION,
            **{
                "listen": f"127.0.0.1:{free_port()}",
                "enrolment": f"127.0.0.1:{free_port()}",
                "metrics": "",
                "single_machine": True,
                "heartbeat": 0.5,
                "lease": 1.5,
                "drain": 1.0,
                **settings,
            },
        )
        return World(tmp_path / "registry")

    return make


@pytest.fixture
async def world(make_world: Callable[..., World]) -> AsyncIterator[World]:
    made = make_world()
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def wait() -> Callable[..., Any]:
    return until
