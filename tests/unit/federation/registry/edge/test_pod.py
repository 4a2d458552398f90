"""What a process in a Pod tells the one that gets its identity."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from clusters.network import free_port
from federation import __version__
from federation.errors import Denied, Unavailable
from federation.model.cluster import Bundle
from federation.model.ids import SpiffeId
from federation.registry.edge import pod
from federation.registry.edge.pod import PodIdentity, PodJob
from federation.registry.edge.settings import RemoteAgentSettings
from federation.trust.svid import Svid
from federation.trust.workload import Grant

ECHO = """
import sys
from pathlib import Path
from federation.errors import Denied
from federation.trust.apart import dump, failure
size = int.from_bytes(sys.stdin.buffer.read(4), "big")
Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read(size))
sys.stdout.buffer.write(dump(failure(Denied("not you", hint="ask", code="token_refused"))))
"""


@pytest.fixture
async def listening() -> AsyncIterator[str]:
    """Somebody listens there, and says nothing."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", free_port())
    host, port = server.sockets[0].getsockname()
    yield f"{host}:{port}"
    server.close()
    await server.wait_closed()


def identity(*enrolment: str, trust_domain: str = "") -> PodIdentity:
    settings = RemoteAgentSettings(
        trust_domain=trust_domain, enrolment=enrolment, anchors="/x/root.pem", service_account_token="/x/token"
    )
    settings.check()
    return PodIdentity(settings, namespace="shop", account="web")


def held(trust_domain: str = "east.fed.test", enrolment: tuple[str, ...] = ()) -> Grant:
    now = datetime.now(UTC)
    spiffe_id = SpiffeId.workload(trust_domain, "shop", "web")
    return Grant(
        svid=Svid(spiffe_id=spiffe_id, chain=(b"leaf",), key_pem=b"key", not_before=now, not_after=now),
        bundle=Bundle(trust_domain=trust_domain, sequence=1, roots=(b"root",)),
        agent_address="10.1.0.5:7445",
        federation="fed.test",
        cluster="east",
        enrolment_addresses=enrolment,
    )


async def test_the_job_has_all_that_is_known_and_the_refusal_comes_back(
    tmp_path: Path, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod, "PROGRAM", (sys.executable, "-c", ECHO, str(tmp_path / "job")))
    dead, told = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with pytest.raises(Denied) as caught:
        await identity(dead, listening).fetch(held(enrolment=(told, listening)))
    assert (caught.value.error_code, caught.value.hint) == ("token_refused", "ask")
    assert msgspec.msgpack.decode((tmp_path / "job").read_bytes(), type=PodJob) == PodJob(
        namespace="shop",
        account="web",
        enrolment=(listening, told, dead),  # what the settings say before what was told, if somebody listens there
        anchors="/x/root.pem",
        roots=(b"root",),
        token="/x/token",
        version=__version__,
    )


async def test_nothing_is_started_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod, "PROGRAM", ("/nonexistent",))
    with pytest.raises(Unavailable) as caught:
        await identity(f"127.0.0.1:{free_port()}").fetch(None)
    assert caught.value.error_code == "agent_unreachable"
    assert "pods.listen" in caught.value.hint


@pytest.mark.parametrize(("trust_domain", "ours"), [("", True), ("east.fed.test", True), ("west.fed.test", False)])
def test_what_was_kept_is_ours_unless_the_settings_name_another_cluster(trust_domain: str, ours: bool) -> None:
    assert identity("10.96.0.9:7446", trust_domain=trust_domain).ours(held()) is ours
