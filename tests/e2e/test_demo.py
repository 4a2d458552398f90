"""The demo as a user runs it: its JSON, its exit status, and that nothing is left behind whatever ends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from clusters.kind import engine
from clusters.kind.config import mark
from clusters.kind.stage import PURPOSE
from clusters.processes import NAMESPACE
from clusters.pytest_plugin import Clusters
from clusters.testbed.components import find
from clusters.waiting import START, until_now
from federation.errors import NotFound, TimedOut

pytestmark = pytest.mark.e2e

PHASES = [
    "steady",
    "workload_killed",
    "cluster_paused",
    "cluster_back",
    "gateway_killed",
    "registry_down",
    "healed",
]
SWITCHING = ["workload_killed", "cluster_paused", "cluster_back", "gateway_killed", "healed"]
PAIR_PHASES = ["steady", "workload_killed", "registry_down", "cluster_paused", "healed"]
CONSUL_PHASES = ["consul", "consul_critical", "consul_passing"]


def processes_of(directory: Path) -> list[str]:
    """Command lines of the processes that were started with something below `directory`, or log there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                log = os.readlink(entry / "fd" / "2")
            except OSError:
                continue
            if str(directory) in line or log.startswith(str(directory / "logs")):
                found.append(line)
    return found


def nothing_is_left(directory: Path) -> None:
    """Whoever was killed is still listed for a moment."""
    until_now(lambda: not processes_of(directory), what=f"the end of {processes_of(directory)}")


@pytest.fixture
def short_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d")


def test_the_whole_story(short_dir: Path):
    """1. build and link the clusters  2. look names up  3. kill and heal under load  4. nothing failed.

    Where there is a Consul, a datacenter is the fourth: its check turns, and the calls follow.
    """
    check_story([sys.executable, "-m", "clusters.demo", "--json"], short_dir)


@pytest.mark.usefixtures("testbed")
def test_the_whole_story_on_api_servers(short_dir: Path):
    """The same on Kubernetes: every cluster has an API server, its agent reads it with the rights of the manifests."""
    check_story([Path(sys.executable).with_name("fedctl"), "demo", "--clusters=apiserver", "-o", "json"], short_dir)


