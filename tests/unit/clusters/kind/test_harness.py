"""What the harness does before the first node is made; Docker and kind are stood in for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from clusters.kind import engine, harness
from clusters.kind.harness import KindHarness
from clusters.topologyfile import NAMED
from federation.errors import IsthmusError, NotFound, StorageFailed, Unavailable


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Docker engine without any node: what it answers, by function."""
    told: dict[str, Any] = {"check": None, "networks": ["172.18.0.0/16"], "nodes": [], "free_disk": 100 << 30}
    asked: list[str] = []
    told["asked"] = asked

    def answering(name: str) -> Any:
        async def answer(*words: object, **_: object) -> Any:
            asked.append(name)
            if isinstance(told[name], IsthmusError):
                raise told[name]
            return told[name]

        return answer

    told["bring_image"] = None
    for name in ("check", "networks", "nodes", "free_disk", "bring_image"):
        monkeypatch.setattr(engine, name, answering(name))
    monkeypatch.setattr(harness.shutil, "which", lambda _: "kind")

    async def create(*_: object, **__: object) -> None:
        asked.append("create")

    monkeypatch.setattr(KindHarness, "_create", create)
    monkeypatch.setattr(KindHarness, "wait_ready", create)
    return told


async def test_an_image_is_brought_once_before_anything_is_made(docker: dict[str, Any], tmp_path: Path) -> None:
    done = await KindHarness(NAMED["two-kind"], image="node:1", where=tmp_path).up()
    assert [step.verb for step in done["east"]] == ["create", "wait"]
    assert docker["asked"].count("bring_image") == 1
    assert docker["asked"].index("bring_image") < docker["asked"].index("create")


async def test_no_disk(docker: dict[str, Any], tmp_path: Path) -> None:
    docker["free_disk"] = 3 << 30
    with pytest.raises(StorageFailed, match="2 nodes want about 4 GB where Docker keeps its data, and 3") as caught:
        await KindHarness(NAMED["two-kind"], where=tmp_path).up()
    assert caught.value.error_code == "no_disk"
    assert "create" not in docker["asked"]


async def test_a_disk_elsewhere_is_not_judged(docker: dict[str, Any], tmp_path: Path) -> None:
    docker["free_disk"] = None
    await KindHarness(NAMED["two-kind"], where=tmp_path).up()
    assert "create" in docker["asked"]


async def test_no_image(docker: dict[str, Any], tmp_path: Path) -> None:
    docker["bring_image"] = NotFound("no image", code="kind_image_missing")
    with pytest.raises(NotFound, match="no image"):
        await KindHarness(NAMED["two-kind"], image="node:1", where=tmp_path).up()
    assert "create" not in docker["asked"]


@pytest.mark.parametrize(("gone", "code"), [(False, "kind_failed"), (True, "docker_down")])
async def test_an_engine_that_goes_is_the_reason(
    docker: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool, code: str
) -> None:
    """Whatever kind has made of it."""

    async def create(*_: object, **__: object) -> None:
        docker["check"] = Unavailable("its engine does not answer", code="docker_down") if gone else None
        raise Unavailable("kind create: unexpected EOF", code="kind_failed")

    monkeypatch.setattr(KindHarness, "_create", create)
    with pytest.raises(Unavailable) as caught:
        await KindHarness(NAMED["two-kind"], where=tmp_path).up()
    assert caught.value.error_code == code


async def test_down_with_nothing_there(docker: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []
    assert await KindHarness(NAMED["two-kind"], where=tmp_path, say=said.append).down() == []
    assert said == ["there is nothing of two-kind"]
    assert os.listdir(tmp_path) == []
