"""Whether a registry of which only the root's fingerprint is known is the one."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from federation.aio.clock import FakeClock
from federation.errors import Denied, InvalidInput, IsthmusError, TimedOut, Unavailable
from federation.model.ids import SpiffeId
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint
from federation.trust.enrolment import check_pinned, fetch_pinned, unverified_chain
from federation.trust.svid import Svid

FED = "fed.test"


@pytest.fixture
def registry(authority: Callable[[str], Authority]) -> Authority:
    return authority(FED)


def serve(authority: Authority, *, dns: str = "registry.fed.test") -> Svid:
    spiffe_id = SpiffeId.workload(authority.trust_domain, "isthmus-system", "registry")
    return authority.issue_with_key(spiffe_id=spiffe_id, dns_names=[dns])


def test_the_pinned_root_is_believed(registry: Authority, now: datetime) -> None:
    chain = (*serve(registry).chain, *registry.bundle.roots)
    found = check_pinned(chain, [fingerprint(registry.bundle)], now=now)
    assert (found.federation, found.server_name) == (FED, "registry.fed.test")
    assert found.bundle.roots == registry.bundle.roots


def test_everything_else_is_refused(
    registry: Authority, authority: Callable[[str], Authority], forge: Any, now: datetime
) -> None:
    pin, root = fingerprint(registry.bundle), registry.bundle.roots[0]
    other = authority("other.test")
    honest = serve(registry)
    theirs = other.issue_with_key(
        spiffe_id=SpiffeId.workload("other.test", "isthmus-system", "registry"), dns_names=["registry.other.test"]
    )
    forged = forge(uris=["spiffe://fed.test/ns/isthmus-system/sa/registry"], dns=["registry.fed.test"]).sign()
    cases = {
        "pin_mismatch": [(), (root,), honest.chain, (*theirs.chain, *other.bundle.roots), (*honest.chain, root, b"x")],
        # The right root behind a leaf that it did not sign: what somebody in between would show.
        "svid_untrusted": [(forged.der, root)],
        "bundle_invalid": [(*theirs.chain, root)],
        "svid_invalid": [(*serve(registry, dns="agent.fed.test").chain, root)],
    }
    for code, chains in cases.items():
        for chain in chains:
            with pytest.raises(Denied) as caught:
                check_pinned(tuple(chain), [pin], now=now)
            assert caught.value.error_code == code
    with pytest.raises(Denied) as caught:
        check_pinned((*honest.chain, root), [pin], now=now + timedelta(hours=2))
    assert caught.value.error_code == "svid_expired"


def test_both_forms_of_the_chain_are_read(registry: Authority) -> None:
    chain = serve(registry).chain

    class OldCertificate:
        def __init__(self, der: bytes) -> None:
            self.der = der

        def public_bytes(self) -> str:
            return ssl.DER_cert_to_PEM_cert(self.der)

    new = SimpleNamespace(get_unverified_chain=lambda: list(chain))
    old = SimpleNamespace(_sslobj=SimpleNamespace(get_unverified_chain=lambda: [OldCertificate(d) for d in chain]))
    assert unverified_chain(new) == chain
    assert unverified_chain(old) == chain
    assert unverified_chain(SimpleNamespace(get_unverified_chain=lambda: None)) == ()


async def test_nobody_there(clock: FakeClock) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="cannot be reached"):
            await fetch_pinned(f"127.0.0.1:{closed.getsockname()[1]}", "sha256:" + "0" * 64, clock=clock)
    with pytest.raises(InvalidInput):
        await fetch_pinned("nonsense", "sha256:" + "0" * 64, clock=clock)


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize(("behaviour", "error"), [(plain, Unavailable), (silent, TimedOut)])
async def test_somebody_else_there(
    behaviour: Callable[..., Awaitable[None]], error: type[IsthmusError], clock: FakeClock
) -> None:
    done = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await behaviour(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        done.set()

    async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(error):
            await fetch_pinned(f"127.0.0.1:{port}", "sha256:" + "0" * 64, clock=clock, timeout=0.3)
        await asyncio.wait_for(done.wait(), 5)
