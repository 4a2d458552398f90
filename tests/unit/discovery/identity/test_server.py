"""The identity socket and its client, together and each against something that is not the other."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from discovery.identity.allow import AllowTable
from discovery.identity.server import MAX_CALLS_PER_USER, IdentityServer, peer_uid
from federation.aio.clock import FakeClock
from federation.errors import (
    AlreadyExists,
    CorruptState,
    Denied,
    InvalidInput,
    InvalidSettings,
    IsthmusError,
    TimedOut,
    Unavailable,
)
from federation.model.ids import SpiffeId
from federation.model.wire import bundle_to_pb
from federation.proto.v1 import identity_pb2 as pb
from federation.trust.authority import Authority
from federation.trust.csr import make_csr, read_csr
from federation.trust.framing import MAX_FRAME, read_frame, write_frame
from federation.trust.keys import certificate_from_der, key_from_pem, new_key, public_der
from federation.trust.svid import utc
from federation.trust.verify import verify_chain
from federation.trust.workload import Grant, WorkloadIdentity

EAST = "east.fed.test"
NOBODY = 65534


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def authority(tmp_path: Path, clock: FakeClock) -> Authority:
    return Authority.open(tmp_path / "trust", trust_domain=EAST, clock=clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identity.sock"


def exists(path: Path) -> bool:
    return path.exists()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


Make = Callable[..., IdentityServer]


@pytest.fixture
async def server(authority: Authority, path: Path) -> AsyncIterator[Make]:
    """Makes identity servers; those still open are closed at the end."""
    made: list[IdentityServer] = []

    def make(**changes: Any) -> IdentityServer:
        arguments: dict[str, Any] = {
            "path": path,
            "authority": authority,
            "allow": AllowTable({os.getuid(): ["shop/*", "isthmus-system/gateway"]}),
            "federation": "fed.test",
            "cluster": "east",
            "agent_addresses": lambda: ["127.0.0.1:7000"],
            "log": structlog.get_logger(),
        }
        one = IdentityServer(**(arguments | changes))
        made.append(one)
        return one

    yield make
    for one in made:
        await one.close()


@pytest.fixture
def client(clock: FakeClock) -> WorkloadIdentity:
    return WorkloadIdentity(clock=clock, timeout=5)


async def test_a_listed_user_gets_its_identity(
    server: Make, client: WorkloadIdentity, authority: Authority, path: Path, clock: FakeClock
) -> None:
    one = server(ttl=timedelta(minutes=10))
    await one.start()
    grant = await client.fetch(path, "shop", "echo")
    assert grant.svid.spiffe_id == SpiffeId.workload(EAST, "shop", "echo")
    assert (grant.bundle, grant.federation, grant.cluster) == (authority.bundle, "fed.test", "east")
    assert grant.agent_address == "127.0.0.1:7000"
    assert grant.not_after - utc(clock).replace(microsecond=0) == timedelta(minutes=10)
    leaf = certificate_from_der(grant.svid.chain[0])
    assert public_der(key_from_pem(grant.svid.key_pem).public_key()) == public_der(leaf.public_key())  # type: ignore[arg-type]
    assert verify_chain(grant.svid.chain, {EAST: grant.bundle}, now=utc(clock)) == grant.svid.spiffe_id
    assert (one.issued, one.refused) == (1, 0)


@pytest.mark.parametrize(
    ("identity", "code"),
    [
        (("other", "echo"), "identity_denied"),
        (("isthmus-system", "agent"), "identity_denied"),
        (("Shop", "echo"), "invalid_name"),
        (("shop", "a/../b"), "invalid_name"),
        (("shop", ""), "invalid_name"),
        (("", ""), "invalid_name"),
        (("shop", "a\0b"), "invalid_name"),
    ],
)
async def test_other_identities_are_refused(
    identity: tuple[str, str], code: str, server: Make, client: WorkloadIdentity, path: Path
) -> None:
    one = server()
    await one.start()
    with pytest.raises(IsthmusError) as caught:
        await client.fetch(path, *identity)
    assert caught.value.error_code == code
    assert (one.issued, one.refused) == (0, 1)


async def test_the_kernel_says_who_asks(server: Make, path: Path, client: WorkloadIdentity) -> None:
    await server(allow=AllowTable({NOBODY: ["shop/*"]})).start()
    with pytest.raises(Denied) as caught:
        await client.fetch(path, "shop", "echo")
    assert caught.value.error_code == "identity_denied"
    assert str(os.getuid()) in caught.value.message


def test_the_user_is_the_one_that_connected() -> None:
    own = os.geteuid()
    other = NOBODY if own == 0 else own  # only root can be somebody else for a moment
    os.seteuid(other)
    try:
        ends = socket.socketpair(socket.AF_UNIX)
    finally:
        os.seteuid(own)
    with ends[0], ends[1]:
        assert peer_uid(ends[0]) == other


async def exchange(path: Path, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(raw)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
        await writer.wait_closed()


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


async def test_what_is_no_request(server: Make, path: Path, client: WorkloadIdentity) -> None:
    one = server()
    await one.start()
    for raw in (
        b"",
        b"\0\0",
        b"\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        frame(b"x" * 10)[:-1],
        (MAX_FRAME + 1).to_bytes(4, "big"),
    ):
        assert await exchange(path, raw) == b""
    for raw, code in (
        (b"\xff" * 10, "invalid_request"),
        (pb.SignRequest(namespace="shop", account="echo", csr=b"none").SerializeToString(), "csr_malformed"),
        (pb.SignRequest(namespace="shop", account="echo").SerializeToString(), "csr_malformed"),
    ):
        reply = pb.SignReply.FromString((await exchange(path, frame(raw)))[4:])
        assert (reply.error_code, reply.chain) == (code, [])
    assert await client.fetch(path, "shop", "echo")  # it serves on


async def test_a_silent_caller_is_let_go(server: Make, path: Path, client: WorkloadIdentity) -> None:
    await server(timeout=0.1).start()
    reader, writer = await asyncio.open_unix_connection(str(path))
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await writer.wait_closed()


async def test_one_silent_user_does_not_keep_others_from_their_identity(
    server: Make, path: Path, client: WorkloadIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = server()
    monkeypatch.setattr("discovery.identity.server.peer_uid", lambda _: NOBODY)
    await one.start()
    silent = [await asyncio.open_unix_connection(str(path)) for _ in range(100)]
    ended = [asyncio.ensure_future(reader.read()) for reader, _ in silent]
    async with asyncio.timeout(5):
        while sum(e.done() for e in ended) < 100 - MAX_CALLS_PER_USER:
            await asyncio.sleep(0.001)
    monkeypatch.undo()
    assert await client.fetch(path, "shop", "echo")
    await one.close()
    await asyncio.gather(*ended, return_exceptions=True)
    for _, writer in silent:
        writer.close()


async def test_a_crowd_of_callers_is_served(server: Make, path: Path, client: WorkloadIdentity) -> None:
    await server().start()
    grants = await asyncio.gather(*(client.fetch(path, "shop", f"echo-{i}") for i in range(40)))
    assert len({g.svid.chain[0] for g in grants}) == 40


async def test_closing_ends_the_calls_in_flight_and_removes_the_socket(server: Make, path: Path) -> None:
    one = server()
    await one.start()
    reader, writer = await asyncio.open_unix_connection(str(path))
    async with asyncio.timeout(5):
        while not one._calls:
            await asyncio.sleep(0.001)
    await one.close()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert not exists(path)
    writer.close()
    await writer.wait_closed()


async def test_the_sockets_mode_and_a_stale_socket(server: Make, path: Path, client: WorkloadIdentity) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()  # as kill -9 leaves it
    await server(mode=0o660).start()
    assert mode_of(path) == 0o660
    assert await client.fetch(path, "shop", "echo")
    with pytest.raises(AlreadyExists):
        await server().start()
    assert await client.fetch(path, "shop", "echo")


async def test_where_it_cannot_listen(server: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(AlreadyExists):
        await server(path=tmp_path / "file").start()
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(InvalidSettings):
        await server(path=tmp_path / ("x" * 120)).start()
    with pytest.raises(IsthmusError):
        await server(path=tmp_path / "none" / "socket").start()


async def test_no_agent_there(client: WorkloadIdentity, path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        await client.fetch(path, "shop", "echo")
    assert "is the agent running" in caught.value.hint


Reply = Callable[[pb.SignRequest], pb.SignReply | bytes | None]


@asynccontextmanager
async def false_agent(path: Path, answer: Reply) -> AsyncIterator[None]:
    release = asyncio.Event()
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reply = answer(pb.SignRequest.FromString(await read_frame(reader)))
        if isinstance(reply, bytes):
            writer.write(reply)
        elif reply is None:
            await release.wait()
        else:
            await write_frame(writer, reply.SerializeToString())
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with await asyncio.start_unix_server(serve, str(path)):
        yield
        release.set()
        await asyncio.wait_for(ended.wait(), 5)


async def test_the_client_verifies_what_it_gets(
    client: WorkloadIdentity, path: Path, tmp_path: Path, authority: Authority, clock: FakeClock
) -> None:
    other = Authority.open(tmp_path / "west", trust_domain="west.fed.test", clock=clock)

    def signed(request: pb.SignRequest, **changes: Any) -> pb.SignReply:
        spiffe_id = SpiffeId.workload(EAST, changes.get("namespace", "shop"), "echo")
        key = changes.get("key") or read_csr(request.csr)
        svid = authority.issue(key, spiffe_id=spiffe_id)
        bundle = changes.get("bundle", authority.bundle)
        return pb.SignReply(chain=svid.chain, bundle=bundle_to_pb(bundle))

    empty = replace(authority.bundle, roots=())
    cases: list[tuple[Reply, type[IsthmusError]]] = [
        (lambda r: signed(r, namespace="other"), Denied),
        (lambda r: signed(r, key=new_key().public_key()), Denied),
        (lambda r: signed(r, bundle=other.bundle), Denied),
        (lambda r: signed(r, bundle=empty), Denied),
        (lambda r: pb.SignReply(bundle=bundle_to_pb(authority.bundle)), Denied),
        (lambda r: pb.SignReply(error_code="identity_denied", error_detail="no"), Denied),
        (lambda r: pb.SignReply(error_code="csr_malformed", error_detail="no"), InvalidInput),
        (lambda r: b"HTTP/1.1 400 Bad Request", Unavailable),
        (lambda r: frame(b"\xff\xff"), Unavailable),
        (lambda r: b"\0", Unavailable),
        (lambda r: b"", Unavailable),
    ]
    for answer, error in cases:
        async with false_agent(path, answer):
            with pytest.raises(error):
                await client.fetch(path, "shop", "echo")


async def test_a_silent_agent_times_out(path: Path, clock: FakeClock) -> None:
    async with false_agent(path, lambda _: None):
        with pytest.raises(TimedOut):
            await WorkloadIdentity(clock=clock, timeout=0.1).fetch(path, "shop", "echo")


async def test_a_grant_is_kept_on_disk(server: Make, client: WorkloadIdentity, path: Path, tmp_path: Path) -> None:
    await server().start()
    grant = await client.fetch(path, "shop", "echo")
    kept = tmp_path / "state" / "identity"
    assert Grant.load(kept) is None
    grant.save(kept)
    assert Grant.load(kept) == grant
    assert mode_of(kept) == 0o600
    assert "PRIVATE" not in repr(grant)
    cut_short(kept)
    with pytest.raises(CorruptState) as caught:
        Grant.load(kept)
    assert "remove it" in caught.value.hint


def test_request_carries_no_name() -> None:
    assert b"shop" not in make_csr(new_key())
