"""What a VM offers, and how it is checked: the services file as values (sidecar.vm.services makes them)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from federation.model.ids import ServiceName
from federation.model.service import Grant, Port
from sidecar.vm.checks.machine import Policy


@dataclass(frozen=True, slots=True)
class Tcp:
    """Passes when a connection is accepted."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp {self.port}"


@dataclass(frozen=True, slots=True)
class Http:
    """Passes when the answer's status is in one of `expect`."""

    host: str
    port: int
    path: str
    method: str
    headers: tuple[tuple[str, str], ...]
    expect: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return f"http {self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class Grpc:
    """Passes when grpc.health.v1.Health/Check answers SERVING for `service` (empty: the server)."""

    host: str
    port: int
    service: str

    def __str__(self) -> str:
        return f"grpc {self.port}{'/' if self.service else ''}{self.service}"


@dataclass(frozen=True, slots=True)
class Script:
    """Passes with exit status 0, and with 1 as a warning."""

    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"script {self.command[0]}"


Probe: TypeAlias = Tcp | Http | Grpc | Script


@dataclass(frozen=True, slots=True)
class Check:
    """A probe, and what its results mean."""

    probe: Probe
    policy: Policy

    @property
    def is_script(self) -> bool:
        return isinstance(self.probe, Script)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A service that this VM offers. `targets`: service port → port of the workload, which listens at `host`.

    `address`: where others reach it; empty: the one by which this VM reaches its agent.
    """

    name: ServiceName
    ports: tuple[Port, ...]
    targets: Mapping[int, int]
    address: str = ""
    host: str = "127.0.0.1"
    exported: bool = False
    grants: tuple[Grant, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
