"""Several files in one, so that damage is noticed: what `fedctl backup` writes.

An ordinary tar: first manifest.json (what it is a backup of), then the files, at the end SHA256SUMS over all of them.
So it can be looked into, and proved, without us: tar -xf FILE && sha256sum -c SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import msgspec

from federation.errors import CorruptState

FORMAT = 1
_MANIFEST, _SUMS = "manifest.json", "SHA256SUMS"
_HINT = "use another backup"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`kind`: "registry" or "cluster"; `name`: the federation, or the cluster; `made_ns`: since 1970; `isthmus`: the
    version that made it."""

    format: int = FORMAT
    kind: str
    name: str
    made_ns: int
    isthmus: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """`files` by their path, relative to wherever they go."""

    manifest: Manifest
    files: Mapping[str, bytes] = field(repr=False)


def pack(archive: Archive) -> bytes:
    """The archive as bytes: the same for the same content."""
    content = {_MANIFEST: msgspec.json.format(msgspec.json.encode(archive.manifest)) + b"\n", **archive.files}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content.items())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in {**content, _SUMS: sums.encode()}.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o600, archive.manifest.made_ns // 1_000_000_000
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def unpack(data: bytes, *, what: str) -> Archive:
    """The archive that `pack` made; `what` names it in errors. Raises CorruptState."""
    content = _members(data, what)
    sums = content.pop(_SUMS, b"").decode(errors="replace")
    found = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    said = {name: digest for line in sums.splitlines() for digest, _, name in [line.partition("  ")]}
    if not said or found != said:
        wrong = sorted(name for name in {*found, *said} if found.get(name) != said.get(name))
        raise CorruptState(f"{what} is damaged or cut: {', '.join(wrong[:3]) or _SUMS} is not as it was", hint=_HINT)
    try:
        manifest = msgspec.json.decode(content.pop(_MANIFEST, b""), type=Manifest)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"{what} is no backup of Isthmus: {error}", hint=_HINT) from error
    if manifest.format > FORMAT:
        raise CorruptState(
            f"{what} has format {manifest.format}; this fedctl knows up to {FORMAT}",
            hint=f"restore it with isthmus {manifest.isthmus}, or a newer one",
            code="newer_backup",
        )
    return Archive(manifest=manifest, files=content)


def _members(data: bytes, what: str) -> dict[str, bytes]:
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                path = PurePosixPath(member.name)
                if file is None or path.is_absolute() or ".." in path.parts or member.name in content:
                    raise CorruptState(f"{what} is no backup of Isthmus: it holds {member.name[:80]!r}", hint=_HINT)
                content[member.name] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorruptState(f"{what} is no backup of Isthmus, or is cut: {error}", hint=_HINT) from error
    return content
