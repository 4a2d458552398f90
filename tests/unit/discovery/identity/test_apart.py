"""The client whose key is made, and whose reply is checked, by a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from discovery.identity.allow import AllowTable
from discovery.identity.server import IdentityServer
from federation.aio.clock import SystemClock
from federation.errors import Denied, TimedOut, Unavailable
from federation.model.ids import SpiffeId
from federation.proto.v1 import identity_pb2 as pb
from federation.trust import apart
from federation.trust.authority import Authority
from federation.trust.keys import certificate_from_der, key_from_pem, public_der
from federation.trust.svid import utc
from federation.trust.verify import verify_chain
from federation.trust.workload import Grant, WorkloadIdentity

EAST = "east.fed.test"
CLOCK = SystemClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identity.sock"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "trust", trust_domain=EAST, clock=CLOCK)


@pytest.fixture
async def server(authority: Authority, path: Path) -> AsyncIterator[IdentityServer]:
    made = IdentityServer(
        path,
        authority,
        allow=AllowTable({os.getuid(): ["shop/*"]}),
        federation="fed.test",
        cluster="east",
        agent_addresses=lambda: ["127.0.0.1:7000"],
        log=structlog.get_logger(),
    )
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def client() -> WorkloadIdentity:
    return WorkloadIdentity(clock=CLOCK, timeout=60, apart=True)


async def test_it_gets_what_a_client_in_one_process_gets(
    server: IdentityServer, client: WorkloadIdentity, authority: Authority, path: Path, tmp_path: Path
) -> None:
    grant = await client.fetch(path, "shop", "echo")
    assert grant.svid.spiffe_id == SpiffeId.workload(EAST, "shop", "echo")
    assert (grant.bundle, grant.agent_address, grant.cluster) == (authority.bundle, "127.0.0.1:7000", "east")
    leaf = certificate_from_der(grant.svid.chain[0])
    assert public_der(key_from_pem(grant.svid.key_pem).public_key()) == public_der(leaf.public_key())  # type: ignore[arg-type]
    assert verify_chain(grant.svid.chain, {EAST: grant.bundle}, now=utc(CLOCK)) == grant.svid.spiffe_id
    grant.save(tmp_path / "state" / "identity")
    assert Grant.load(tmp_path / "state" / "identity") == grant


async def test_refusals_arrive_as_the_agent_gave_them(
    server: IdentityServer, client: WorkloadIdentity, path: Path
) -> None:
    with pytest.raises(Denied) as caught:
        await client.fetch(path, "other", "echo")
    assert caught.value.error_code == "identity_denied"


async def test_what_is_wrong_with_a_reply_arrives_as_it_was_found(
    server: IdentityServer, client: WorkloadIdentity, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def other_reply(*_: object) -> bytes:
        return pb.SignReply(cluster="east").SerializeToString()  # no bundle

    monkeypatch.setattr("federation.trust.workload._exchange", other_reply)
    with pytest.raises(Denied) as caught:
        await client.fetch(path, "shop", "echo")
    assert caught.value.error_code == "bundle_empty"


async def test_nothing_is_started_while_there_is_no_agent(
    client: WorkloadIdentity, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "PROGRAM", ("/nonexistent",))
    with pytest.raises(Unavailable) as caught:
        await client.fetch(path, "shop", "echo")
    assert "is the agent running" in caught.value.hint


@pytest.mark.parametrize(
    "program",
    [
        ("/nonexistent/python",),
        (sys.executable, "-c", "pass"),
        (sys.executable, "-c", "print('no frame', flush=True)"),
    ],
)
async def test_a_process_that_fails_is_no_fault_of_the_agent(
    program: tuple[str, ...],
    server: IdentityServer,
    client: WorkloadIdentity,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apart, "PROGRAM", program)
    with pytest.raises(Unavailable) as caught:
        await client.fetch(path, "shop", "echo")
    assert caught.value.error_code == "keys_unavailable"


async def test_a_process_that_hangs_is_ended(
    server: IdentityServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def remembered(*command: str, **more: int) -> asyncio.subprocess.Process:
        started.append(await start(*command, **more))
        return started[0]

    monkeypatch.setattr(apart.asyncio, "create_subprocess_exec", remembered)
    monkeypatch.setattr(apart, "PROGRAM", (sys.executable, "-c", "import time; time.sleep(600)"))
    with pytest.raises(TimedOut):
        await WorkloadIdentity(clock=CLOCK, timeout=1, apart=True).fetch(path, "shop", "echo")
    assert started[0].returncode is not None
