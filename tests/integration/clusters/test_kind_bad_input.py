"""What a person does to the harness at night: commands that are killed, an engine that goes, disks that are full.

Every time the command says in one line what is wrong and what to do next, and `down` takes everything away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from clusters.images.builder import cache_directory
from clusters.kind import engine
from clusters.kind.config import MADE
from clusters.kind.harness import IMAGE, KindHarness
from clusters.kind.operator import Operator
from clusters.pytest_plugin import Clusters
from clusters.topology import EAST, Topology
from clusters.waiting import START, until
from federation.errors import AlreadyExists

pytestmark = pytest.mark.integration
ONE = Topology.full_mesh("test.isthmus", EAST, name="one")
WHOLE = 600.0
"""Seconds for a whole `up` of two clusters, or for as much of it as is waited for."""


@dataclass(frozen=True, slots=True)
class Harness:
    """`python -m clusters`, for one topology."""

    words: tuple[str, ...]
    """Which topology, and where its files are."""
    variables: dict[str, str] = field(default_factory=dict)
    """What is set beside the environment of the tests."""

    async def __call__(self, command: str, *words: str, seconds: float = START) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "clusters", command, *self.words, *words],
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    async def start(self, command: str, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "clusters", command, *self.words, *words),
            env={**os.environ, **self.variables},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )

    async def refused(self, command: str, *words: str, seconds: float = START) -> tuple[int, str, str, str]:
        """Exit status, code, message and hint of a command that fails."""
        done = await self(command, *words, "-o", "json", seconds=seconds)
        return told(done.returncode, done.stderr)


def told(status: int | None, err: str) -> tuple[int, str, str, str]:
    assert "Traceback" not in err, err
    error = json.loads(err.splitlines()[-1])["error"]
    return status or 0, error["code"], error["message"], error["hint"]


@pytest.fixture
def harness(clusters: Clusters, tmp_path: Path) -> Iterator[KindHarness]:
    """One cluster of the test's own, of which nothing is there; the mark says that clusters can be had."""
    own = KindHarness(ONE, image=os.environ.get(IMAGE, ""), prefix=clusters.harness.prefix, where=tmp_path)
    yield own
    asyncio.run(own.down())


@pytest.fixture
def one(harness: KindHarness, tmp_path: Path) -> Harness:
    """The commands for that cluster."""
    topology = tmp_path / "one.yaml"
    topology.write_text("name: one\nfederation: test.isthmus\nclusters: [{name: east, region: eu, zone: eu-1}]")
    return Harness(("--topology", str(topology), "--prefix", harness.prefix, "--state", str(tmp_path)))


async def nodes_of(prefix: str) -> list[str]:
    return [node.name for node in await engine.nodes() if node.cluster.startswith(f"{prefix}-")]


