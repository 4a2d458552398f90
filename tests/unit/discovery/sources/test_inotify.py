"""The kernel's word: which names are told, and when a folder is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from discovery.sources.inotify import FolderWatch


class Told:
    """What a watch told; None: everything has to be looked at."""

    def __init__(self, folder: Path) -> None:
        self.calls: list[set[str] | None] = []
        self.watch = FolderWatch(folder, self.calls.append)

    @property
    def names(self) -> set[str]:
        return set().union(*(c for c in self.calls if c is not None))

    async def until_named(self, *names: str) -> None:
        async with asyncio.timeout(10):
            while not set(names) <= self.names:
                await asyncio.sleep(0.001)

    async def until_all(self) -> None:
        async with asyncio.timeout(10):
            while None not in self.calls:
                await asyncio.sleep(0.001)


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[Told]:
    folder = tmp_path / "folder"
    folder.mkdir()
    one = Told(folder)
    one.watch.start()
    yield one
    one.watch.close()


async def test_a_file_is_told_when_its_writer_closes_it(told: Told, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with (folder / "open.yaml").open("w") as file:
        file.write("half")
        file.flush()
        (folder / "other.yaml").write_text("whole")
        await told.until_named("other.yaml")
        assert "open.yaml" not in told.names
    await told.until_named("open.yaml")


async def test_moved_linked_and_deleted(told: Told, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (tmp_path / "new").write_text("x")
    (tmp_path / "new").replace(folder / "moved.yaml")
    (folder / "symbolic.yaml").symlink_to("moved.yaml")
    (folder / "hard.yaml").hardlink_to(folder / "moved.yaml")
    await told.until_named("moved.yaml", "symbolic.yaml", "hard.yaml")
    told.calls.clear()
    (folder / "hard.yaml").unlink()
    (folder / "moved.yaml").replace(tmp_path / "away")
    await told.until_named("hard.yaml", "moved.yaml")
    (folder / "subfolder").mkdir()
    (folder / "last.yaml").write_text("x")
    await told.until_named("last.yaml")
    assert "subfolder" not in told.names


async def test_the_files_of_a_mounted_map_are_replaced_through_its_link(told: Told, tmp_path: Path) -> None:
    (tmp_path / "folder" / "..2026").mkdir()
    await told.until_all()
    assert told.watch.alive


async def test_a_folder_that_goes_can_be_watched_again(told: Told, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.rmdir()
    await told.until_all()
    assert not told.watch.alive
    with pytest.raises(FileNotFoundError):
        told.watch.start()
    folder.mkdir()
    told.watch.start()
    assert told.watch.alive
    (folder / "a.yaml").write_text("x")
    await told.until_named("a.yaml")
    told.watch.close()
    told.watch.close()


async def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        FolderWatch(tmp_path / "file", lambda _: None).start()
