"""What a registry is, in one archive, and the registry that an archive is.

Made while it serves: the store by SQLite's own backup, beside the CA, the settings and the operator's credential. A
restored one is put in place by renaming, file by file, and what is cut in the midst of it is ended at the next start.
What was there before is kept in `before-restore`. That the store is older than what was seen, it notices by itself
(federation.store.sqlite).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from federation import __version__
from federation.aio.archive import Archive, Manifest
from federation.aio.clock import Clock, SystemClock
from federation.aio.files import read_state, write_atomic, write_state
from federation.errors import CorruptState, InvalidInput, IsthmusError, StorageFailed
from federation.registry import settings as parse
from federation.registry.credentials import CA_DIRECTORY, OPERATOR_DIRECTORY, open_authority
from federation.registry.init import SETTINGS_FILE, STORE_FILE
from federation.registry.settings import RegistrySettings
from federation.store.schema import connect, translated
from federation.store.sqlite import SqliteStore, snapshot
from federation.trust.authority import ROOT_FILE
from federation.trust.keystore import private_directory

KIND = "registry"
STAGED, BEFORE = "restore", "before-restore"
"""Folders: what is to be put in place, and what stood there."""
RESTORED = "restored.state"
"""File: when the backup was made that was restored last (ns since 1970)."""
_CA = f"{CA_DIRECTORY}/{ROOT_FILE}"
_OLD = (_CA, STORE_FILE, f"{STORE_FILE}-wal", f"{STORE_FILE}-shm", f"{STORE_FILE}.seen")
"""What is moved away. `.seen` is not in an archive, by which the store knows that it was restored."""


def collect(settings: RegistrySettings, database: bytes, *, clock: Clock) -> Archive:
    """A backup of the registry in `settings.path` with this snapshot of its store. Blocks. Raises StorageFailed."""
    folder = settings.path
    names = [_CA, SETTINGS_FILE]
    names += sorted(f"{OPERATOR_DIRECTORY}/{path.name}" for path in (folder / OPERATOR_DIRECTORY).glob("*.*"))
    try:
        files = {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise StorageFailed(f"cannot read {error.filename}: {error.strerror}") from error
    manifest = Manifest(kind=KIND, name=settings.federation, made_ns=clock.wall_ns(), isthmus=__version__)
    return Archive(manifest=manifest, files={STORE_FILE: database, **files})


def collect_stopped(folder: Path, *, clock: Clock | None = None) -> Archive:
    """A backup of a registry that does not run. Blocks. Raises Conflict (store_locked: it does), CorruptState,
    StorageFailed, InvalidSettings."""
    settings = parse.load(folder / SETTINGS_FILE)
    connection = connect(folder / STORE_FILE)
    try:
        with translated(folder / STORE_FILE):
            database = snapshot(connection)
    finally:
        connection.close()
    return collect(settings, database, clock=clock or SystemClock())


def check(archive: Archive, *, federation: str = "") -> None:
    """Whether a registry can be made of it. Blocks. Raises InvalidInput (another federation, no registry's backup),
    CorruptState."""
    manifest = archive.manifest
    if manifest.kind != KIND:
        raise InvalidInput(
            f"this is the backup of a {manifest.kind}, {manifest.name}",
            hint=f"restore it with: fedctl restore FILE --cluster {manifest.name}",
            code="other_backup",
        )
    if federation and manifest.name != federation:
        raise InvalidInput(
            f"this is the backup of the registry of {manifest.name}, and here is that of {federation}",
            hint="restore it into a registry whose settings name that federation",
            code="other_federation",
        )
    missing = [name for name in (_CA, STORE_FILE, SETTINGS_FILE) if name not in archive.files]
    if missing:
        raise CorruptState(f"the backup lacks {missing[0]}", hint="use another backup")
    with tempfile.TemporaryDirectory(prefix="isthmus-") as directory:
        folder = Path(directory)
        _write(folder, archive)
        open_authority(
            RegistrySettings(federation=manifest.name, directory=directory), SystemClock()
        )  # Conflict where the CA is of another federation
        SqliteStore.prove(folder / STORE_FILE, clock=SystemClock())


def stage(folder: Path, archive: Archive) -> None:
    """Write what is to be put in place: whole, or not at all. Blocks. Raises StorageFailed."""
    writing, staged = folder / f"{STAGED}.tmp", folder / STAGED
    try:
        shutil.rmtree(writing, ignore_errors=True)
        private_directory(writing)
        _write(writing, archive)
        write_state(writing / RESTORED, str(archive.manifest.made_ns).encode())
        for old in (folder / BEFORE, staged):
            if old.exists():
                shutil.rmtree(old)
        writing.rename(staged)
        _sync(folder)
    except OSError as error:
        raise StorageFailed(f"cannot write {writing}: {error.strerror}") from error


def finish(folder: Path) -> bool:
    """Put in place what was staged, if anything was; also what an attempt that was cut has left. Blocks.

    The settings that are there stay: they say where this host listens. Raises StorageFailed.
    """
    staged, before = folder / STAGED, folder / BEFORE
    if not staged.is_dir():
        return False
    try:
        if (staged / STORE_FILE).exists():  # it goes last: until then what stands in its place is the old one
            private_directory(before / CA_DIRECTORY)
            for name in _OLD:
                if (folder / name).exists() and (name != _CA or (staged / name).exists()):
                    (folder / name).replace(before / name)
            for path in sorted(p for p in staged.rglob("*") if p.is_file() and p != staged / STORE_FILE):
                target = folder / path.relative_to(staged)
                if target == folder / SETTINGS_FILE and target.exists():
                    continue
                target.parent.mkdir(mode=0o700, exist_ok=True)
                path.replace(target)
                _sync(target.parent)
            (staged / STORE_FILE).replace(folder / STORE_FILE)
            _sync(folder)
        shutil.rmtree(staged)
    except OSError as error:
        raise StorageFailed(f"cannot restore {folder}: {error.strerror}") from error
    return True


def restored_at(folder: Path) -> int:
    """When the backup was made that was restored last (ns since 1970); 0: none was, or that is not known."""
    try:
        return int(read_state(folder / RESTORED) or b"0")
    except (IsthmusError, ValueError):
        return 0


def _write(folder: Path, archive: Archive) -> None:
    for name, data in archive.files.items():
        private_directory((folder / name).parent)
        write_atomic(folder / name, data, mode=0o600)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
