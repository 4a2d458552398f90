"""What the demo does of its own in clusters of containers; Docker is stood in for."""

from __future__ import annotations

import contextlib
import os
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clusters import caller
from clusters.images.builder import Builder
from clusters.kind import engine, leftovers, stage
from clusters.kind.calls import Calls
from clusters.kind.stage import KindStage, PodCalls
from clusters.load import Outcome
from federation.errors import AlreadyExists, NotFound


def ended() -> int:
    """The number of no process."""
    return next(pid for pid in range(4_000_000, 1, -1) if not os.path.exists(f"/proc/{pid}"))


def outcome(number: int, error: str = "") -> Outcome:
    return Outcome(float(number), number + 0.5, "" if error else "east", error)


async def test_what_the_pod_sent_before_the_story_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage, "_LOOK", 0.0)
    log, removed = [outcome(1, "gaierror"), outcome(2)], []

    async def read() -> str:
        return "\n".join(map(caller.line, log))

    pod = AsyncExitStack()
    pod.callback(removed.append, "pod")
    calls = PodCalls(Calls(read), pod, list(log))
    assert await calls.outcomes() == []
    log += [outcome(3), outcome(4)]
    assert await calls.outcomes() == [outcome(3), outcome(4)]
    assert await calls.outcomes(1) == [outcome(4)]
    log.append(outcome(5))
    await calls.stop()
    log.append(outcome(6))
    await calls.stop()
    assert (await calls.outcomes(2), removed) == ([outcome(5)], ["pod"])


async def test_a_log_is_not_read_more_often_than_is_of_use():
    reads: list[str] = []

    async def read() -> str:
        reads.append("")
        return ""

    calls = PodCalls(Calls(read), AsyncExitStack(), [])
    for _ in range(20):
        await calls.outcomes()
    assert len(reads) == 1


async def test_where_nothing_was_made_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def asked(*_: object, **__: object) -> Any:
        raise AssertionError("Docker was asked")

    monkeypatch.setattr(engine, "docker", asked)
    monkeypatch.setattr(engine, "check", asked)
    monkeypatch.setenv("PATH", str(tmp_path))
    one = KindStage(tmp_path)
    with pytest.raises(NotFound, match="kind is not on PATH"):
        await one.build(print)
    await one.report()
    await one.close()


async def test_a_namespace_of_somebody_else_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In clusters that stay; what `up` and the API servers say is stood in for."""
    removed: list[str] = []

    async def there(*_: object, **__: object) -> dict[str, Any]:
        return {}

    async def close() -> None:
        removed.append("namespace")

    one = KindStage(tmp_path, standing="lab", state=tmp_path)
    monkeypatch.setattr(one._harness, "check", there)
    monkeypatch.setattr(one._harness, "up", there)
    client = contextlib.nullcontext(SimpleNamespace(get=there))
    monkeypatch.setattr(one._shop, "connect", lambda _: client)
    monkeypatch.setattr(one._shop, "close", close)
    with pytest.raises(AlreadyExists, match="east has a namespace shop already"):
        await one.build(print)
    await one.close()
    assert removed == []


def test_an_installed_fedctl_has_no_source_to_make_images_from(tmp_path: Path):
    with pytest.raises(NotFound, match="images are built from the source") as refused:
        Builder(say=print, environ={}, source=tmp_path).image("isthmus")
    assert refused.value.error_code == "source_missing"


async def test_only_clusters_of_processes_that_have_ended_are_swept(monkeypatch: pytest.MonkeyPatch):
    removed: list[str] = []
    gone = ended()
    marks = [f"demo-{gone}.two-kind", f"{leftovers.prefix('demo')}.two-kind", f"test-{gone}.two-kind", "demo.two-kind"]

    async def nodes() -> Any:
        return [SimpleNamespace(marks=(mark,)) for mark in marks]

    async def remove(mark: str, **_: object) -> None:
        removed.append(mark)

    monkeypatch.setattr(engine, "nodes", nodes)
    monkeypatch.setattr(leftovers, "remove_marked", remove)
    await leftovers.sweep("demo")
    assert removed == [f"demo-{gone}.two-kind"]
