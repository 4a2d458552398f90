"""A registry as an archive, and back: in one step, and cut at every point of it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from federation.aio.archive import Archive, Manifest, pack, unpack
from federation.aio.clock import SystemClock
from federation.errors import Conflict, CorruptState, InvalidInput
from federation.registry import backup
from federation.registry.init import init
from federation.registry.settings import load
from federation.store.base import Token
from federation.store.sqlite import SqliteStore

CLOCK = SystemClock()


def registry(folder: Path, federation: str = "fed.example") -> Path:
    init(folder, federation, listen="127.0.0.1:7400")
    return folder


def issue(folder: Path, cluster: str) -> None:
    async def write() -> None:
        store = SqliteStore.open(folder / "registry.db", clock=CLOCK)
        now = CLOCK.wall_ns()
        await store.tokens.issue(
            Token(hash=cluster.encode(), cluster=cluster, issued_ns=now, expires_ns=now + 900 * 10**9)
        )
        await store.close()

    asyncio.run(write())


def tokens(folder: Path) -> tuple[set[str], bool]:
    """Those that could be used, and whether the store says that it was restored."""
    store = SqliteStore.open(folder / "registry.db", clock=CLOCK)
    try:
        return {t.cluster for t in store.tokens.all().values() if not t.revoked}, store.restored
    finally:
        store.close_now()


def test_a_backup_of_a_store_that_is_open_is_the_store_as_it_is(tmp_path: Path) -> None:
    folder = registry(tmp_path / "r")
    issue(folder, "east")

    async def copy() -> bytes:
        store = SqliteStore.open(folder / "registry.db", clock=CLOCK)
        try:
            return await store.snapshot()
        finally:
            await store.close()

    archive = backup.collect(load(folder / "settings.yaml"), asyncio.run(copy()), clock=CLOCK)
    backup.check(unpack(pack(archive), what="f"), federation="fed.example")
    assert {"registry.db", "ca/root.pem", "settings.yaml", "operator/operator.pem"} <= archive.files.keys()
    assert not {name for name in archive.files if "seen" in name or "sock" in name}


def test_an_older_one_is_restored_known_for_one_and_what_was_there_is_kept(tmp_path: Path) -> None:
    folder = registry(tmp_path / "r")
    issue(folder, "east")
    archive = backup.collect_stopped(folder)
    issue(folder, "west")
    before = (folder / "registry.db").read_bytes()
    backup.stage(folder, archive)
    assert backup.finish(folder)
    assert not backup.finish(folder)
    assert tokens(folder) == (set(), True)  # unused ones may have been used since
    assert backup.restored_at(folder) == archive.manifest.made_ns
    assert (folder / "before-restore/registry.db").read_bytes() == before
    assert not (folder / "restore").exists()


@pytest.mark.parametrize("steps", range(12))
def test_what_is_cut_anywhere_is_ended_by_the_next_start(
    tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = backup.collect_stopped(registry(tmp_path / "new"))
    folder = registry(tmp_path / "old")
    old_root = (folder / "ca/root.pem").read_bytes()
    done = 0
    move = Path.replace

    def cut(self: Path, target: Path) -> Path:
        nonlocal done
        done += 1
        if done > steps:
            raise KeyboardInterrupt
        return move(self, target)

    backup.stage(folder, new)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", cut)
        try:
            backup.finish(folder)
        except KeyboardInterrupt:
            assert (folder / "restore").exists()
    backup.finish(folder)
    assert (folder / "ca/root.pem").read_bytes() == new.files["ca/root.pem"] != old_root
    assert (folder / "before-restore/ca/root.pem").read_bytes() == old_root
    assert tokens(folder)[1]
    assert not (folder / "restore").exists()


def test_the_settings_of_the_host_stay(tmp_path: Path) -> None:
    archive = backup.collect_stopped(registry(tmp_path / "r"))
    there = registry(tmp_path / "there")
    text = (there / "settings.yaml").read_text().replace("127.0.0.1:7400", "192.0.2.9:7400")
    (there / "settings.yaml").write_text(text)
    backup.stage(there, archive)
    backup.finish(there)
    assert (there / "settings.yaml").read_text() == text
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o700)
    backup.stage(empty, archive)
    backup.finish(empty)
    assert load(empty / "settings.yaml").path == empty


def test_a_running_one_is_not_copied_from_beside(tmp_path: Path) -> None:
    folder = registry(tmp_path / "r")
    store = SqliteStore.open(folder / "registry.db", clock=CLOCK)
    try:
        with pytest.raises(Conflict) as caught:
            backup.collect_stopped(folder)
        assert caught.value.error_code == "store_locked"
    finally:
        store.close_now()


def test_what_no_registry_can_be_made_of_is_refused(tmp_path: Path) -> None:
    good = backup.collect_stopped(registry(tmp_path / "r"))
    shutil.rmtree(tmp_path / "r")
    files = dict(good.files)
    with pytest.raises(InvalidInput, match=r"registry of fed\.example, and here is that of other\.example"):
        backup.check(good, federation="other.example")
    of_cluster = Manifest(kind="cluster", name="east", made_ns=0, isthmus="0")
    with pytest.raises(InvalidInput, match="backup of a cluster, east"):
        backup.check(Archive(manifest=of_cluster, files=files))
    for name in ("ca/root.pem", "registry.db", "settings.yaml"):
        with pytest.raises(CorruptState, match=f"lacks {name}"):
            backup.check(Archive(manifest=good.manifest, files={n: d for n, d in files.items() if n != name}))
    with pytest.raises(CorruptState):
        backup.check(Archive(manifest=good.manifest, files={**files, "registry.db": b"no database" * 1000}))
    foreign = backup.collect_stopped(registry(tmp_path / "f", "other.example"))
    with pytest.raises(Conflict):
        backup.check(Archive(manifest=good.manifest, files={**files, "ca/root.pem": foreign.files["ca/root.pem"]}))
