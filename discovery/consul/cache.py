"""What the Consul source keeps on disk, so that a restarted agent serves without Consul: the instances of its exports.

And what must not change when it restarts: since when each is exported, and the numbers of its ports. Only a source that
has read everything writes it, so what is in it is whole. Datacenters that are not in the settings any more are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from discovery.consul.types import Instance
from federation.errors import CorruptState

VERSION = 1
NEW = "consul.new"
"""The file in a state directory that says, while it is there, that nothing was ever reported from Consul."""


class Remembered(msgspec.Struct, frozen=True, array_like=True):
    """discovery.consul.exports.Memory."""

    datacenter: str
    service: str
    since_ns: int
    ports: dict[str, int]
    ended_ns: int


class Held(msgspec.Struct, frozen=True, array_like=True):
    """The instances of one service."""

    datacenter: str
    service: str
    instances: list[Instance]


class Cache(msgspec.Struct, frozen=True):
    """`datacenters` that were read; `rules`: the last good text of the rule file."""

    version: int
    datacenters: list[str]
    rules: bytes
    memory: list[Remembered]
    services: list[Held]
    indexes: dict[str, int] = {}
    """Of the catalogues, as last seen: servers that begin anew while nobody reads them have lower ones."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Cache)


def encode_service(datacenter: str, service: str, instances: Iterable[Instance]) -> msgspec.Raw:
    """One entry of the cache."""
    return msgspec.Raw(_encoder.encode(Held(datacenter, service, list(instances))))


def encode(
    services: Iterable[msgspec.Raw],
    memory: Iterable[Remembered],
    rules: bytes,
    datacenters: Iterable[str],
    indexes: Mapping[str, int],
) -> bytes:
    """The cache, of entries that `encode_service` made: one call of C, so it is short whatever their number."""
    tree: Mapping[str, object] = {
        "version": VERSION,
        "datacenters": list(datacenters),
        "rules": rules,
        "memory": list(memory),
        "services": list(services),
        "indexes": dict(indexes),
    }
    return _encoder.encode(tree)


def decode(data: bytes) -> Cache:
    """Raises CorruptState for what another version wrote."""
    try:
        cache = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"the cache of Consul is of another version: {error}") from error
    if cache.version != VERSION:
        raise CorruptState(f"the cache of Consul is of version {cache.version}, not {VERSION}")
    return cache
