"""A federation of processes for the stories, and fedctl as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters.processes import ProcessFederation
from clusters.topology import ClusterSpec, Topology
from federation.model.service import Locality

TWO = Topology.full_mesh(
    "test.isthmus",
    ClusterSpec(name="east", locality=Locality("eu", "eu-1")),
    ClusterSpec(name="west", locality=Locality("eu", "eu-2")),
)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        return json.loads(self.err.splitlines()[-1])["error"]


@dataclass(frozen=True)
class Fedctl:
    """Runs fedctl with a home of its own."""

    home: Path

    def __call__(self, *words: str, timeout: float = 60) -> Done:
        done = subprocess.run(
            [Path(sys.executable).with_name("fedctl"), "--home", self.home, *words],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str) -> Done:
        done = self(*words)
        assert done.status == 0, f"fedctl {' '.join(words)}: {done.err}{done.out}"
        return done


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessFederation]:
    """Two clusters of which nothing runs yet."""
    federation = ProcessFederation(TWO, tmp_path_factory.mktemp("f"))
    yield federation
    federation.stop()


@pytest.fixture(scope="module")
def fedctl(federation: ProcessFederation) -> Fedctl:
    return Fedctl(federation.directory / "home")


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """The first true result of a condition, asked again and again until a deadline."""

    def wait(condition: Callable[[], object], *, seconds: float = 30, what: str) -> Any:
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
            time.sleep(0.05)
        return result

    return wait
