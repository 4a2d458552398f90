"""The agent as a process: ready, measured, ended in order; and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

Until = Callable[..., Awaitable[Any]]


def command(settings: Path) -> list[str]:
    return [sys.executable, "-m", "discovery", "--settings", str(settings)]


@asynccontextmanager
async def running(settings: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command(settings), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def get(directory: Path, path: str) -> tuple[int, str]:
    try:
        port = json.loads((directory / "ports.json").read_text())["metrics"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (OSError, KeyError, ValueError):
        return 0, ""


async def refused(settings: Path) -> tuple[int, str]:
    done = await asyncio.to_thread(
        lambda: subprocess.run(command(settings), capture_output=True, text=True, timeout=30, check=False)
    )
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("isthmus-agent: ")]
    assert "Traceback" not in done.stderr
    return done.returncode, line


async def test_ready_measured_and_ended_by_sigterm(federation: Any, manifest: Any, until: Until) -> None:
    east = await federation.cluster("east", start=False)
    await federation.stop_registry()  # it must not be needed
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    settings = east.state / "settings.yaml"
    async with running(settings) as process:
        await until(lambda: get(east.state, "/readyz")[0] == 200)
        assert get(east.state, "/healthz")[0] == 200
        text = get(east.state, "/metrics")[1]
        assert "isthmus_agent_exports 1.0" in text
        assert "isthmus_agent_registry_watched 0.0" in text

        status, line = await refused(settings)
        assert status == 7
        assert "another agent uses" in line

        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 0
        assert "Traceback" not in errors.decode()
        assert not (east.state / "agent.sock").exists()
        assert not (east.state / "identity.sock").exists()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        original = settings.read_text()
        settings.write_text(original.replace("metrics: 127.0.0.1:0", f"metrics: 127.0.0.1:{port}"))
        status, line = await refused(settings)
        assert status == 6
        assert str(port) in line
        settings.write_text(original.replace("listen: 127.0.0.1:", f"listen: 127.0.0.1:{port} #"))
        status, line = await refused(settings)
        assert status == 6
        assert str(port) in line


async def test_what_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    status, line = await refused(tmp_path / "none.yaml")
    assert status == 2
    assert "none.yaml" in line
    settings = tmp_path / "settings.yaml"
    settings.write_text("cluster: east\nfederation: fed.example\nregistry: 127.0.0.1:1\nfiles: {folder: m}\n")
    status, line = await refused(settings)
    assert status == 3
    assert "cluster join" in line
