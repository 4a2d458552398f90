"""What the Kubernetes source keeps on disk, so that a restarted agent serves without an API server: all its exports.

Only a source that has read everything writes it, so what is in it is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from discovery.kube.types import HeldSlice, Node, Service, ServiceExport
from federation.errors import CorruptState
from federation.model.service import Locality

VERSION = 1


class Exported(msgspec.Struct, frozen=True):
    """The objects of one export."""

    export: ServiceExport
    service: Service | None
    slices: list[HeldSlice]


class Cache(msgspec.Struct, frozen=True):
    """`nodes`: name → (region, zone); `exports` by "namespace/name"."""

    version: int
    nodes: dict[str, tuple[str, str]]
    exports: dict[str, Exported]

    def placed(self) -> Iterable[Node]:
        """The nodes as a store has them; their version is not known."""
        return (Node(name, "", Locality(region, zone)) for name, (region, zone) in self.nodes.items())


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Cache)


def encode_export(exported: Exported) -> msgspec.Raw:
    """One entry of the cache."""
    return msgspec.Raw(_encoder.encode(exported))


def encode(exports: Mapping[str, msgspec.Raw], nodes: Mapping[str, tuple[str, str]]) -> bytes:
    """The cache, of entries that `encode_export` made: one call of C, so it is short whatever the number of exports."""
    return _encoder.encode({"version": VERSION, "nodes": nodes, "exports": exports})


def decode(data: bytes) -> Cache:
    """Raises CorruptState for what another version wrote."""
    try:
        cache = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"the cache of Kubernetes is of another version: {error}") from error
    if cache.version != VERSION:
        raise CorruptState(f"the cache of Kubernetes is of version {cache.version}, not {VERSION}")
    return cache
