"""Numbered steps: the registry is lost and restored from a backup, then an agent's state; calls never fail meanwhile.

The tests of this file are one story and run in their order on one federation. East and west are linked before the
backup is made, east and edge after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusters.load import HttpLoad
from clusters.processes import HTTP_PORT, ProcessFederation
from clusters.topology import DEMO
from clusters.waiting import START
from federation.cli.status import Finding, look

pytestmark = [pytest.mark.e2e, pytest.mark.story]

Codes = Callable[[], set[str]]
WEST = "echo.shop.west.global"
EDGE = "echo.shop.edge.global"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessFederation]:
    topology = replace(DEMO, federation="backup.isthmus", links=(("east", "west"),))
    federation = ProcessFederation(topology, tmp_path_factory.mktemp("f"))
    yield federation
    federation.stop()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backups")


@pytest.fixture
def page(running: ProcessFederation, files: Path) -> Callable[[int], str]:
    """Runs a block of docs/backup.md (on plain hosts) as it stands, but for where things are; what it printed."""
    text = (next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists()) / "docs/backup.md").read_text()
    section = text.partition("## On plain hosts\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    known = {"/var/lib/isthmus/registry": str(running.directory / "registry"), "east": "west"}

    def run(number: int) -> str:
        script = blocks[number]
        for there, here in known.items():
            script = script.replace(there, here)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=files,
            env={
                "ISTHMUS_HOME": str(running.directory / "home"),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            timeout=START,
        )
        assert done.returncode == 0, (script, done.stderr)
        return done.stdout

    return run


@pytest.fixture
def codes(findings: Callable[[], list[Finding]]) -> Codes:
    """Of what `fedctl status` complains."""
    return lambda: {f.code for f in findings()}


@pytest.fixture
def linked(running: ProcessFederation) -> Callable[[], set[str]]:
    def ask() -> set[str]:
        return {f"{info.link.a}/{info.link.b}" for info in asyncio.run(look(running.home)).links}

    return ask


@contextlib.contextmanager
def load(east: Any, eventually: Any) -> Iterator[None]:
    """Requests from east to west all the while, before, within and after the block; none may fail."""
    requests = HttpLoad(east.address(WEST), HTTP_PORT, WEST, clients=2, rate=20, fresh_every=10, timeout=10)
    requests.start()
    try:
        eventually(lambda: len(requests) > 10, what="answers")
        yield
        since = len(requests)
        eventually(lambda: len(requests) > since + 20, what="more answers")
    finally:
        requests.stop()
    outcomes = requests.outcomes()
    assert [o.error for o in outcomes if o.error] == []
    assert {o.cluster for o in outcomes} == {"west"}


def test_01_a_registry_is_backed_up_while_it_serves(fedctl: Any, files: Path, page: Any) -> None:
    assert "backup of the registry of backup.isthmus" in page(0)
    for name in ("registry.tar", "west.tar"):
        assert stat.S_IMODE((files / name).stat().st_mode) == 0o600
    again = fedctl("backup", str(files / "registry.tar"), "-o", "json")
    assert (again.status, again.error["code"]) == (4, "already_exists")
    manifest = json.loads(page(1))  # anybody can prove it without us
    assert (manifest["kind"], manifest["name"]) == ("registry", "backup.isthmus")


def test_02_the_federation_lives_on_after_it(
    running: ProcessFederation, fedctl: Any, east: Any, eventually: Any
) -> None:
    fedctl.ok("link", "east", "edge")
    fedctl.ok("status", "--wait")
    eventually(lambda: east.answers(EDGE) == "edge", what="an answer of edge")


def test_03_the_registry_is_lost_with_its_disk_and_restored(
    running: ProcessFederation, fedctl: Any, page: Any, east: Any, eventually: Any, codes: Codes, linked: Any
) -> None:
    folder = running.directory / "registry"
    with load(east, eventually):
        running.kill("registry")
        shutil.rmtree(folder)
        assert "restored the registry of backup.isthmus" in page(2)
        running.restart("registry")
        asyncio.run(running.wait_ready("registry"))
        eventually(lambda: codes() == {"store_restored"}, what="all that the backup knew, whole")
        assert linked() == {"east/west"}
        assert east.get("echo.shop.global") == "east"
    status = fedctl("status", "-o", "json")
    (told,) = [f for f in status.json["findings"] if f["code"] == "store_restored"]
    assert "links made since then are gone" in told["detail"]
    assert "a backup of 2" in told["detail"]  # of when


def test_04_what_is_newer_than_the_backup_is_made_again(
    running: ProcessFederation, fedctl: Any, east: Any, eventually: Any, codes: Codes, linked: Any
) -> None:
    fedctl.ok("link", "east", "edge")
    eventually(lambda: codes() == {"store_restored"} and linked() == {"east/west", "east/edge"}, what="both links")
    eventually(lambda: east.answers(EDGE) == "edge", what="an answer of edge")


def test_05_a_registry_that_serves_is_replaced_only_on_request(
    running: ProcessFederation,
    fedctl: Any,
    files: Path,
    page: Any,
    east: Any,
    eventually: Any,
    codes: Codes,
    linked: Any,
) -> None:
    refused = fedctl("restore", str(files / "registry.tar"), "-o", "json")
    assert (refused.status, refused.error["code"]) == (7, "would_overwrite")
    assert "--replace" in refused.error["hint"]
    assert linked() == {"east/west", "east/edge"}
    process = running.running["registry"].process
    with load(east, eventually):
        page(3)
        eventually(lambda: codes() == {"store_restored"} and linked() == {"east/west"}, what="what the backup knew")
    assert process is not None
    assert process.poll() is None  # the same process, which began anew
    assert (running.directory / "registry/before-restore/registry.db").exists()


def test_06_the_state_of_an_agent_is_lost_and_restored(
    running: ProcessFederation, fedctl: Any, files: Path, page: Any, east: Any, eventually: Any, codes: Codes
) -> None:
    folder = running.places["west"].agent
    root = (folder / "keys/root.pem").read_bytes()
    busy = fedctl("restore", str(files / "west.tar"), "--cluster", "west", "--replace", "-o", "json")
    assert (busy.status, busy.error["code"]) == (7, "agent_runs")
    with load(east, eventually):
        running.kill("west-agent")
        shutil.rmtree(folder)
        page(4)
        again = fedctl("restore", str(files / "west.tar"), "--cluster", "west", "-o", "json")
        assert (again.status, again.error["code"]) == (7, "would_overwrite")
        running.restart("west-agent")
        asyncio.run(running.wait_ready("west-agent"))
        eventually(lambda: codes() == {"store_restored"}, what="west as it was")
    assert (folder / "keys/root.pem").read_bytes() == root


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("registry.tar", "--cluster", "west"), 2, "other_backup"),
        (("flipped.tar", "--replace"), 9, "corrupt_state"),
    ],
)
def test_07_what_will_not_do_is_told_and_changes_nothing(
    running: ProcessFederation, fedctl: Any, files: Path, linked: Any, words: tuple[str, ...], status: int, code: str
) -> None:
    whole = (files / "registry.tar").read_bytes()
    at = whole.index(b"SQLite format 3") + 5000
    (files / "flipped.tar").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    before = linked()
    refused = fedctl("restore", str(files / words[0]), *words[1:], "-o", "json")
    assert (refused.status, refused.error["code"]) == (status, code)
    assert linked() == before
