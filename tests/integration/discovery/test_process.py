"""The agent as a process: ready, measured, ended in order; and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
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

from clusters.program import whole_lines
from clusters.waiting import DEADLINE, START
from discovery.client import AgentClient
from federation.aio.clock import SystemClock

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
        lambda: subprocess.run(command(settings), capture_output=True, text=True, timeout=START, check=False)
    )
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("isthmus-agent: ")]
    assert "Traceback" not in done.stderr
    return done.returncode, line


async def test_ready_measured_and_ended_by_sigterm(federation: Any, manifest: Any, until: Until) -> None:
    east = await federation.cluster("east", start=False)
    await federation.stop_registry()  # it must not be needed
    east.write("echo.yaml", manifest("echo", "127.0.0.1"))
    settings = east.state / "settings.yaml"
    settings.write_text(f"{settings.read_text()}drain_seconds: 5\n")
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
        assert process.stderr is not None
        async with asyncio.timeout(DEADLINE):
            while b"draining" not in await process.stderr.readline():
                assert not process.stderr.at_eof()
        assert get(east.state, "/readyz")[0] == 200  # all is served to who has not heard of it
        _, errors = await asyncio.wait_for(process.communicate(), START)
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


class Behind(SystemClock):
    """Of a registry that issued its certificate two hours ago and has not renewed it."""

    def wall_ns(self) -> int:
        return super().wall_ns() - 7200 * 10**9


async def test_every_line_is_its_own_and_says_why_the_registry_is_not_believed(
    federation: Any, tmp_path: Path, until: Until
) -> None:
    """1. its certificate has expired  2. its CA is another one"""
    east = await federation.cluster("east", start=False)
    log = tmp_path / "agent.log"

    def disconnected(code: str) -> list[str]:
        lines = [json.loads(line) for line in whole_lines(log)]  # each of them
        return sorted(line["stream"] for line in lines if line["event"] == "disconnected" and line["code"] == code)

    own = {k: v for k, v in os.environ.items() if k != "GRPC_VERBOSITY"}  # what this process has set for itself
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(*command(east.state / "settings.yaml"), stderr=file, env=own)
    try:
        await until(lambda: "isthmus_agent_registry_watched 1.0" in get(east.state, "/metrics")[1])
        async with AgentClient.open(east.state) as client:

            async def said(text: str) -> bool:
                return text in (await client.status()).registry_detail

            await federation.stop_registry()
            await federation.start_registry(clock=Behind())
            await until(lambda: said("shows a certificate that has expired (it renews its own while it runs"))
            await until(lambda: disconnected("certificate_expired") == ["publish", "watch"])

            await federation.stop_registry()
            shutil.rmtree(tmp_path / "registry" / "ca")
            await federation.start_registry()
            await until(lambda: said("shows a certificate that is vouched for by a CA that is not known here"))
            await until(lambda: disconnected("certificate_unknown_ca") == ["publish", "watch"])
    finally:
        process.kill()
        await process.wait()
