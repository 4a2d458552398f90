"""All instances of a datacenter at one look, and which services are others than they were read. No I/O.

`GET /v1/internal/ui/nodes` is what Consul's own web interface lists: it has the ModifyIndex of every instance, which
rises whenever that is registered differently. A service that was read at a higher index, with the same instances, has
not changed since. What is compared is what is held, not the last census: whatever was missed is found by the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from discovery.consul.imports.desired import MANAGED_BY, written_by_us
from discovery.consul.types import Id

TRIES = 3
"""Reads of a service that a census goes on to find different: its entries are unreadable, or ACLs hide some."""


class _Service(Struct, rename="pascal", gc=False):
    id: str = msgspec.field(name="ID")
    service: str = ""
    kind: str = ""
    meta: msgspec.Raw = msgspec.Raw(b"null")
    modify_index: int = 0


class _Node(Struct, rename="pascal"):
    node: str
    address: str = ""
    tagged_addresses: msgspec.Raw = msgspec.Raw(b"null")
    meta: msgspec.Raw = msgspec.Raw(b"null")
    services: list[_Service] | None = None


_nodes = msgspec.json.Decoder(list[_Node])
_meta = msgspec.json.Decoder(dict[str, str] | None)
_MARK = MANAGED_BY.encode()


@dataclass(slots=True)
class Counted:
    """The instances of a service; `newest` is the highest of their ModifyIndexes."""

    ids: set[Id] = field(default_factory=set)
    newest: int = 0


_NONE = Counted()


@dataclass(frozen=True, slots=True)
class Census:
    """`nodes`: what each says of itself, as a number that is another one when that changes."""

    services: Mapping[str, Counted]
    nodes: Mapping[str, int]


def read_census(body: bytes) -> Census:
    """Instances of Consul's mesh, and those that an agent of ours wrote, are not counted. Raises
    msgspec.MsgspecError."""
    services: dict[str, Counted] = {}
    nodes: dict[str, int] = {}
    for node in _nodes.decode(body):
        nodes[node.node] = hash((node.address, bytes(node.tagged_addresses), bytes(node.meta)))
        for one in node.services or ():
            if one.kind or (_MARK in bytes(one.meta) and written_by_us(_meta.decode(one.meta) or {})):
                continue
            counted = services.get(one.service)
            if counted is None:
                counted = services[one.service] = Counted()
            counted.ids.add((node.node, one.id))
            counted.newest = max(counted.newest, one.modify_index)
    return Census(services, nodes)


class Comparison:
    """Compares one census after another with what was read."""

    def __init__(self) -> None:
        self._index = 0
        self._nodes: Mapping[str, int] = {}
        self._tried: dict[str, tuple[int, int, int]] = {}

    def differing(
        self, census: Census, index: int, *, held: Mapping[str, AbstractSet[Id]], read_at: Mapping[str, int]
    ) -> set[str]:
        """Of the services in `held`, with their instances, those to be read; `read_at`: at which index each was.

        `index` is that of the census. One that went backwards says that other servers answer now: then it is all.
        """
        back, self._index = index < self._index, index
        if back:
            self._nodes, self._tried = census.nodes, {}
            return set(held)
        moved = {node for node, told in census.nodes.items() if self._nodes.get(node, told) != told}
        self._nodes = census.nodes
        found: set[str] = set()
        for service, ids in held.items():
            counted = census.services.get(service, _NONE)
            if counted.ids == ids and counted.newest <= read_at.get(service, 0):
                self._tried.pop(service, None)
                if moved and any(node in moved for node, _ in ids):
                    found.add(service)
                continue
            state = (counted.newest, hash(frozenset(counted.ids)))
            last = self._tried.get(service, (*state, 0))
            tries = last[2] + 1 if last[:2] == state else 1
            if tries <= TRIES:
                self._tried[service] = (*state, tries)
                found.add(service)
        for service in self._tried.keys() - held.keys():
            del self._tried[service]
        return found