@contextlib.contextmanager
def disk(path: Path, *options: str) -> Iterator[Path]:
    """A small disk of its own at `path`."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}: run scripts/test as root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.clusters("nat-kind")
async def test_an_interrupted_up_goes_on_and_down_forgets_nothing(
    harness: KindHarness, one: Harness, tmp_path: Path
) -> None:
    """Killed with -9 in the midst: the next `up` finishes. `down` needs no file of ours, and no room for one."""
    want = (await harness.wanted())["east"]
    up = await one.start("up", "--bare")

    async def begun() -> bool:
        return any(node.cluster == want.name for node in await engine.nodes())

    await until(begun, seconds=START, what="the node's container")
    up.kill()
    await up.communicate()
    (seen,) = await harness.status()
    assert seen.state == "incomplete"
    done = await harness.up()
    assert [step.verb for step in done["east"]] == ["delete", "create", "wait"]
    assert await engine.read(want.control_plane, MADE) == want.digest.encode()
    # Its files are lost; what stands is known by its marks.
    harness.folder.remove()
    (row,) = json.loads((await one("status", "-o", "json")).stdout)
    assert (row["cluster"], row["state"], row["next"]) == ("east", "not ready", ["export", "wait"])
    # A page for the topology, and none for the kubeconfig.
    with disk(tmp_path / "full", "size=4k") as full:
        elsewhere = replace(one, words=(*one.words[:-1], str(full)))
        status, code, message, hint = await elsewhere.refused("up", "--bare")
        assert (status, code) == (10, "no_disk")
        assert str(full) in message
        assert hint.startswith("make room")
    # An inode for the folder, and none for the lock in it.
    with disk(tmp_path / "fuller", "size=4k", "nr_inodes=2") as full:
        elsewhere = replace(one, words=(*one.words[:-1], str(full)))
        status, code, message, hint = await elsewhere.refused("up", "--bare")
        assert (status, code) == (10, "no_disk")
        assert str(full) in message
        assert "--state" in hint
        gone = await elsewhere("down")
        assert gone.returncode == 0, gone.stderr
        assert not await begun()
        assert list(full.iterdir()) == []
    again = await one("down")
    assert (again.returncode, "there is nothing of one" in again.stderr) == (0, True)
    assert not harness.folder.path.exists()


async def killed_at(harness: Harness, line: str, *, when: Operator | None = None) -> list[str]:
    """`up`, killed with -9 when it has said `line`, or then when a cluster has joined; returns what it has said."""
    up = await harness.start("up")
    said: list[str] = []
    assert up.stderr is not None
    async with asyncio.timeout(WHOLE):
        async for words in up.stderr:
            said.append(words.decode().strip())
            if line in said[-1]:
                break
        else:
            pytest.fail(f"it has not said {line!r}: {said}", pytrace=False)
        if when is not None:
            await until(lambda: joined(when), seconds=WHOLE, what="a cluster that has joined")
    up.kill()
    said += (await up.communicate())[1].decode().splitlines()
    assert up.returncode == -9, said
    return said


async def joined(operator: Operator) -> list[str]:
    """The clusters that have spent their tokens."""
    done = await operator("get", "clusters")
    return [one["name"] for one in json.loads(done.out)] if done.status == 0 else []


@pytest.mark.clusters("nat-kind", spent=True)
async def test_an_installation_that_is_killed_again_and_again(clusters: Clusters, tmp_path: Path) -> None:
    """Without room for the image, and killed while it is loaded, while clusters join, and before they are linked."""
    own = clusters.harness
    where = ("--topology", own.topology.name, "--prefix", own.prefix, "--state", str(own.folder.path.parent))
    harness, operator = Harness(where), Operator(own)
    # 1. the image is built in a cache without room: one line, and no room is needed to take all of it down
    with disk(tmp_path / "cache", "size=8m") as full:
        (full / "isthmus").mkdir()
        (full / "isthmus" / "packages").symlink_to(cache_directory(os.environ).with_name("packages"))
        without = Harness(where, {"XDG_CACHE_HOME": str(full)})
        status, code, message, hint = await without.refused("up", seconds=WHOLE)
        assert (status, code) == (10, "no_disk")
        assert str(full) in message
        assert "XDG_CACHE_HOME" in hint
        assert (await without("down")).returncode == 0
    assert await nodes_of(own.prefix) == []
    # 2. killed while the image goes to the nodes
    said = await killed_at(harness, "bringing it to every node")
    assert "is in every node" not in "".join(said)
    # 3. killed when a token is spent, and not all have joined whom the harness knows to have
    said = await killed_at(harness, "installing the agent", when=operator)
    assert "is in every node" in "".join(said)
    assert ": known to fedctl" not in "".join(said)
    # 4. killed when all have joined, before they are linked
    said = await killed_at(harness, ": known to fedctl")
    assert "linked" not in "".join(said)
    # 5. nobody kills it: what is missing is done, and then nothing is
    done = await harness("up", "-o", "json", seconds=WHOLE)
    assert done.returncode == 0, done.stderr
    assert "east and edge: linked" in done.stderr
    assert {row["state"] for row in json.loads(done.stdout)} == {"ready"}
    assert sorted(await joined(operator)) == ["east", "edge"]
    assert "nothing to do" in (await harness("up", seconds=WHOLE)).stderr
    # 6. and all of it goes
    assert (await harness("down")).returncode == 0
    assert await nodes_of(own.prefix) == []
    assert not own.folder.path.exists()


# --- without Docker, without an image --------------------------------------------------------------------------------


class Engine:
    """A socket before that of the Docker engine: when it is shut, the engine has gone for who uses it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def host(self) -> str:
        return f"unix://{self.path}"

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def shut(self) -> None:
        """Nobody comes in any more, and who is in is thrown out."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.path.unlink(missing_ok=True)
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        real = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
        far_reader, far_writer = await asyncio.open_unix_connection(real)
        ends = {writer, far_writer}
        self._open |= ends
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            self._open -= ends
            for end in ends:
                end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until its end, which is told: docker(1) ends the input of what it executes and still reads its output."""
    with contextlib.suppress(OSError, RuntimeError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@pytest.fixture
async def before_docker(tmp_path: Path) -> AsyncIterator[Engine]:
    before = Engine(tmp_path / "docker.sock")
    await before.open()
    yield before
    await before.shut()


@pytest.mark.clusters("nat-kind")
async def test_docker_stops_midway(harness: KindHarness, one: Harness, before_docker: Engine) -> None:
    """The engine goes when the node's container is there, and comes again: the line says what to do, `down` does it."""
    commands = replace(one, variables={"DOCKER_HOST": before_docker.host})
    want = (await harness.wanted())["east"]
    up = await commands.start("up", "--bare", "-o", "json")

    async def begun() -> bool:
        return any(node.cluster == want.name for node in await engine.nodes())

    await until(begun, seconds=START, what="the node's container")
    await before_docker.shut()
    async with asyncio.timeout(START):
        _, err = await up.communicate()
    refusals = [told(up.returncode, err.decode()), await commands.refused("status"), await commands.refused("down")]
    for status, code, message, hint in refusals:
        assert (status, code) == (6, "docker_down"), message
        assert "start it" in hint
    assert await begun()
    assert harness.folder.path.exists()
    await before_docker.open()
    gone = await commands("down")
    assert gone.returncode == 0, gone.stderr
    assert not await begun()
    assert not harness.folder.path.exists()


@pytest.mark.clusters("nat-kind")
async def test_an_image_that_is_not_there(harness: KindHarness, one: Harness) -> None:
    absent = "isthmus.invalid/node:none"
    status, code, message, hint = await one.refused("up", "--bare", "--image", absent)
    assert (status, code) == (3, "kind_image_missing")
    assert absent in message
    assert "--image or ISTHMUS_KIND_IMAGE" in hint
    gone = await one("down")
    assert gone.returncode == 0, gone.stderr
    assert not harness.folder.path.exists()


# --- not ours --------------------------------------------------------------------------------------------------------


@pytest.mark.clusters("nat-kind")
async def test_what_is_not_ours_is_left_alone(clusters: Clusters, tmp_path: Path) -> None:
    """Another topology whose cluster would have the name of one that stands."""
    prefix, name = clusters.harness.prefix, clusters.topology.name
    one, two = name.split("-", 1)
    other = Topology.full_mesh("test.isthmus", replace(EAST, name=f"{two}-east"), name=one)
    harness = KindHarness(other, image=clusters.harness.image, prefix=prefix, where=tmp_path)
    before = await engine.nodes()
    with pytest.raises(AlreadyExists, match="not of this topology"):
        await harness.up()
    assert await harness.down() == []
    assert await engine.nodes() == before
