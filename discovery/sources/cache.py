"""What the file source keeps on disk: the last good content of every file, parsed.

With it a restarted agent reads only the files that changed, and a file or folder that is broken or missing at the start
still counts with what it last held.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from discovery.sources.manifests import Placed
from federation.errors import CorruptState

Fingerprint: TypeAlias = tuple[int, int, int, int, int]
"""(mtime ns, size, inode, ctime ns, device) of a file: when it is equal, so is the content."""


class CachedFile(msgspec.Struct, frozen=True):
    """A file as it was last understood; without a fingerprint it is read again."""

    fingerprint: Fingerprint | None
    ignored: int
    manifests: tuple[Placed, ...]


class Cache(msgspec.Struct, frozen=True):
    """All files, and when exports that do not say were first seen ("<namespace>/<service>" → ns)."""

    files: dict[str, CachedFile] = {}
    first_seen: dict[str, int] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Cache)


Saved: TypeAlias = msgspec.Raw


def encode_file(file: CachedFile) -> Saved:
    """One entry of the cache."""
    return msgspec.Raw(_encoder.encode(file))


def encode(files: Mapping[str, Saved], first_seen: Mapping[str, int]) -> bytes:
    """The cache, of entries that `encode_file` made: one call of C, so it is short whatever the number of files."""
    return _encoder.encode({"files": files, "first_seen": first_seen})


def decode(data: bytes) -> Cache:
    """Raises CorruptState for what another version wrote."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"the cache of manifests is of another version: {error}") from error
