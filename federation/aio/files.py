"""Files that survive a crash: written beside, synced, renamed; with a checksum, so that damage is noticed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from federation.errors import CorruptState, StorageFailed

_MAGIC = b"isthmus-state 1\n"


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace the file at `path` by `data`, whole or not at all, also through a power loss.

    Raises StorageFailed (disk full, read-only …); the old file is then unharmed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageFailed(f"cannot write {path}: {error.strerror}", hint="free or repair the disk") from error


def write_state(path: Path, data: bytes) -> None:
    """`write_atomic` with a checksum that `read_state` proves."""
    write_atomic(path, _MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


def read_state(path: Path) -> bytes | None:
    """What `write_state` wrote, or None where there is no file.

    Raises CorruptState for a damaged or foreign file, StorageFailed when it cannot be read.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageFailed(f"cannot read {path}: {error.strerror}") from error
    head = len(_MAGIC) + 65
    data = raw[head:]
    if raw[: len(_MAGIC)] != _MAGIC or raw[len(_MAGIC) : head] != hashlib.sha256(data).hexdigest().encode() + b"\n":
        raise CorruptState(
            f"{path} is damaged or was not written by isthmus",
            hint="move it away; it is rebuilt from what the other processes hold",
        )
    return data
