"""What is registered under the node of our imports, as Consul answers it, reduced to what plan needs.

Whatever Consul holds is read without complaint: people edit it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from discovery.consul.errors import ServerFailed
from discovery.consul.imports.desired import (
    CLUSTER,
    MANAGED_BY,
    MANAGER,
    PLAIN,
    SOURCES,
    digest,
    parse_id,
    source_set,
)
from federation.model.ids import ServiceName


@dataclass(frozen=True, slots=True)
class HeldCheck:
    """A check. `session`: the name of the session that it depends on, for the one of the node."""

    status: str
    output: str
    index: int
    session: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A service instance. `ours`: it carries the meta and the id that say so; `name` None: it belongs to no import.

    `port`: of the import; `plain`: it is registered under the plain name; `sources`: clusters that it came from (None:
    any).
    """

    id: str
    service: str
    ours: bool
    name: ServiceName | None
    gateway: str
    port: int
    plain: bool
    sources: frozenset[str] | None
    says: bytes
    index: int
    check: HeldCheck | None = None
    """Ours. What others check about it is theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldNode:
    """The node itself. `ours`: it carries the meta that says so, of this cluster."""

    ours: bool
    meta: Mapping[str, str]
    address: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """All that there is under the node; None: there is no such node."""

    node: HeldNode | None = None
    instances: Mapping[str, Held]
    node_checks: Mapping[str, HeldCheck]


class _Weights(msgspec.Struct, rename="pascal"):
    passing: int = 1


class _Service(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(name="ID")
    service: str
    address: str = ""
    port: int = 0
    tags: list[str] | None = None
    meta: dict[str, str] | None = None
    weights: _Weights | None = None
    modify_index: int = 0


class _Node(msgspec.Struct, rename="pascal"):
    address: str = ""
    meta: dict[str, str] | None = None
    modify_index: int = 0


class _NodeServices(msgspec.Struct, rename="pascal"):
    node: _Node | None = None
    services: list[_Service] | None = None


class _Definition(msgspec.Struct, rename="pascal"):
    session_name: str = ""


class _Check(msgspec.Struct, rename="pascal"):
    check_id: str = msgspec.field(name="CheckID")
    status: str = ""
    output: str = ""
    type: str = ""
    service_id: str = msgspec.field(name="ServiceID", default="")
    definition: _Definition | None = None
    modify_index: int = 0


_node_services = msgspec.json.Decoder(_NodeServices | None)
_checks = msgspec.json.Decoder(list[_Check] | None)


def read(services: bytes, checks: bytes, *, cluster: str) -> Registered:
    """From /v1/catalog/node-services/<node> and /v1/health/node/<node>. Raises ServerFailed for what is neither."""
    try:
        answer, listed = _node_services.decode(services) or _NodeServices(), _checks.decode(checks) or []
    except msgspec.MsgspecError as error:
        raise ServerFailed(f"no node: {error}") from error
    on: dict[str, list[_Check]] = {}
    for check in listed:
        on.setdefault(check.service_id, []).append(check)
    node = None
    if answer.node is not None:
        meta = answer.node.meta or {}
        node = HeldNode(
            ours=_ours(meta, cluster), meta=meta, address=answer.node.address, index=answer.node.modify_index
        )
    return Registered(
        node=node,
        instances={s.id: _held(s, on.get(s.id, []), cluster) for s in answer.services or ()},
        node_checks={c.check_id: _check(c) for c in on.get("", ())},
    )


def check_id(instance: str) -> str:
    """The check of one of our instances."""
    return f"{instance}:ready"


def _ours(meta: Mapping[str, str], cluster: str) -> bool:
    return meta.get(MANAGED_BY) == MANAGER and meta.get(CLUSTER) == cluster


def _held(service: _Service, checks: list[_Check], cluster: str) -> Held:
    meta = service.meta or {}
    name, port, gateway = parse_id(service.id) or (None, 0, "")
    weight = service.weights.passing if service.weights is not None else 1
    own = check_id(service.id)
    return Held(
        id=service.id,
        service=service.service,
        ours=name is not None and _ours(meta, cluster),
        name=name,
        gateway=gateway,
        port=port,
        plain=PLAIN in meta,
        sources=source_set(meta.get(SOURCES, "")),
        says=digest(service.service, service.address, service.port, weight, service.tags or (), meta),
        index=service.modify_index,
        check=next((_check(c) for c in checks if c.check_id == own), None),
    )


def _check(check: _Check) -> HeldCheck:
    session = check.definition.session_name if check.definition is not None and check.type == "session" else ""
    return HeldCheck(check.status, check.output, check.modify_index, session)
