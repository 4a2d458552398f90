"""Secrets on disk: directories that only their owner enters (0700), files that only their owner reads (0600)."""

from __future__ import annotations

import stat
from pathlib import Path

from federation.aio.files import read_state, write_state
from federation.errors import CorruptState, Denied, StorageFailed


def private_directory(path: Path) -> Path:
    """Make `path`, or close it to others where it exists; raises StorageFailed."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise StorageFailed(f"cannot make the directory {path}: {error.strerror}") from error
    return path


def write_secret(path: Path, data: bytes) -> None:
    """Write atomically, with a checksum, mode 0600, into a private directory; raises StorageFailed."""
    private_directory(path.parent)
    write_state(path, data)


def read_secret(path: Path, *, hint: str) -> bytes | None:
    """What `write_secret` wrote, or None where there is no file.

    Raises CorruptState with `hint` (what the owner of the file can do) for a damaged file, Denied (secret_exposed) for
    one that others may read, StorageFailed when it cannot be read.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageFailed(f"cannot read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise Denied(
            f"{path} can be read by other users (mode {mode:04o})",
            hint=f"if nobody has copied it: chmod 600 {path}",
            code="secret_exposed",
        )
    try:
        return read_state(path)
    except CorruptState as error:
        raise CorruptState(error.message, hint=hint) from error
