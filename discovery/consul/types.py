"""What Consul's API answers, as typed structs, and what is kept of an instance: only what the agent uses.

The shapes are those of `GET /v1/health/service/:name`, `/v1/health/state/:state` and `/v1/catalog/services` (Consul
1.22; older versions leave some fields out).
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec
from msgspec import Struct, field


class ServiceAddress(Struct, rename="pascal", gc=False):
    """`port` 0: the service's."""

    address: str = ""
    port: int = 0


class Place(Struct, rename="pascal", gc=False):
    region: str = ""
    zone: str = ""


class Weights(Struct, rename="pascal", gc=False):
    passing: int = 1
    warning: int = 1


class NamedPort(Struct, rename="pascal", gc=False):
    """Since Consul 1.22 a service has several ports."""

    name: str = ""
    port: int = 0
    default: bool = False


class Node(Struct, rename="pascal"):
    node: str
    address: str = ""
    tagged_addresses: dict[str, str] | None = None
    meta: dict[str, str] | None = None
    locality: Place | None = None


class Service(Struct, rename="pascal"):
    id: str = field(name="ID")
    service: str = ""
    kind: str = ""
    tags: list[str] | None = None
    address: str = ""
    tagged_addresses: dict[str, ServiceAddress] | None = None
    meta: dict[str, str] | None = None
    port: int = 0
    ports: list[NamedPort] | None = None
    socket_path: str = ""
    weights: Weights | None = None
    locality: Place | None = None
    create_index: int = 0


class Check(Struct, rename="pascal", gc=False):
    check_id: str = field(default="", name="CheckID")
    status: str = ""


class Entry(Struct, rename="pascal"):
    """An instance with its node and the checks of both."""

    node: Node
    service: Service
    checks: list[Check] | None = None


class _Named(Struct, rename="pascal"):
    """As much as says whose entry it is."""

    class _Node(Struct, rename="pascal"):
        node: str = ""

    class _Service(Struct, rename="pascal"):
        id: str = field(default="", name="ID")

    node: _Node = field(default_factory=_Node)
    service: _Service = field(default_factory=_Service)


class FailingCheck(Struct, rename="pascal", frozen=True, gc=False):
    """A check as `/v1/health/state` lists it; those of a node name no service."""

    node: str = ""
    check_id: str = field(default="", name="CheckID")
    service_id: str = field(default="", name="ServiceID")
    service_name: str = ""


Id: TypeAlias = tuple[str, str]
"""(node, service ID): service IDs are unique within their node only."""


class State(enum.IntEnum):
    """What the checks of an instance and of its node say together; the worst counts, as in Consul's own DNS."""

    PASSING = 0
    WARNING = 1
    CRITICAL = 2
    MAINTENANCE = 3
    """Taken out by `consul maint`; nothing else is wrong with it."""


class Instance(Struct, frozen=True, array_like=True):
    """An instance as far as it matters, whichever way it is exported. Equal ones are no news.

    `addresses` are IP addresses, one of each family. `ports`: (name, number), the main one, whose name may be empty,
    first. `mains`: for each address the number by which the main port is reached there, 0 where that is its own; empty
    where it is so for all of them.
    `fault`: (code, why) it cannot be an endpoint; empty for one that can.
    """

    node: str
    id: str
    addresses: tuple[str, ...]
    ports: tuple[tuple[str, int], ...]
    state: State
    weight: int
    region: str
    zone: str
    tags: tuple[str, ...]
    meta: dict[str, str]
    created: int
    fault: tuple[str, str] = ("", "")
    mains: tuple[int, ...] = ()

    @property
    def key(self) -> Id:
        return self.node, self.id

    def targets(self) -> list[tuple[str, int]]:
        """(address, number of the main port there)."""
        own = self.ports[0][1] if self.ports else 0
        mains = self.mains or (0,) * len(self.addresses)
        return [(address, main or own) for address, main in zip(self.addresses, mains, strict=True)]


_entries = msgspec.json.Decoder(list[Entry])
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_entry = msgspec.json.Decoder(Entry)
_named = msgspec.json.Decoder(_Named)
_services = msgspec.json.Decoder(dict[str, list[str]])
_checks = msgspec.json.Decoder(list[FailingCheck])


def read_health(body: bytes) -> tuple[list[Entry], dict[Id, str]]:
    """The entries of a service, and (node, ID) → why of those that cannot be read. Raises msgspec.MsgspecError."""
    try:
        return _entries.decode(body), {}
    except msgspec.ValidationError:
        pass
    good, bad = [], {}
    for raw in _raws.decode(body):
        try:
            good.append(_entry.decode(raw))
        except msgspec.ValidationError as error:
            named = _named.decode(raw)
            bad[(named.node.node, named.service.id)] = str(error)
    return good, bad


def read_services(body: bytes) -> dict[str, list[str]]:
    """Name → tags. Raises msgspec.MsgspecError."""
    return _services.decode(body)


def read_checks(body: bytes) -> list[FailingCheck]:
    """Checks in one state. Raises msgspec.MsgspecError."""
    return _checks.decode(body)
