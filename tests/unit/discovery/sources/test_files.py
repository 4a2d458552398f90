"""The file source over a real folder: what it reads, what it keeps, and what it says of what is wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from discovery.sources.base import SourceState
from discovery.sources.files import FileSource
from federation import log
from federation.aio.clock import SystemClock
from federation.errors import Conflict, NotFound, Unavailable
from federation.model.ids import ServiceName
from federation.model.service import Grant, Locality

Until = Callable[..., Awaitable[Any]]
ECHO = ServiceName("shop", "echo")


def there(path: str) -> bool:
    return Path(path).exists()


class Running:
    """A source that follows a folder."""

    def __init__(self, source: FileSource, folder: Path, until: Until) -> None:
        self.source, self.folder, self._until = source, folder, until

    @property
    def state(self) -> SourceState:
        return self.source.state.value

    def problems(self) -> dict[str, str]:
        return {p.code: p.subject for p in self.state.problems}

    def addresses(self, name: ServiceName = ECHO) -> list[str]:
        service = self.state.exports.get(name)
        return [] if service is None else [e.address for e in service.endpoints]

    async def until(self, condition: Callable[[], Any]) -> Any:
        return await self._until(condition)


Follow = Callable[..., Any]


@pytest.fixture
def follow(folder: Path, tmp_path: Path, until: Until) -> Follow:
    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[Running]:
        source = FileSource(
            folder,
            cache_path=tmp_path / "manifests.state",
            locality=Locality("eu", "eu-1"),
            clock=SystemClock(),
            log=log.get("test"),
            **{"poll_seconds": 0.2, "confirm_seconds": 0.4, "cache_seconds": 0.05, **options},
        )
        task = asyncio.create_task(source.run(), name="source")
        try:
            yield Running(source, folder, until)
        finally:
            task.cancel()
            await asyncio.wait({task})

    return start


async def test_a_folder_is_read_and_followed(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    write(folder, "inner.yml", manifest("inner", export=False))
    (folder / "notes.txt").write_text("not a manifest")
    (folder / ".hidden.yaml").write_text("{")
    (folder / "sub.yaml").mkdir()
    async with follow(poll_seconds=60) as running:
        await running.until(lambda: running.state.complete)
        assert running.addresses() == ["10.0.0.1"]
        assert set(running.state.services) == {ECHO, ServiceName("shop", "inner")}
        assert running.state.problems == ()
        write(folder, "echo.yaml", manifest("echo", "10.0.0.1", "10.0.0.2"))
        await running.until(lambda: running.addresses() == ["10.0.0.1", "10.0.0.2"])
        (folder / "echo.yaml").write_text(manifest("echo", "10.0.0.3"))  # in place
        await running.until(lambda: running.addresses() == ["10.0.0.3"])
        write(folder, "other.json", '{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}')
        await running.until(lambda: running.source.ignored == 1)
        (folder / "echo.yaml").unlink()
        await running.until(lambda: ECHO not in running.state.exports)


async def test_unchanged_services_stay_the_same_objects(
    folder: Path, follow: Follow, manifest: Any, write: Any
) -> None:
    for name in ("echo", "other"):
        write(folder, f"{name}.yaml", manifest(name, "10.0.0.1"))
    async with follow(poll_seconds=60) as running:
        await running.until(lambda: running.state.complete)
        before = running.state.exports[ServiceName("shop", "other")]
        write(folder, "echo.yaml", manifest("echo", "10.0.0.2"))
        await running.until(lambda: running.addresses() == ["10.0.0.2"])
        assert running.state.exports[ServiceName("shop", "other")] is before


async def test_symbolic_links_of_a_mounted_config_map(
    folder: Path, tmp_path: Path, follow: Follow, manifest: Any
) -> None:
    for version, address in (("v1", "10.0.0.1"), ("v2", "10.0.0.2")):
        (folder / f"..{version}").mkdir()
        (folder / f"..{version}" / "echo.yaml").write_text(manifest("echo", address))
    (folder / "..data").symlink_to("..v1")
    (folder / "echo.yaml").symlink_to("..data/echo.yaml")
    async with follow() as running:
        await running.until(lambda: running.addresses() == ["10.0.0.1"])
        (folder / "..tmp").symlink_to("..v2")
        (folder / "..tmp").rename(folder / "..data")
        await running.until(lambda: running.addresses() == ["10.0.0.2"])


async def test_a_bad_file_keeps_its_last_good_state(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    async with follow() as running:
        await running.until(lambda: running.state.complete)
        write(folder, "echo.yaml", manifest("echo", "10.0.0.2", port=70000))
        await running.until(lambda: running.problems() == {"invalid_port": "echo.yaml:6"})
        assert running.addresses() == ["10.0.0.1"]
        write(folder, "echo.yaml", manifest("echo", "10.0.0.2"))
        await running.until(lambda: running.addresses() == ["10.0.0.2"])
        assert running.state.problems == ()


async def test_a_bad_file_keeps_it_over_a_restart(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    async with follow() as running:
        await running.until(lambda: running.state.complete)
    write(folder, "echo.yaml", "kind: [")
    async with follow() as running:
        await running.until(lambda: "file_malformed" in running.problems())
        assert running.addresses() == ["10.0.0.1"]


async def test_a_huge_file_is_refused_unread(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    async with follow() as running:
        await running.until(lambda: running.state.complete)
        beside = folder.parent / "huge"
        with beside.open("wb") as file:
            file.truncate(100 << 20)  # 100 MB, sparse
        beside.replace(folder / "echo.yaml")
        await running.until(lambda: running.problems() == {"file_too_large": "echo.yaml:1"})
        assert running.addresses() == ["10.0.0.1"]


async def test_what_is_no_regular_file_is_refused(folder: Path, follow: Follow) -> None:
    os.mkfifo(folder / "pipe.yaml")
    (folder / "dangling.yaml").symlink_to("nowhere")
    async with follow() as running:
        await running.until(lambda: running.problems() == {"file_unreadable": "pipe.yaml:1"})


async def test_an_unreadable_file_keeps_its_last_good_state(
    folder: Path, follow: Follow, manifest: Any, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    async with follow() as running:
        await running.until(lambda: running.state.complete)
        real = os.open

        def refuse(path: Any, *args: Any, **more: Any) -> int:
            if str(path).endswith("echo.yaml"):
                raise PermissionError(13, "Permission denied")
            return real(path, *args, **more)

        monkeypatch.setattr(os, "open", refuse)  # as root, permissions do not refuse
        beside = folder.parent / "beside"
        beside.write_text(manifest("echo", "10.0.0.2"))
        beside.replace(folder / "echo.yaml")
        await running.until(lambda: running.problems() == {"file_unreadable": "echo.yaml:1"})
        assert running.addresses() == ["10.0.0.1"]
        monkeypatch.undo()
        await running.until(lambda: running.addresses() == ["10.0.0.2"])


async def test_a_vanished_folder_deletes_nothing(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    async with follow() as running:
        await running.until(lambda: running.state.complete)
        away = folder.with_name("away")
        os.rename(folder, away)
        await running.until(lambda: "folder_gone" in running.problems())
        await asyncio.sleep(0.6)  # longer than a second look takes
        assert running.addresses() == ["10.0.0.1"]
        os.rename(away, folder)
        await running.until(lambda: running.state.problems == ())
        write(folder, "echo.yaml", manifest("echo", "10.0.0.2"))
        await running.until(lambda: running.addresses() == ["10.0.0.2"])


async def test_a_start_without_the_folder_serves_what_was_known(
    folder: Path, follow: Follow, manifest: Any, write: Any
) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    async with follow() as running:
        await running.until(lambda: running.state.complete)
    shutil.rmtree(folder)
    async with follow() as running:
        await running.until(lambda: "folder_gone" in running.problems())
        assert running.state.complete
        assert running.addresses() == ["10.0.0.1"]


async def test_without_folder_and_memory_nothing_is_claimed(folder: Path, follow: Follow) -> None:
    os.rmdir(folder)
    async with follow() as running:
        await running.until(lambda: "folder_gone" in running.problems())
        assert not running.state.complete


async def test_a_mass_removal_is_held_then_believed(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    for n in range(30):
        write(folder, f"s{n}.yaml", manifest(f"s{n}", "10.0.0.1"))
    async with follow(confirm_seconds=1.0) as running:
        await running.until(lambda: len(running.state.exports) == 30)
        for n in range(20):
            (folder / f"s{n}.yaml").unlink()
        await running.until(lambda: "removal_held" in running.problems())
        assert len(running.state.exports) >= 24
        write(folder, "s0.yaml", manifest("s0", "10.0.0.9"))
        await running.until(lambda: running.addresses(ServiceName("shop", "s0")) == ["10.0.0.9"])
        await running.until(lambda: len(running.state.exports) == 11)
        assert running.state.problems == ()


async def test_an_emptied_file_counts_as_gone(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    async with follow(confirm_seconds=0.6) as running:
        await running.until(lambda: running.state.complete)
        (folder / "echo.yaml").write_text("")
        await running.until(lambda: "removal_held" in running.problems())
        assert running.addresses() == ["10.0.0.1"]
        (folder / "echo.yaml").write_text(manifest("echo", "10.0.0.2"))
        await running.until(lambda: running.addresses() == ["10.0.0.2"])
        assert running.state.problems == ()
        (folder / "echo.yaml").write_text("# nothing any more\n")
        await running.until(lambda: running.state.exports == {})


async def test_duplicates_and_exports_without_service(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    write(folder, "a.yaml", manifest("echo", "10.0.0.1"))
    write(folder, "b.yaml", "\n\n" + manifest("echo", export=False, port=81))
    lonely = manifest("lonely").partition("---\n")[2]
    write(folder, "c.yaml", lonely)
    async with follow() as running:
        await running.until(lambda: running.state.complete)
        assert running.problems() == {"no_service": "c.yaml:1", "duplicate_object": "b.yaml:3"}
        assert running.state.exports[ECHO].ports[0].port == 80
        (folder / "a.yaml").unlink()
        await running.until(lambda: "duplicate_object" not in running.problems())


async def test_a_half_written_file_is_not_believed_by_the_slow_look(
    folder: Path, follow: Follow, manifest: Any
) -> None:
    (folder / "echo.yaml").write_text(manifest("echo", "10.0.0.1", "10.0.0.2"))
    async with follow(poll_seconds=0.05) as running:
        await running.until(lambda: running.state.complete)
        whole = manifest("echo", "10.0.0.1", "10.0.0.2")
        with (folder / "echo.yaml").open("w") as file:  # never closed while it is half
            for n in range(1, 20):
                file.seek(0)
                file.truncate()
                file.write(whole[: len(whole) * n // 20])
                file.flush()
                await asyncio.sleep(0.02)
                assert running.addresses() == ["10.0.0.1", "10.0.0.2"]
            file.seek(0)
            file.write(whole)
        assert running.addresses() == ["10.0.0.1", "10.0.0.2"]


async def test_the_age_of_an_export_is_stable(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    async with follow() as running:
        await running.until(lambda: running.state.complete)
        age = running.state.exports[ECHO].exported_at_ns
        assert 0 < age <= (folder / "echo.yaml").stat().st_mtime_ns
        write(folder, "echo.yaml", manifest("echo", "10.0.0.2"))
        await running.until(lambda: running.addresses() == ["10.0.0.2"])
        assert running.state.exports[ECHO].exported_at_ns == age
    async with follow() as running:
        await running.until(lambda: running.state.complete)
        assert running.state.exports[ECHO].exported_at_ns == age


async def test_a_damaged_cache_is_put_aside(folder: Path, tmp_path: Path, follow: Follow, manifest: Any) -> None:
    (folder / "echo.yaml").write_text(manifest("echo", "10.0.0.1"))
    (tmp_path / "manifests.state").write_bytes(b"isthmus-state 1\nnonsense")
    async with follow() as running:
        await running.until(lambda: running.addresses() == ["10.0.0.1"])
    assert (tmp_path / "manifests.state.corrupt").exists()


async def test_without_inotify_changes_are_found_by_looking(
    folder: Path, follow: Follow, manifest: Any, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object) -> None:
        raise OSError(24, "too many open files")

    monkeypatch.setattr("discovery.sources.inotify.FolderWatch.start", refuse)
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    async with follow() as running:
        await running.until(lambda: "watch_unavailable" in running.problems())
        write(folder, "echo.yaml", manifest("echo", "10.0.0.2"))
        await running.until(lambda: running.addresses() == ["10.0.0.2"])


# --- export and unexport ---------------------------------------------------------------------------------------------


async def test_export_and_unexport_by_command(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1", export=False))
    async with follow(poll_seconds=60) as running:
        await running.until(lambda: running.state.complete)
        with pytest.raises(NotFound):
            await running.source.export(ServiceName("shop", "nothing"), ())
        path, changed = await running.source.export(ECHO, (Grant("west", (80,)),))
        assert changed
        assert there(path)
        assert running.state.exports[ECHO].grants == (Grant("west", (80,)),)
        age = running.state.exports[ECHO].exported_at_ns
        assert await running.source.export(ECHO, (Grant("west", (80,)),)) == (path, False)
        assert await running.source.export(ECHO, ()) == (path, True)
        assert running.state.exports[ECHO].grants == ()
        assert running.state.exports[ECHO].exported_at_ns == age
        assert await running.source.unexport(ECHO) == (path, True)
        assert running.state.exports == {}
        assert not there(path)
        assert await running.source.unexport(ECHO) == ("", False)
        with pytest.raises(NotFound):
            await running.source.unexport(ServiceName("shop", "nothing"))


async def test_unexport_of_a_hand_written_manifest(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    async with follow(poll_seconds=60) as running:
        await running.until(lambda: running.state.complete)
        with pytest.raises(Conflict, match=r"echo\.yaml"):
            await running.source.export(ECHO, (Grant("west"),))
        await running.source.unexport(ECHO)
        assert running.state.exports == {}
        assert ECHO in running.state.services
        assert (folder / "echo.yaml").read_text() == manifest("echo", "10.0.0.1", export=False)


async def test_a_preview_is_what_the_export_then_is(folder: Path, follow: Follow, manifest: Any, write: Any) -> None:
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1", export=False))
    async with follow(poll_seconds=60) as running:
        await running.until(lambda: running.state.complete)
        before = sorted(os.listdir(folder))
        seen = await running.source.preview(ECHO, (Grant("west", (80,)),))
        assert seen.changed
        assert sorted(os.listdir(folder)) == before, "nothing is written"
        assert running.state.exports == {}
        path, _ = await running.source.export(ECHO, (Grant("west", (80,)),))
        claim = running.state.exports[ECHO]
        assert seen.where == path
        assert seen.claim is not None
        assert replace(seen.claim, exported_at_ns=0) == replace(claim, exported_at_ns=0)
        assert not (await running.source.preview(ECHO, (Grant("west", (80,)),))).changed
        widened = await running.source.preview(ECHO, ())
        assert (widened.changed, widened.claim) == (True, replace(claim, grants=()))
        taken = await running.source.preview(ECHO, None)
        assert (taken.where, taken.changed, taken.claim) == (path, True, None)
        assert there(path)
        await running.source.unexport(ECHO)
        assert not (await running.source.preview(ECHO, None)).changed


SCTP = "ports: [{port: 80, name: http}, {port: 7, name: sig, protocol: SCTP}]"


async def test_a_preview_names_the_ports_that_are_not_carried(folder: Path, follow: Follow, write: Any) -> None:
    write(folder, "echo.yaml", given("echo", SCTP))
    async with follow(poll_seconds=60) as running:
        await running.until(lambda: running.state.complete)
        seen = await running.source.preview(ECHO, ())
        assert seen.uncarried == ((7, "SCTP"),)
        assert seen.claim is not None
        assert [p.port for p in seen.claim.ports] == [80, 7]


def given(name: str, spec: str, namespace: str = "shop") -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        pytest.param("", "no_service", "there is no Service shop/echo", id="no Service"),
        pytest.param(
            given("echo", "type: ExternalName, externalName: x.example"),
            "invalid_service_type",
            "ExternalName",
            id="type",
        ),
        pytest.param(
            given("echo", "ports: [{port: 7, protocol: SCTP}]"), "unsupported_protocol", "TCP or UDP", id="SCTP alone"
        ),
    ],
)
@pytest.mark.parametrize("only_look", [True, False])
async def test_what_nobody_could_see_is_not_exported(
    folder: Path, follow: Follow, write: Any, text: str, code: str, says: str, only_look: bool
) -> None:
    write(folder, "other.yaml", given("other", "ports: [{port: 80}]"))
    if text:
        write(folder, "echo.yaml", text)
    async with follow(poll_seconds=60) as running:
        await running.until(lambda: running.state.complete)
        before = sorted(os.listdir(folder))
        with pytest.raises((Conflict, NotFound)) as caught:
            await (running.source.preview if only_look else running.source.export)(ECHO, ())
        assert caught.value.error_code == code
        assert says in caught.value.message
        assert "\n" not in str(caught.value)
        assert sorted(os.listdir(folder)) == before


async def test_names_at_the_length_limit_are_exported(folder: Path, follow: Follow, write: Any) -> None:
    name = ServiceName("n" * 63, "s" * 63)
    write(folder, "long.yaml", given(name.name, "ports: [{port: 80}]", name.namespace))
    async with follow(poll_seconds=60) as running:
        await running.until(lambda: running.state.complete)
        assert (await running.source.preview(name, ())).changed
        path, changed = await running.source.export(name, ())
        assert changed
        assert there(path)
        assert name in running.state.exports


async def test_before_the_folder_is_read_nothing_is_said_of_what_it_lacks(folder: Path, follow: Follow) -> None:
    shutil.rmtree(folder)
    async with follow(poll_seconds=60) as running:
        await running.until(lambda: running.state.problems)
        for ask in (running.source.export(ECHO, ()), running.source.preview(ECHO, ()), running.source.unexport(ECHO)):
            with pytest.raises(Unavailable) as caught:
                await ask
            assert caught.value.error_code == "source_not_read"
            assert "does not exist" in caught.value.hint


async def test_changes_do_not_wait_for_the_look_at_the_whole_folder(
    folder: Path, follow: Follow, manifest: Any, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned, go_on = threading.Event(), threading.Event()
    scan = FileSource._scan
    scans = []

    def slow(self: FileSource) -> Any:
        found = scan(self)
        scans.append(found)
        if len(scans) == 2:
            scanned.set()
            go_on.wait(30)
        return found

    monkeypatch.setattr(FileSource, "_scan", slow)
    write(folder, "echo.yaml", manifest("echo", "10.0.0.1"))
    write(folder, "gone.yaml", manifest("gone", "10.0.1.1"))
    async with follow() as running:
        try:
            await running.until(scanned.is_set)
            write(folder, "echo.yaml", manifest("echo", "10.0.0.2"))
            write(folder, "new.yaml", manifest("new", "10.0.2.1"))
            (folder / "gone.yaml").unlink()
            await running.until(lambda: running.addresses() == ["10.0.0.2"])
            await running.until(lambda: set(running.state.exports) == {ECHO, ServiceName("shop", "new")})
        finally:
            go_on.set()
        seen: list[SourceState] = []

        def looked_again() -> bool:
            seen.append(running.state)
            return len(scans) > 3

        await running.until(looked_again)
        # What the survey had not seen yet is not gone, what it had seen does not come back.
        assert {frozenset(state.exports) for state in seen} == {frozenset({ECHO, ServiceName("shop", "new")})}
        assert running.problems() == {}