def check_story(command: list[Path | str], short_dir: Path) -> None:
    done = subprocess.run(
        [*command, "--changes=10", f"--directory={short_dir}"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    consul = find("consul") is not None
    assert result["clusters"] == ["east", "west", "edge", *(["dc1"] if consul else [])]
    assert len(result["links"]) == (6 if consul else 3)
    names = {"echo.shop.global", "echo.shop.svc.clusterset.local", "kv.shop.global"}
    assert set(result["names"]) == names | ({"stock.shop.global"} if consul else set())
    assert result["names"]["echo.shop.global"] == result["names"]["echo.shop.svc.clusterset.local"]
    phases = {phase["name"]: phase for phase in result["phases"]}
    assert list(phases) == [*PHASES, *(CONSUL_PHASES if consul else [])]
    assert all(phase["failed"] == 0 and phase["requests"] > 0 for phase in phases.values())
    assert set(phases["steady"]["answered_by"]) == {"east"}
    assert "west" in phases["workload_killed"]["answered_by"]
    assert "edge" in phases["cluster_paused"]["answered_by"]
    assert "west" in phases["cluster_back"]["answered_by"]
    assert "edge" in phases["gateway_killed"]["answered_by"]
    assert set(phases["registry_down"]["answered_by"]) == {"edge"}
    assert "east" in phases["healed"]["answered_by"]
    assert all(phases[name]["switch_ms"] is not None for name in SWITCHING)
    if consul:
        assert set(phases["consul"]["answered_by"]) == {"dc1"}
        assert "edge" in phases["consul_critical"]["answered_by"]
        assert "dc1" in phases["consul_passing"]["answered_by"]
        assert all(phases[name]["switch_ms"] is not None for name in CONSUL_PHASES[1:])
        assert result["left_out"] == []
    else:
        assert "`scripts/testbed consul`" in result["left_out"][0]
    assert result["propagation_ms"]["n"] == 10
    assert 0 < result["propagation_ms"]["p50"] <= result["propagation_ms"]["p99"]
    nothing_is_left(short_dir)


@contextlib.contextmanager
def demo(directory: Path, *, until: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A demo that has come as far as the step `until`."""
    log = directory / "stderr"
    with log.open("wb") as stderr:
        running = subprocess.Popen(
            [sys.executable, "-m", "clusters.demo", "--json", f"--directory={directory}"],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        until_now(lambda: until in log.read_text(), seconds=2 * START, what=until)
        yield running
    except (AssertionError, TimedOut):
        print(log.read_text())
        raise
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize(("until", "interrupts"), [("starting a gateway", 1), ("steady", 1), ("steady", 3)])
def test_an_interrupt_cleans_up_whatever_the_phase(short_dir: Path, until: str, interrupts: int):
    with demo(short_dir, until=until) as running:
        for _ in range(interrupts):
            before = len(processes_of(short_dir))
            running.send_signal(signal.SIGINT)
            # The next one comes while it ends what it has started.
            ending = partial(_fewer, running, short_dir, before)
            until_now(ending, seconds=START, what="the beginning of the end")
        # One that comes when all is done ends the interpreter as usual.
        status = running.wait(timeout=2 * START)
        assert status in (130, -signal.SIGINT), (short_dir / "stderr").read_text()
    nothing_is_left(short_dir)


def _fewer(running: subprocess.Popen[bytes], directory: Path, number: int) -> bool:
    return running.poll() is not None or len(processes_of(directory)) < number


def test_without_consul_the_demo_says_how_to_get_it(short_dir: Path):
    path = [one for one in os.environ["PATH"].split(os.pathsep) if not os.path.exists(os.path.join(one, "consul"))]
    environment = {"PATH": os.pathsep.join(path), "XDG_CACHE_HOME": str(short_dir / "cache"), "ISTHMUS_CONSUL": ""}
    with demo(short_dir, until="joining", **environment):
        lines = (short_dir / "stderr").read_text().splitlines()
    assert lines[0].startswith("dc1, the cluster with Consul, is left out: consul is neither on PATH nor")
    assert "`scripts/testbed consul`" in lines[0]
    assert any(line.endswith(" s  joining east, west, edge") for line in lines)


def test_a_consul_that_is_named_and_cannot_be_used_ends_it(short_dir: Path):
    done = subprocess.run(
        [sys.executable, "-m", "clusters.demo", "--json", f"--directory={short_dir}"],
        env={**os.environ, "ISTHMUS_CONSUL": str(short_dir / "nothing")},
        capture_output=True,
        text=True,
        timeout=2 * START,
    )
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["error"]["message"].startswith("ISTHMUS_CONSUL is ")


def test_a_demo_that_is_killed_leaves_nothing_behind(short_dir: Path):
    with demo(short_dir, until="steady") as running:
        assert any("envoy" in line for line in processes_of(short_dir))
        running.kill()
        running.wait()
        nothing_is_left(short_dir)


# --- clusters of containers ------------------------------------------------------------------------------------------


@pytest.mark.clusters("two-kind", installed=True)
async def test_the_whole_story_on_clusters_that_stand(clusters: Clusters, short_dir: Path) -> None:
    """A pod calls while its neighbour is killed, the registry and all of west stand still; then the pair is as before.

    Where clusters are the demo's own, it has made them before, and removes them after it: see the next test.
    """
    where = ("--prefix", clusters.harness.prefix, "--state", str(clusters.harness.folder.path.parent))
    command = [sys.executable, "-m", "clusters.demo", "--clusters=kind", "--json", f"--directory={short_dir}", *where]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["clusters"], result["links"]) == (["east", "west"], [["east", "west"]])
    assert set(result["names"]) == {"echo.shop.global", "echo.shop.svc.clusterset.local", "kv.shop.global"}
    phases = {phase["name"]: phase for phase in result["phases"]}
    assert list(phases) == PAIR_PHASES
    assert all(phase["failed"] == 0 and phase["requests"] > 0 for phase in phases.values())
    assert set(phases["steady"]["answered_by"]) == {"east"}
    assert "west" in phases["workload_killed"]["answered_by"]
    assert set(phases["registry_down"]["answered_by"]) == {"west"}
    assert "east" in phases["cluster_paused"]["answered_by"]
    assert set(phases["healed"]["answered_by"]) == {"east"}
    assert all(phases[name]["switch_ms"] is not None for name in ("workload_killed", "cluster_paused"))
    assert all(line.startswith(("dc1", "how fast")) for line in result["left_out"])
    for name in clusters.topology.names:
        async with clusters.connect(name) as client:
            with pytest.raises(NotFound):
                await client.get("v1", "Namespace", NAMESPACE)
    assert {one.state for one in await clusters.harness.status()} == {"ready"}


@pytest.mark.clusters("two-kind", installed=True)
@pytest.mark.usefixtures("clusters")
def test_an_interrupt_removes_the_clusters_that_it_has_begun_to_make(short_dir: Path) -> None:
    with (short_dir / "stderr").open("wb") as log:
        running = subprocess.Popen(
            [Path(sys.executable).with_name("fedctl"), "demo", "--clusters=kind", f"--directory={short_dir / 'd'}"],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    ours = mark("two-kind", f"{PURPOSE}-{running.pid}").rpartition("/")[2]

    def nodes() -> list[str]:
        return [node.name for node in asyncio.run(engine.nodes()) if ours in node.marks]

    try:
        until_now(nodes, seconds=START, what="a node of the demo")
        running.send_signal(signal.SIGINT)
        assert running.wait(2 * START) == 130, (short_dir / "stderr").read_text()
    finally:
        running.kill()
        running.wait()
        left = nodes()
        asyncio.run(engine.remove(left))
    assert left == []
    assert [one for one in (short_dir / "d").rglob("*") if one.is_file()] == []


@pytest.mark.parametrize(
    ("programs", "code", "status"), [((), "kind_missing", 3), (("kind",), "docker_missing", 3)], ids=["kind", "docker"]
)
def test_without_what_clusters_are_made_with_it_says_so_and_what_to_do(
    short_dir: Path, programs: tuple[str, ...], code: str, status: int
) -> None:
    for program in programs:
        (short_dir / program).write_text("#!/bin/sh\nexit 1\n")
        (short_dir / program).chmod(0o755)
    done = subprocess.run(
        [Path(sys.executable).with_name("fedctl"), "demo", "--clusters=kind", "-o", "json"],
        env={**os.environ, "PATH": str(short_dir), "TMPDIR": str(short_dir)},
        capture_output=True,
        text=True,
        timeout=2 * START,
    )
    assert done.returncode == status, done.stderr
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (error["code"], bool(error["hint"])) == (code, True)
    assert list(short_dir.glob("isthmus-*")) == []
