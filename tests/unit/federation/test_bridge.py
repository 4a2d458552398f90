"""The bridge as it is started in a container: both directions, both ends, and what it says when nobody is there."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters.network import free_port
from federation.bridge import GREETING


def start(folder: Path, to: str = "agent") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "federation.bridge", to, "--directory", str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "agent.sock"))
        made.listen()
        yield made


def echo(listener: socket.socket) -> None:
    """One connection; what it said, backwards, once it has said all."""
    far, _ = listener.accept()
    with far:
        said = b""
        while piece := far.recv(65536):
            said += piece
        far.sendall(said[::-1])


def test_both_ways_and_the_end_of_each(listener: socket.socket, tmp_path: Path) -> None:
    thread = threading.Thread(target=echo, args=(listener,))
    thread.start()
    said = bytes(range(256)) * 4096
    process = start(tmp_path)
    out, errors = process.communicate(said, timeout=60)
    thread.join()
    assert (process.returncode, errors) == (0, b"")
    assert out == GREETING + said[::-1]


def test_it_ends_with_the_far_side(listener: socket.socket, tmp_path: Path) -> None:
    process = start(tmp_path)
    far, _ = listener.accept()
    far.close()
    assert process.wait(timeout=60) == 0
    process.communicate()


@pytest.mark.parametrize(("to", "code"), [("agent", "agent_down"), ("registry", "registry_down")])
def test_nobody_is_there(tmp_path: Path, to: str, code: str) -> None:
    process = start(tmp_path, to)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (6, b"")
    told = json.loads(errors)
    assert told["code"] == code
    assert str(tmp_path) in told["message"]


def test_the_registrys_port_is_that_of_its_settings(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "settings.yaml").write_text(f"listen: 0.0.0.0:{port}\n")
    with socket.create_server(("127.0.0.1", port)) as server:
        thread = threading.Thread(target=echo, args=(server,))
        thread.start()
        out, _ = start(tmp_path, "registry-port").communicate(b"abc", timeout=60)
        thread.join()
    assert out == GREETING + b"cba"


def test_it_imports_next_to_nothing() -> None:
    code = "import sys, federation.bridge; print(*sorted(m for m in sys.modules if m.startswith(('grpc', 'aiohttp'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    heavy = {"typer", "msgspec", "structlog", "yaml", "cryptography", "asyncio"}
    code = "import sys, federation.bridge; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
