"""State files: written at a bounded rate, never two writes at once, failures shown and repaired."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from discovery.state import Saver, read_or_none
from federation import log
from federation.aio import saver as saving
from federation.aio.clock import SystemClock
from federation.aio.files import read_state, write_state
from federation.errors import StorageFailed

LOG = log.get("test")


def saver(path: Path, dump: Callable[[], bytes], **more: Any) -> Saver:
    return Saver(path, dump, interval=0.01, clock=SystemClock(), log=LOG, **more)


async def test_touches_are_written_together(tmp_path: Path) -> None:
    path, dumps = tmp_path / "x", []

    def dump() -> bytes:
        dumps.append(1)
        return b"state"

    one = saver(path, dump)
    await one.flush()
    assert not dumps
    for _ in range(3):
        one.touch()
    await one.flush()
    assert (read_state(path), len(dumps)) == (b"state", 1)


async def test_a_full_disk_is_shown_and_the_write_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Awaitable[Any]]
) -> None:
    path, seen = tmp_path / "x", []
    write_state(path, b"old")

    def full(*_: object) -> None:
        raise StorageFailed("no space left on device")

    monkeypatch.setattr(saving, "write_state", full)
    one = saver(path, lambda: b"new", on_problem=lambda: seen.append(one.problem))
    task = asyncio.create_task(one.run(), name="saver")
    one.touch()
    await until(lambda: one.problem)
    assert one.problem is not None
    assert one.problem.code == "storage_failed"
    assert read_state(path) == b"old"
    monkeypatch.undo()
    await until(lambda: one.problem is None)
    assert read_state(path) == b"new"
    assert len(seen) == 2
    task.cancel()
    await asyncio.wait({task})


async def test_a_cancelled_write_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Awaitable[Any]]
) -> None:
    go, running = threading.Event(), []
    real = write_state

    def slow(path: Path, data: bytes) -> None:
        running.append(1)
        assert len(running) == 1
        go.wait(5)
        real(path, data)
        running.pop()

    monkeypatch.setattr(saving, "write_state", slow)
    one = saver(tmp_path / "x", lambda: b"state")
    one.touch()
    task = asyncio.create_task(one.run(), name="saver")
    await until(lambda: running)
    task.cancel()
    flush = asyncio.create_task(one.flush(), name="flush")
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait({task, flush})
    assert read_state(tmp_path / "x") == b"state"


def test_damage_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert read_or_none(path, LOG) is None
    path.write_bytes(b"nonsense")
    assert read_or_none(path, LOG) is None
    assert not path.exists()
    assert path.with_name("x.corrupt").read_bytes() == b"nonsense"


async def test_what_takes_long_to_encode_is_encoded_beside_the_loop(tmp_path: Path) -> None:
    path, threads = tmp_path / "x", []

    def encode() -> bytes:
        threads.append(threading.current_thread())
        return b"a picture"

    one = Saver(path, lambda: encode, interval=0.01, clock=SystemClock(), log=LOG)
    one.touch()
    await one.flush()
    assert read_state(path) == b"a picture"
    assert threads != [threading.main_thread()]
