"""Who answers at a gateway's address, with real certificates and a clock of our own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from datetime import timedelta
from pathlib import Path

import pytest

from discovery.probe import dial
from federation.aio.clock import FakeClock
from federation.errors import Denied, IsthmusError, Unavailable
from federation.model.cluster import Gateway
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId
from federation.trust.authority import Authority
from federation.trust.svid import Svid

HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(wall_ns=1_800_000_000 * 10**9)


def make(root: Path, domain: str, clock: FakeClock) -> Authority:
    return Authority.open(root / domain, trust_domain=domain, clock=clock)


def leaf(authority: Authority, account: str, namespace: str = SYSTEM_NAMESPACE) -> Svid:
    return authority.issue_with_key(
        spiffe_id=SpiffeId.workload(authority.trust_domain, namespace, account), ttl=HOUR, dns_names=[]
    )


def test_a_gateway_of_the_expected_cluster(tmp_path: Path, clock: FakeClock) -> None:
    west = make(tmp_path, "west.fed.example", clock)
    shown = leaf(west, "gateway")
    ends = dial.check_gateway(shown.chain, west.bundle, clock=clock)
    assert ends == int(shown.not_after.timestamp()) * 10**9
    clock.advance(2 * HOUR.total_seconds())
    with pytest.raises(Denied, match="valid from") as caught:
        dial.check_gateway(shown.chain, west.bundle, clock=clock)
    assert caught.value.error_code == dial.UNTRUSTED


@pytest.mark.parametrize("account", ["agent", "client"])
def test_somebody_else_of_that_cluster_is_no_gateway(tmp_path: Path, clock: FakeClock, account: str) -> None:
    west = make(tmp_path, "west.fed.example", clock)
    with pytest.raises(Denied, match="no gateway") as caught:
        dial.check_gateway(leaf(west, account).chain, west.bundle, clock=clock)
    assert caught.value.error_code == dial.UNTRUSTED


def test_a_gateway_of_another_cluster_or_of_a_new_root(tmp_path: Path, clock: FakeClock) -> None:
    west, edge = make(tmp_path, "west.fed.example", clock), make(tmp_path, "edge.fed.example", clock)
    anew = make(tmp_path / "anew", "west.fed.example", clock)
    for shown in (leaf(edge, "gateway").chain, leaf(anew, "gateway").chain, ()):
        with pytest.raises(Denied) as caught:
            dial.check_gateway(shown, west.bundle, clock=clock)
        assert caught.value.error_code == dial.UNTRUSTED


class Listening:
    """A TCP server of one sort on loopback."""

    def __init__(self, context: ssl.SSLContext | None, *, cut: bool = False) -> None:
        self._context, self._cut = context, cut
        self._server: asyncio.Server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._cut:
                writer.transport.abort()
                return
            await reader.read(1)
            writer.write(b"hello")
            await writer.drain()
        finally:
            writer.close()

    async def __aenter__(self) -> Gateway:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        port = self._server.sockets[0].getsockname()[1]
        return Gateway(name="gw", address="127.0.0.1", port=port)

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


def server_context(tmp_path: Path, svid: Svid, *, callers: bytes) -> ssl.SSLContext:
    """Demands a certificate that `callers` (PEM) vouch for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    held = tmp_path / "server.pem"
    held.write_bytes(svid.key_pem + svid.chain_pem)
    context.load_cert_chain(held)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=callers.decode())
    return context


async def talk(gateway: Gateway, here: Authority, there: Authority, clock: FakeClock) -> bytes:
    async with dial.line(
        gateway,
        bundle=there.bundle,
        svid=leaf(here, "agent"),
        alpn="h2",
        server_name="x.example",
        patience=20,
        clock=clock,
    ) as line:
        line.writer.write(b"x")
        return await dial.read_some(line.reader, "there")


def pem(authority: Authority) -> bytes:
    return "".join(map(ssl.DER_cert_to_PEM_cert, authority.bundle.roots)).encode()


async def test_mutual_tls_and_its_refusal(tmp_path: Path) -> None:
    """The far end's alert comes after the handshake, as TLS 1.3 has it."""
    clock = FakeClock(wall_ns=time.time_ns())
    east, west = make(tmp_path, "east.fed.example", clock), make(tmp_path, "west.fed.example", clock)
    async with Listening(server_context(tmp_path, leaf(west, "gateway"), callers=pem(east))) as gateway:
        assert await talk(gateway, east, west, clock) == b"hello"
        with pytest.raises(Denied):
            await talk(gateway, east, east, clock)
    context = server_context(tmp_path, leaf(west, "gateway"), callers=pem(west))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gateway = Gateway(name="gw", address="127.0.0.1", port=listening.getsockname()[1])
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listening, context))
        with pytest.raises(Unavailable, match="refuses this cluster's certificate") as caught:
            await talk(gateway, east, west, clock)
        assert caught.value.error_code == dial.REFUSED
        await refusing


def refuse(listening: socket.socket, context: ssl.SSLContext) -> None:
    """One handshake that fails, and says so before it hangs up: servers of asyncio close without a word."""
    listening.settimeout(20)
    connection, _ = listening.accept()
    arriving, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(arriving, leaving, server_side=True)
    with connection:
        connection.settimeout(20)
        refused = False
        while not refused:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                refused = True
            connection.sendall(leaving.read())
            if not refused:
                arriving.write(connection.recv(65536))
        while connection.recv(65536):
            pass


async def test_what_answers_is_no_gateway(tmp_path: Path, clock: FakeClock) -> None:
    east, west = make(tmp_path, "east.fed.example", clock), make(tmp_path, "west.fed.example", clock)

    async def code(gateway: Gateway) -> str:
        with pytest.raises(IsthmusError) as caught:
            await talk(gateway, east, west, clock)
        return caught.value.error_code

    async with Listening(None) as gateway:
        assert await code(gateway) == dial.NO_TLS
    async with Listening(None, cut=True) as gateway:
        assert await code(gateway) == dial.NO_TLS
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    assert await code(Gateway(name="gw", address="127.0.0.1", port=port)) == dial.NOBODY_LISTENS
