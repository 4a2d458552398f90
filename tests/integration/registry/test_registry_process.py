"""The process as it is started, stopped, and kept from starting; its metrics, its disk, its certificates."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from clusters.network import free_port
from clusters.waiting import START
from federation.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    InvalidName,
    InvalidSettings,
    NotFound,
    StorageFailed,
)
from federation.model.record import OriginState
from federation.registry import settings as registry_settings
from federation.registry.init import init
from federation.registry.operator import OperatorClient
from federation.registry.server import Registry

pytestmark = pytest.mark.integration


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def process(tmp_path: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    settings = init(
        tmp_path / "r",
        "demo.test",
        listen="127.0.0.1:0",
        enrolment="127.0.0.1:0",
        metrics=f"127.0.0.1:{port}",
        single_machine=True,
    )
    running = subprocess.Popen(
        [sys.executable, "-m", "federation.registry", "--settings", str(settings)],
        stderr=subprocess.PIPE,
        text=True,
    )
    yield running, tmp_path / "r", port
    running.kill()
    running.wait()
    assert running.stderr is not None
    running.stderr.close()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


async def test_it_serves_until_sigterm(process: Any, wait: Any) -> None:
    running, directory, port = process

    async def ready() -> bool:
        return (await asyncio.to_thread(get, port, "/readyz"))[0] == 200

    await wait(ready)
    async with OperatorClient.open(directory / "operator") as operator:
        status = await operator.status()
        assert (status.federation, status.streams, list(status.problems)) == ("demo.test", 0, [])
    assert (await asyncio.to_thread(get, port, "/healthz"))[0] == 200
    _, text = await asyncio.to_thread(get, port, "/metrics")
    assert 'isthmus_registry_clusters{state="live"} 0.0' in text
    assert "isthmus_registry_certificate_seconds" in text
    running.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(running.wait, 30) == 0


@pytest.mark.parametrize(
    ("spoil", "status", "says"),
    [
        ("settings", 2, "invalid_settings"),
        ("key", 2, "unknown field"),
        ("database", 9, "corrupt_state"),
        ("root", 9, "corrupt_state"),
        ("port", 7, "address_unavailable"),
    ],
)
def test_what_keeps_it_from_starting(tmp_path: Path, port: int, spoil: str, status: int, says: str) -> None:
    directory = tmp_path / "r"
    path = init(directory, "demo.test", listen=f"127.0.0.1:{port}", enrolment="127.0.0.1:0", metrics="")
    before = (directory / "registry.db").read_bytes()
    with socket.socket() as taken:
        if spoil == "settings":
            path.write_text("listen: [")
        elif spoil == "key":
            path.write_text(path.read_text() + "lisen: x\n")
        elif spoil == "database":
            (directory / "registry.db").write_bytes(b"garbage" * 1000)
        elif spoil == "root":
            (directory / "ca" / "root.pem").write_bytes(b"garbage")
        else:
            taken.bind(("127.0.0.1", port))
            taken.listen()
        result = subprocess.run(
            [sys.executable, "-m", "federation.registry", "--settings", str(path)],
            capture_output=True,
            text=True,
            timeout=START,
            check=False,
        )
    line = result.stderr.strip().splitlines()[-1]
    assert (result.returncode, says in line, line.startswith("registry: ")) == (status, True, True), line
    assert "Traceback" not in result.stderr
    if spoil == "port":
        assert f"127.0.0.1:{port}" in line
        assert "listen" in line
        assert len((directory / "registry.db").read_bytes()) == len(before)


@pytest.mark.parametrize("key", ["listen", "enrolment", "metrics"])
async def test_every_port_that_is_taken_is_named(tmp_path: Path, key: str, port: int) -> None:
    path = init(tmp_path / "r", "demo.test", listen="127.0.0.1:0", enrolment="127.0.0.1:0", metrics="127.0.0.1:0")
    settings = msgspec.structs.replace(registry_settings.load(path), **{key: f"127.0.0.1:{port}"})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(Conflict) as caught:
            await Registry(settings).__aenter__()
    assert caught.value.error_code == "address_unavailable"
    assert f"127.0.0.1:{port}" in caught.value.message
    assert key in caught.value.hint
    async with Registry(settings):  # nothing was left behind
        pass


async def test_two_registries_on_one_directory(world: Any) -> None:
    with pytest.raises(Conflict) as caught:
        await Registry(registry_settings.load(world.directory / "settings.yaml")).__aenter__()
    assert caught.value.error_code == "store_locked"
    assert (await world.operator().status()).federation == "demo.test"


def test_init_makes_what_is_needed_and_never_twice(tmp_path: Path) -> None:
    path = init(tmp_path / "r", "demo.test")
    tree = yaml.safe_load(path.read_text())
    assert (tree["federation"], tree["directory"], tree["single_machine"]) == ("demo.test", ".", False)
    assert sorted(p.name for p in (tmp_path / "r" / "operator").iterdir()) == [
        "ca.pem",
        "operator.key",
        "operator.pem",
        "operator.yaml",
    ]
    assert not [p for p in (tmp_path / "r").rglob("*") if p.stat().st_mode & 0o077 and p.name != "registry.db-wal"]
    with pytest.raises(AlreadyExists):
        init(tmp_path / "r", "demo.test")
    assert registry_settings.load(path).directory == str((tmp_path / "r").resolve())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"federation": "Demo"}, InvalidName),
        ({"federation": "a..b"}, InvalidName),
        ({"listen": "127.0.0.1"}, InvalidInput),
        ({"listen": "127.0.0.1:99999"}, Exception),
        ({"advertise": "nonsense"}, InvalidInput),
        ({"lease": 1.0, "heartbeat": 1.0}, InvalidSettings),
        ({"svid_ttl": 0}, InvalidSettings),
    ],
)
def test_init_with_nonsense_leaves_nothing(tmp_path: Path, changes: dict[str, Any], error: type[Exception]) -> None:
    values: dict[str, Any] = {"federation": "demo.test", **changes}
    with pytest.raises(error):
        init(tmp_path / "r", values.pop("federation"), **values)
    assert not (tmp_path / "r").exists()


async def test_an_operator_without_credentials(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        OperatorClient.open(tmp_path)
    assert caught.value.error_code == "no_credentials"


async def test_the_certificate_is_renewed_under_the_streams(make_world: Any, wait: Any) -> None:
    world = make_world(svid_ttl=2.0, operator_ttl=2.0)
    await world.start()
    try:
        east, west = await world.pair()
        first = world.registry.svid.current
        await wait(lambda: world.registry.svid.current != first)
        await wait(lambda: world.registry.operator.latest.version > 0)
        east.put(east.service(ready=5))
        await wait(lambda: west.view[east.service().key].payload == east.service(ready=5).payload)
        assert (east.watch.connections, west.watch.connections) == (1, 1)
        edge = await world.join("edge")  # a new connection is shown the new one
        world.follow(edge)
        await wait(lambda: edge.watch.connected)
        assert (await world.operator().status()).streams == 6
    finally:
        await world.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs: run as root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


async def test_a_full_disk(small_disk: Path, make_world: Any, wait: Any) -> None:
    """Changes are refused, everything else goes on, and it heals by itself."""
    world = make_world()
    shutil.move(world.directory, small_disk / "registry")
    world.directory = small_disk / "registry"
    await world.start()
    try:
        east, west = await world.pair()
        operator = world.operator()
        fill(small_disk / "filler")

        async def write_until_it_fails() -> None:
            for number in range(100):
                await operator.issue_token(f"more-{number}")

        with pytest.raises(StorageFailed) as caught:
            await write_until_it_fails()
        assert "full" in caught.value.message
        assert [p.code for p in (await operator.status()).problems] == ["storage_failed"]
        with pytest.raises(StorageFailed):
            await operator.unlink("east", "west")
        assert [link.link.a for link in await operator.links()] == ["east"]
        east.put(east.service(ready=5))
        await wait(lambda: west.view[east.service().key].payload == east.service(ready=5).payload)
        assert east.sink.replica.origins["west"].state is OriginState.LIVE
        (small_disk / "filler").unlink()
        await operator.issue_token("edge")
        await operator.unlink("east", "west")
        assert not (await operator.status()).problems
        await wait(lambda: not east.view)
    finally:
        await world.close()


async def test_in_a_pod_it_makes_its_own_folder_and_follows_its_settings(tmp_path: Path, port: int, wait: Any) -> None:
    file, state = tmp_path / "registry.yaml", tmp_path / "state"
    keys = {"federation": "demo.test", "directory": str(state), "metrics": f"127.0.0.1:{port}", "single_machine": True}
    keys |= {"listen": "127.0.0.1:0", "enrolment": "127.0.0.1:0"}

    async def serve(advertise: str) -> str:
        """What the operator is told, after a start with this address."""
        file.write_text(yaml.safe_dump(keys | {"advertise": advertise}))
        command = [sys.executable, "-m", "federation.registry", "--in-pod", str(file)]
        running = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        try:
            await wait(lambda: get(port, "/readyz")[0] == 200)
            return str(yaml.safe_load((state / "operator/operator.yaml").read_text())["registry"])
        finally:
            running.terminate()
            await asyncio.wait_for(running.communicate(), 30)
            assert running.returncode == 0

    assert await serve("192.0.2.1:7400") == "192.0.2.1:7400"
    ca = (state / "ca/root.pem").read_bytes()
    assert await serve("192.0.2.2:31400") == "192.0.2.2:31400"
    assert (state / "ca/root.pem").read_bytes() == ca
