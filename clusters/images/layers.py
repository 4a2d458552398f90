"""Folders laid out from packages, and tars of them that depend on names and contents alone."""

from __future__ import annotations

import hashlib
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from clusters.images.recipe import System

_MERGED = ("bin", "sbin", "lib", "lib64")
"""Folders that are links to those below /usr, whatever a package says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A tar of files and its digest, which is the layer's identity (`diff_id`)."""

    name: str
    tar: Path
    digest: str
    """SHA-256, in hexadecimal."""
    size: int
    """Bytes of the tar."""


def lay_out(system: System, packages: Iterable[tuple[Path, str, str]], into: Path) -> None:
    """Write a system into an empty folder; a package comes as the folder of its files, its name and its record."""
    for files, name, record in packages:
        for source in _walk(files):
            path = merged(source.relative_to(files).as_posix())
            if source.is_dir() and not source.is_symlink():
                continue  # folders are made by what is in them
            if not system.keeps(path):
                continue
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target, follow_symlinks=False)
            if not source.is_symlink():
                target.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)
        note = into / "var/lib/dpkg/status.d" / name
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(record)
    for folder in _MERGED:
        (into / "usr" / folder).mkdir(parents=True, exist_ok=True)
        (into / folder).symlink_to(f"usr/{folder}")
    for path, content in system.files.items():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        (into / path).write_text(content)
    for path, goal in system.links.items():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        (into / path).symlink_to(goal)
    for path in system.folders:
        (into / path).mkdir(parents=True, exist_ok=True)


def merged(path: str) -> str:
    """Where a package's path lies in a system whose /bin, /lib and so on are those below /usr."""
    return f"usr/{path}" if path.split("/", 1)[0] in _MERGED else path


def certificates(packages: Iterable[Path]) -> str:
    """The public roots as one file, as the package's own script would put them together."""
    found = (path for files in packages for path in (files / "usr/share/ca-certificates").glob("**/*.crt"))
    return "".join(path.read_text() for path in sorted(found, key=lambda path: path.name))


def prune(folder: Path, dropped: Callable[[str], bool]) -> None:
    """Remove the files whose path below `folder` is dropped, and the folders that are empty then."""
    for path in sorted(_walk(folder), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif dropped(path.relative_to(folder).as_posix()):
            path.unlink()


def pack(folder: Path, tar: Path, *, epoch: int, folders: Mapping[str, tuple[int, int]] | None = None) -> str:
    """Write a folder as a tar and return its SHA-256.

    Entries are sorted; owners are root, modes 755 or 644, times `epoch` (s), apart from `folders` (mode, owner): so
    the same names and contents give the same bytes, whoever packs them.
    """
    special = folders or {}
    with tarfile.open(tar, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in _walk(folder):
            name = path.relative_to(folder).as_posix()
            entry = tarfile.TarInfo(name)
            entry.mtime = epoch
            if path.is_symlink():
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
                archive.addfile(entry)
            elif path.is_dir():
                mode, owner = special.get(name, (0o755, 0))
                entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
                archive.addfile(entry)
            else:
                status = path.stat()
                entry.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
                entry.size = status.st_size
                with path.open("rb") as content:
                    archive.addfile(entry, content)
    with tar.open("rb") as made:
        return hashlib.file_digest(made, "sha256").hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder, in an order that depends on the names alone; links are not followed."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
