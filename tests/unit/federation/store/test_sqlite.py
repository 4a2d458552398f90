"""The SQLite store through restarts, power losses, damage, full disks and restored backups."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from federation.aio.clock import FakeClock
from federation.errors import Conflict, CorruptState, Denied, StorageFailed
from federation.store import schema
from federation.store.picture import Picture
from federation.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def content(path: Path) -> bytes:
    return path.read_bytes()


async def filled(path: Path, clock: FakeClock, make: Any) -> Picture:
    store = SqliteStore.open(path, clock=clock)
    await make.joined(store, "east", "west")
    await store.links.put(make.link())
    await store.clusters.raise_epoch("east", 7)
    await store.tokens.issue(make.token("edge", secret=b"edge"))
    await make.joined(store, "north")
    await store.clusters.remove("north")
    picture = store.picture
    await store.close()
    return picture


async def test_everything_is_there_after_a_restart(path: Path, clock: FakeClock, make: Any) -> None:
    picture = await filled(path, clock, make)
    store = SqliteStore.open(path, clock=clock)
    assert store.picture == picture
    assert not store.restored
    await store.close()
    assert mode_of(path) == 0o600


async def test_durability_is_as_promised(path: Path, clock: FakeClock) -> None:
    store = SqliteStore.open(path, clock=clock)
    ask = store._connection.execute
    assert ask("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ask("PRAGMA synchronous").fetchone() == (2,)
    assert ask("PRAGMA user_version").fetchone() == (len(schema.migrations()),)
    await store.close()


async def test_a_store_of_the_first_version_is_brought_forward(
    path: Path, clock: FakeClock, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = schema.migrations()[:1]
    with monkeypatch.context() as patched:
        patched.setattr(schema, "migrations", lambda: first)
        schema.connect(path).close()
    store = SqliteStore.open(path, clock=clock)
    assert not store.restored
    await make.joined(store, "east")
    await store.clusters.remove("east")
    assert list(store.picture.departed) == ["east"]
    await store.close()


async def test_each_opening_begins_a_higher_epoch(path: Path, clock: FakeClock) -> None:
    epochs = []
    for _ in range(3):
        store = SqliteStore.open(path, clock=clock)  # the clock stands still, or was set back
        epochs.append(store.epoch)
        await store.close()
    assert epochs == sorted(set(epochs))


async def test_a_second_process_is_kept_out(path: Path, clock: FakeClock) -> None:
    store = SqliteStore.open(path, clock=clock)
    with pytest.raises(Conflict) as caught:
        SqliteStore.open(path, clock=clock)
    assert caught.value.error_code == "store_locked"
    await store.close()


async def test_what_was_not_closed_is_not_lost(path: Path, clock: FakeClock, make: Any, tmp_path: Path) -> None:
    """kill -9: the files as they are on disk at this moment, under a new name."""
    store = SqliteStore.open(path, clock=clock)
    await make.joined(store, "east")
    copy = tmp_path / "after"
    copy.mkdir()
    for file in path.parent.glob("registry.db*"):
        shutil.copy(file, copy / file.name)
    picture = store.picture
    await store.close()
    revived = SqliteStore.open(copy / path.name, clock=clock)
    assert revived.picture == picture
    await revived.close()


async def test_every_prefix_of_the_log_opens_clean(path: Path, clock: FakeClock, make: Any, tmp_path: Path) -> None:
    """Power loss: whatever part of the write-ahead log reached the disk, a state that was once committed comes back."""
    store = SqliteStore.open(path, clock=clock)
    states = [store.picture]
    store.subscribe(lambda _: states.append(store.picture))
    await make.joined(store, "east", "west")
    await store.links.put(make.link())
    await store.clusters.remove("east")
    log = content(path.with_name("registry.db-wal"))
    main = content(path)
    await store.close()
    known = [(s.members, s.links) for s in states]
    lengths = [*range(0, len(log), 4096 + 24), len(log) - 1, len(log), 31, 33, 5000]
    seen = set()
    for number, length in enumerate(lengths):
        copy = tmp_path / f"cut{number}" / path.name
        copy.parent.mkdir()
        copy.write_bytes(main)
        copy.with_name("registry.db-wal").write_bytes(log[:length])
        revived = SqliteStore.open(copy, clock=clock)
        assert (revived.picture.members, revived.picture.links) in known
        seen.add(len(revived.picture.members))
        await revived.close()
    assert len(seen) > 1


async def test_flipped_bits_are_found_or_harmless(path: Path, clock: FakeClock, make: Any, tmp_path: Path) -> None:
    picture = await filled(path, clock, make)
    good = content(path)
    found = 0
    for position in range(0, len(good), 97):
        copy = tmp_path / "flipped" / path.name
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy.parent.mkdir()
        shutil.copy(path.with_name("registry.db.seen"), copy.parent)
        copy.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        try:
            store = SqliteStore.open(copy, clock=clock)
        except (CorruptState, StorageFailed) as error:
            found += bool(error.hint)
        else:
            assert store.picture == picture
            await store.close()
    assert found > 0


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be looked at" * 40, b"\0" * 8192])
def test_garbage_is_refused_and_left_alone(path: Path, clock: FakeClock, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CorruptState) as caught:
        SqliteStore.open(path, clock=clock)
    assert caught.value.hint
    assert path.read_bytes() == content


def test_another_programs_database_is_refused(path: Path, clock: FakeClock) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(CorruptState):
        SqliteStore.open(path, clock=clock)


def test_a_newer_schema_is_refused(path: Path, clock: FakeClock) -> None:
    SqliteStore.open(path, clock=clock).close_now()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(CorruptState, match="schema 99"):
        SqliteStore.open(path, clock=clock)


def test_an_old_sqlite_is_refused(path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(StorageFailed) as caught:
        SqliteStore.open(path, clock=clock)
    assert caught.value.error_code == "sqlite_too_old"


def test_a_missing_directory_is_an_error_of_ours(path: Path, clock: FakeClock) -> None:
    with pytest.raises(StorageFailed):
        SqliteStore.open(path / "deeper", clock=clock)


async def test_a_full_disk_fails_closed_and_heals(path: Path, clock: FakeClock, make: Any) -> None:
    store = SqliteStore.open(path, clock=clock)
    await make.joined(store, "east")
    before = store.picture
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    big = make.member("west", root=b"r" * 50_000)
    token = make.token("west", secret=b"w")

    async def let_in() -> None:
        await store.tokens.issue(token)
        await store.clusters.enrol(token.hash, big, "print")

    with pytest.raises(StorageFailed, match="full"):
        await let_in()
    assert store.failure
    assert store.picture.members == before.members
    store._connection.execute("PRAGMA max_page_count = 100000")
    await make.joined(store, "west")
    assert not store.failure
    assert set(store.clusters.all()) == {"east", "west"}
    await store.close()


async def test_a_restored_backup_is_noticed(path: Path, clock: FakeClock, make: Any, tmp_path: Path) -> None:
    store = SqliteStore.open(path, clock=clock)
    token = make.token("east")
    await store.tokens.issue(token)
    first_epoch = store.epoch
    await store.close()
    shutil.copy(path, tmp_path / "backup")
    store = SqliteStore.open(path, clock=clock)
    assert not store.restored
    await store.clusters.enrol(token.hash, make.member("east"), "print")
    second_epoch = store.epoch
    await store.close()

    shutil.copy(tmp_path / "backup", path)
    store = SqliteStore.open(path, clock=clock)
    assert store.restored
    assert store.epoch > second_epoch > first_epoch
    assert not store.clusters.all()
    with pytest.raises(Denied) as caught:  # the backup holds it as unused, but it has been used
        await store.clusters.enrol(token.hash, make.member("east", root=b"thief"), "thief")
    assert caught.value.error_code == "token_revoked"
    await store.close()
    store = SqliteStore.open(path, clock=clock)
    assert not store.restored  # once is enough
    await store.close()


async def test_a_database_without_its_companion_counts_as_restored(path: Path, clock: FakeClock, make: Any) -> None:
    await filled(path, clock, make)
    path.with_name("registry.db.seen").unlink()
    store = SqliteStore.open(path, clock=clock)
    assert store.restored
    await store.close()


async def test_the_disk_full_at_the_start(path: Path, clock: FakeClock, make: Any, monkeypatch: Any) -> None:
    """What is known is served; the epoch still rises, by the wall clock."""
    picture = await filled(path, clock, make)

    def refuse(connection: sqlite3.Connection) -> Any:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(schema, "transaction", refuse)
    clock.advance(1)
    store = SqliteStore.open(path, clock=clock)
    assert store.failure
    assert store.picture == picture
    assert store.epoch == clock.wall_ns()
    with pytest.raises(StorageFailed):
        await store.clusters.remove("east")
    assert store.picture == picture
    monkeypatch.undo()
    await store.clusters.remove("east")
    assert not store.failure
    await store.close()
