"""Opens a SQLite file so that it keeps what it was given: one connection, WAL, synchronous=FULL, checked, migrated."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from federation.errors import Conflict, CorruptState, StorageFailed

MIN_VERSION = (3, 37, 0)
"""STRICT tables. Releases before 3.51.3 have the WAL-reset bug, which needs a second connection to the file: the
exclusive lock that `connect` holds excludes one (docs/adr/0006-registry-and-store.md)."""
APPLICATION_ID = 0x49535448  # "ISTH"


def connect(path: Path) -> sqlite3.Connection:
    """A connection that holds the file exclusively until it is closed, usable from any one thread at a time.

    Raises StorageFailed (sqlite_too_old, or the file cannot be opened), Conflict (store_locked), CorruptState.
    """
    if sqlite3.sqlite_version_info < MIN_VERSION:
        wanted = ".".join(map(str, MIN_VERSION))
        raise StorageFailed(
            f"SQLite {sqlite3.sqlite_version} is too old; {wanted} is needed",
            hint="use a Python that is linked with a newer SQLite",
            code="sqlite_too_old",
        )
    with translated(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    _check_owner(connection, path)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StorageFailed(f"{path} cannot use a write-ahead log (journal mode {mode})", hint="use a local disk")
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {pragma}")
    if connection.execute("PRAGMA synchronous").fetchone()[0] != 2:
        raise StorageFailed(f"{path}: SQLite does not accept synchronous=FULL")
    check_integrity(connection, path)
    migrate(connection, path)


def _check_owner(connection: sqlite3.Connection, path: Path) -> None:
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if owner != APPLICATION_ID and not (empty and owner == 0):
        raise CorruptState(f"{path} is the database of another program", hint="choose another directory")


def check_integrity(connection: sqlite3.Connection, path: Path) -> None:
    """Raises CorruptState when a page or an index of the file is damaged."""
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(1)")]
    if found != ["ok"]:
        raise damaged(path, found[0])


def migrations() -> list[tuple[int, str]]:
    """(number, SQL) of every migration, in order; the numbers are 1, 2, 3 …"""
    folder = resources.files("federation.store") / "migrations"
    found = sorted((int(f.name[:4]), f.read_text()) for f in folder.iterdir() if f.name.endswith(".sql"))
    if [number for number, _ in found] != list(range(1, len(found) + 1)):
        raise StorageFailed("the installation lacks a migration of the store", hint="install isthmus again")
    return found


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to the newest version, each step in a transaction; raises CorruptState for a newer file."""
    known = migrations()
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(known):
        raise CorruptState(
            f"{path} has schema {version}; this isthmus knows up to {len(known)}",
            hint="start the isthmus that wrote it, or a newer one",
        )
    for number, script in known[version:]:
        with transaction(connection):
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")


def _statements(script: str) -> Iterator[str]:
    # executescript would commit the transaction that we are in.
    text = ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            yield text
            text = ""


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """BEGIN IMMEDIATE … COMMIT; rolled back on any error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's and the system's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error
    except OSError as error:
        raise StorageFailed(f"cannot open {path}: {error.strerror}", hint="check the directory and the disk") from error


def translate(error: sqlite3.Error, path: Path) -> Conflict | CorruptState | StorageFailed:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Conflict(
            f"{path} is in use by another process",
            hint="is a registry running on this directory already?",
            code="store_locked",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        return StorageFailed(
            f"cannot write {path}: the disk is full", hint="free space; the registry goes on by itself"
        )
    return StorageFailed(f"cannot use {path}: {error}", hint="check the disk; the registry goes on by itself")


def damaged(path: Path, detail: str) -> CorruptState:
    return CorruptState(
        f"{path} is damaged: {detail}",
        hint="restore a backup of this file, or move it away and let the clusters join again",
    )
