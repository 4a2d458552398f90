"""What keeps an edge process from starting: each gives one clear line, and an exit status of its class."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.waiting import START

pytestmark = pytest.mark.integration


def run(module: str, settings: dict[str, Any], directory: Path) -> tuple[int, str]:
    path = directory / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    done = subprocess.run(
        [sys.executable, "-m", module, "--settings", str(path)],
        capture_output=True,
        text=True,
        timeout=START,
        check=False,
    )
    return done.returncode, done.stderr


def gateway(directory: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "gw",
        "address": "127.0.0.1",
        "port": 15443,
        "state_directory": str(directory / "state"),
        "agent_directory": str(directory / "agent"),
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"port": 0}, 2, "invalid_port"),
        ({"name": "Gateway One"}, 2, "invalid_name"),
        ({"colour": "red"}, 2, "invalid_settings"),
        ({"envoy": {"path": "/nonexistent/envoy"}}, 6, "envoy_missing"),
        ({"envoy": {"path": "/bin/true"}}, 2, "envoy_not_executable"),
        ({"state_directory": "/proc/nowhere"}, 10, "storage_failed"),
    ],
)
def test_wrong_settings_give_one_line(short_root: Path, changes: dict[str, Any], status: int, code: str) -> None:
    found, text = run("gateway", gateway(short_root, **changes), short_root)
    assert found == status, text
    assert text.startswith("gateway: ")
    assert text.rstrip().endswith(f"[{code}]")
    assert text.count("\n") == 1


@pytest.mark.parametrize("module", ["federation.registry", "discovery", "gateway", "sidecar"])
def test_every_program_takes_keys_from_its_command_line(short_root: Path, module: str) -> None:
    """What none of them can use is told, so the option is known and its value is the one that counts."""
    path = short_root / "settings.yaml"
    path.write_text("log: {level: info}\n")
    for change, told in (("log.json=5", "--set log.json=5: Expected `bool | null`"), ("log.lvl=x", "no key log.lvl")):
        done = subprocess.run(
            [sys.executable, "-m", module, "--settings", str(path), "--set", change],
            capture_output=True,
            text=True,
            timeout=START,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert told in done.stderr


def test_a_missing_settings_file_and_broken_yaml_give_one_line(short_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "--settings", str(short_root / "none")],
        capture_output=True,
        text=True,
        timeout=START,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    (short_root / "bad.yaml").write_text("name: [")
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "--settings", str(short_root / "bad.yaml")],
        capture_output=True,
        text=True,
        timeout=START,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "bad.yaml:1" in done.stderr or "bad.yaml:2" in done.stderr


def test_a_metrics_port_that_is_taken_gives_one_line(short_root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found, text = run("gateway", gateway(short_root, metrics={"port": taken.getsockname()[1]}), short_root)
    assert found == 6
    assert "[metrics_port_unavailable]" in text
    assert text.count("\n") == 1


async def test_a_second_process_on_the_same_state_is_refused(world: Any, shop: Any) -> None:
    west = await world.agent("west")
    shop.link(west)
    sidecar = world.sidecar(west)
    await sidecar.ready()
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "sidecar", "--settings", str(sidecar.path)],
        capture_output=True,
        text=True,
        timeout=START,
        check=False,
    )
    assert done.returncode == 7
    assert "state_directory_in_use" in done.stderr
    assert sidecar.http("/readyz")[0] == 200


async def test_a_dns_port_that_is_taken_gives_one_line(world: Any, shop: Any) -> None:
    west = await world.agent("west")
    shop.link(west)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        sidecar = world.sidecar(west, dns={"port": taken.getsockname()[1]})
        await shop.until(lambda: sidecar.child.poll() is not None)
    assert sidecar.child.returncode == 6
    assert "[dns_port_unavailable]" in sidecar.log.read_text()


async def test_without_an_agent_it_waits_and_says_so(world: Any, shop: Any) -> None:
    west = await world.agent("west")
    shop.link(west)
    await west.stop()
    gateway = world.gateway(west)
    await shop.until(lambda: "no identity yet" in gateway.log.read_text())
    assert gateway.child.poll() is None
    assert await gateway.stop() == 0  # it can be stopped while it waits
    gateway.start()
    await west.start()
    await gateway.ready()
