"""What a process that stays light tells the one that gets its identity, and when it starts none."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from clusters.network import free_port
from federation import __version__
from federation.errors import Denied, TimedOut, Unavailable
from federation.registry.edge import afar
from federation.registry.edge.afar import AfarIdentity, Job
from federation.registry.edge.settings import RemoteAgentSettings

ECHO = """
import sys
from pathlib import Path
from federation.errors import Denied
from federation.trust.apart import dump, failure
size = int.from_bytes(sys.stdin.buffer.read(4), "big")
Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read(size))
sys.stdout.buffer.write(dump(failure(Denied("not you", hint="ask", code="vm_removed"))))
"""


@pytest.fixture
async def listening() -> AsyncIterator[str]:
    """Somebody listens there, and says nothing."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", free_port())
    host, port = server.sockets[0].getsockname()
    yield f"{host}:{port}"
    server.close()
    await server.wait_closed()


def identity(tmp_path: Path, *enrolment: str) -> AfarIdentity:
    settings = RemoteAgentSettings(
        trust_domain="dc1.fed.test", enrolment=enrolment, anchors="/x/anchors.pem", token_file="/x/join.token"
    )
    return AfarIdentity(settings, vm="web-1", namespace="shop", account="web", key_file=tmp_path / "machine.key")


async def test_the_job_has_all_that_is_known_and_the_refusal_comes_back(
    tmp_path: Path, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(afar, "PROGRAM", (sys.executable, "-c", ECHO, str(tmp_path / "job")))
    dead = f"127.0.0.1:{free_port()}"
    with pytest.raises(Denied) as caught:
        await identity(tmp_path, dead, listening).fetch(None)
    assert (caught.value.error_code, caught.value.hint) == ("vm_removed", "ask")
    assert msgspec.msgpack.decode((tmp_path / "job").read_bytes(), type=Job) == Job(
        vm="web-1",
        namespace="shop",
        account="web",
        trust_domain="dc1.fed.test",
        enrolment=(listening, dead),  # where somebody listens comes first
        anchors="/x/anchors.pem",
        token_file="/x/join.token",
        key_file=str(tmp_path / "machine.key"),
        version=__version__,
    )


async def test_nothing_is_started_while_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(afar, "PROGRAM", ("/nonexistent",))
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with pytest.raises(Unavailable) as caught:
        await identity(tmp_path, *addresses).fetch(None)
    assert caught.value.error_code == "agent_unreachable"
    assert all(address in caught.value.message for address in addresses)


async def test_a_process_that_hangs_is_ended(tmp_path: Path, listening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(afar, "PROGRAM", (sys.executable, "-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(afar, "TIMEOUT", 0.5)
    with pytest.raises(TimedOut):
        await identity(tmp_path, listening).fetch(None)


@pytest.mark.parametrize("program", [("/nonexistent/python",), (sys.executable, "-c", "pass")])
async def test_a_process_that_fails_is_no_fault_of_the_agent(
    tmp_path: Path, listening: str, monkeypatch: pytest.MonkeyPatch, program: tuple[str, ...]
) -> None:
    monkeypatch.setattr(afar, "PROGRAM", program)
    with pytest.raises(Unavailable) as caught:
        await identity(tmp_path, listening).fetch(None)
    assert caught.value.error_code == "keys_unavailable"
