"""A member with real keys, and a registry service over a store in memory, without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation import log as logs
from federation.aio.clock import FakeClock
from federation.catalog.replica import Log, Source
from federation.model import wire
from federation.model.cluster import Cluster, Gateway
from federation.model.ids import ServiceName
from federation.model.record import Key, Kind, Record, Version
from federation.model.service import Endpoint, Endpoints, Grant, Locality, Port, Readiness, Service
from federation.registry.service import Addresses
from federation.registry.service import Service as Registry
from federation.registry.settings import Quotas, RegistrySettings
from federation.store.base import Member
from federation.store.memory import MemoryStore
from federation.trust.authority import Authority

FEDERATION = "demo.test"


class Claims:
    """What one cluster would publish, and the frames that carry it."""

    def __init__(self, name: str, authority: Authority) -> None:
        self.name, self.authority = name, authority
        self.epoch, self.sequence = 1, 0

    def member(self) -> Member:
        return Member(
            name=self.name, trust_domain=f"{self.name}.{FEDERATION}", bundle=self.authority.bundle, joined_ns=1
        )

    def record(self, kind: Kind, name: str, payload: bytes | None, *, origin: str = "") -> Record:
        self.sequence += 1
        return Record(Key(origin or self.name, kind, name), Version(self.epoch, self.sequence), payload)

    def cluster(self, **more: Any) -> Record:
        values = {"name": self.name, "trust_domain": f"{self.name}.{FEDERATION}", "bundle": self.authority.bundle}
        return self.record(Kind.CLUSTER, self.name, wire.encode_cluster(Cluster(**{**values, **more})))

    def gateway(self, address: str = "203.0.113.9", name: str = "gw", port: int = 443) -> Record:
        return self.record(Kind.GATEWAY, name, wire.encode_gateway(Gateway(name=name, address=address, port=port)))

    def service(
        self, name: str = "shop/echo", *, grants: tuple[Grant, ...] = (), ready: int = 1, **more: Any
    ) -> Record:
        service = Service(
            name=ServiceName(*name.split("/")),
            exported_at_ns=1,
            grants=grants,
            **{"ports": (Port(port=80),), "readiness": (Readiness(Locality(), ready),), **more},
        )
        return self.record(Kind.SERVICE, name, wire.encode_service(service))

    def endpoints(
        self, *addresses: str, name: str = "shop/echo", network: str = "flat", grants: tuple[Grant, ...] = ()
    ) -> Record:
        found = Endpoints(
            name=ServiceName(*name.split("/")),
            network=network,
            endpoints=tuple(Endpoint(address=a) for a in addresses),
            grants=grants,
        )
        return self.record(Kind.ENDPOINTS, name, wire.encode_endpoints(found))

    def log(self, *records: Record) -> Log:
        log = Log(history=f"{self.name} {self.epoch}")
        log.reset_origin(self.name, Version(self.epoch, self.sequence), records)
        return log


def deliver(intake: Any, log: Log) -> list[Any]:
    """Everything that a source over `log` has to say, to an intake; returns what it rejected."""
    source = Source(log)
    source.receive(intake.sink.open().subscribe)
    rejections: list[Any] = []
    for frame in source.next_updates():
        changes = intake.sink.receive(frame)
        intake.on_alive()
        if changes is not None:
            rejections += intake.on_changes(changes)
    return rejections


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def claims(tmp_path: Path, clock: FakeClock) -> Callable[[str], Claims]:
    def make(name: str) -> Claims:
        return Claims(name, Authority.open(tmp_path / name, trust_domain=f"{name}.{FEDERATION}", clock=clock))

    return make


@pytest.fixture
def send() -> Callable[..., list[Any]]:
    return deliver


@pytest.fixture
def make_registry(tmp_path: Path, clock: FakeClock) -> Callable[..., Registry]:
    def make(**settings: Any) -> Registry:
        values = {"federation": FEDERATION, "directory": str(tmp_path), "quotas": Quotas(), **settings}
        return Registry(
            RegistrySettings(**values),
            store=MemoryStore(clock=clock),
            authority=Authority.open(tmp_path / "ca", trust_domain=FEDERATION, clock=clock),
            addresses=lambda: Addresses(catalog="127.0.0.1:1", enrolment="127.0.0.1:2"),
            clock=clock,
            log=logs.get("test"),
            audit=logs.get("audit"),
        )

    return make
