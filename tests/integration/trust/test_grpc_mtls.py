"""Mutual TLS between real grpc.aio servers and clients: who is believed, who is not, and what a renewal costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from clusters.waiting import START
from federation.aio.clock import SystemClock
from federation.aio.tasks import cancel
from federation.errors import Denied
from federation.model.cluster import Bundle
from federation.model.ids import SpiffeId
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint
from federation.trust.enrolment import _presented_chain, fetch_pinned
from federation.trust.grpc_credentials import (
    agent_server_name,
    anonymous_channel_credentials,
    channel_credentials,
    channel_options,
    peer_identity,
    registry_server_name,
    server_credentials,
)
from federation.trust.keys import certificate_from_der
from federation.trust.renewal import Renewer
from federation.trust.svid import Svid, utc

pytestmark = pytest.mark.integration

FED, EAST, WEST = "fed.test", "east.fed.test", "west.fed.test"
REGISTRY = SpiffeId.workload(FED, "isthmus-system", "registry")
AGENT = SpiffeId.workload(EAST, "isthmus-system", "agent")
CLOCK = SystemClock()


class Registry:
    """A server that answers every call with the proven identity of the caller, or the code of the refusal."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.svid = self.new_svid(timedelta(hours=1))
        self.bundles: dict[str, Bundle] = {}
        self.calls = 0
        self.seen: list[dict[str, Any]] = []

    def new_svid(self, ttl: timedelta) -> Svid:
        return self.authority.issue_with_key(spiffe_id=REGISTRY, ttl=ttl, dns_names=[registry_server_name(FED)])

    def join(self, bundle: Bundle) -> None:
        self.bundles = self.bundles | {bundle.trust_domain: bundle}

    def current(self) -> tuple[Svid, list[Bundle]]:
        return self.svid, [self.authority.bundle, *self.bundles.values()]

    async def who(self, request: bytes, context: Any) -> bytes:
        self.calls += 1
        self.seen.append(dict(context.auth_context()))
        try:
            return str(peer_identity(context, self.bundles, now=utc(CLOCK))).encode()
        except Denied as error:
            return error.error_code.encode()


@pytest.fixture
def authorities(tmp_path: Path) -> dict[str, Authority]:
    return {d: Authority.open(tmp_path / d, trust_domain=d, clock=CLOCK) for d in (FED, EAST, WEST)}


@pytest.fixture
def registry(authorities: dict[str, Authority]) -> Registry:
    one = Registry(authorities[FED])
    one.join(authorities[EAST].bundle)
    return one


@asynccontextmanager
async def serving(registry: Registry, *, require_client: bool = True) -> AsyncIterator[str]:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(registry.who)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"Who": handler}),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(registry.current, require_client=require_client))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def channel(
    address: str, credentials: grpc.ChannelCredentials, name: str = registry_server_name(FED)
) -> grpc.aio.Channel:
    options = [*channel_options(name), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(address, credentials, options=options)


async def who(open_channel: grpc.aio.Channel) -> str:
    reply: bytes = await open_channel.unary_unary("/test.Test/Who")(b"", timeout=10)
    return reply.decode()


async def ask(address: str, credentials: grpc.ChannelCredentials, name: str = registry_server_name(FED)) -> str:
    async with channel(address, credentials, name) as one:
        return await who(one)


async def refused(call: Awaitable[str]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return caught.value.details() or ""


async def test_both_ends_are_proven(registry: Registry, authorities: dict[str, Authority]) -> None:
    svid = authorities[EAST].issue_with_key(spiffe_id=AGENT)
    async with serving(registry) as address:
        assert await ask(address, channel_credentials(svid, authorities[FED].bundle)) == str(AGENT)
    (seen,) = registry.seen
    assert seen["ssl_tls_version"] == [b"TLSv1.3"]
    # What peer_chain relies on: the leaf apart, the intermediates in the chain.
    assert seen["x509_pem_cert"][0].count(b"BEGIN CERTIFICATE") == 1
    assert seen["x509_pem_cert_chain"][0].count(b"BEGIN CERTIFICATE") == 1
    assert seen["x509_pem_cert"] != seen["x509_pem_cert_chain"]


async def test_a_foreign_or_missing_certificate_is_refused(
    registry: Registry, authorities: dict[str, Authority]
) -> None:
    foreign = authorities[WEST].issue_with_key(spiffe_id=SpiffeId.workload(WEST, "isthmus-system", "agent"))
    own = authorities[EAST].issue_with_key(spiffe_id=AGENT)
    root = authorities[FED].bundle
    async with serving(registry) as address:
        await refused(ask(address, channel_credentials(foreign, root)))
        await refused(ask(address, anonymous_channel_credentials(root)))
        assert registry.calls == 0
        assert await ask(address, channel_credentials(own, root)) == str(AGENT)


async def test_a_member_that_signs_a_foreign_name_is_found_out(
    registry: Registry, authorities: dict[str, Authority], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.join(authorities[WEST].bundle)
    west = authorities[WEST]
    monkeypatch.setattr(west, "trust_domain", EAST)  # West's keys, East's name: our own code has to be bent for it
    forged = west.issue_with_key(spiffe_id=AGENT)
    async with serving(registry) as address:
        # TLS lets it in (West's root is one of the union), Python does not.
        assert await ask(address, channel_credentials(forged, authorities[FED].bundle)) == "svid_untrusted"


async def test_a_client_believes_one_root_and_one_name(registry: Registry, authorities: dict[str, Authority]) -> None:
    svid = authorities[EAST].issue_with_key(spiffe_id=AGENT)
    async with serving(registry) as address:
        await refused(ask(address, channel_credentials(svid, authorities[EAST].bundle)))
        await refused(ask(address, channel_credentials(svid, authorities[FED].bundle), agent_server_name(EAST)))
        registry.svid = authorities[FED].issue_with_key(spiffe_id=REGISTRY)  # a workload without the server's name
        await refused(ask(address, channel_credentials(svid, authorities[FED].bundle)))
    assert registry.calls == 0


async def test_joins_and_leaves_count_without_a_restart(registry: Registry, authorities: dict[str, Authority]) -> None:
    agent = SpiffeId.workload(WEST, "isthmus-system", "agent")
    credentials = channel_credentials(authorities[WEST].issue_with_key(spiffe_id=agent), authorities[FED].bundle)
    async with serving(registry) as address:
        await refused(ask(address, credentials))
        registry.join(authorities[WEST].bundle)
        assert await ask(address, credentials) == str(agent)
        async with channel(address, credentials) as established:
            assert await who(established) == str(agent)
            del registry.bundles[WEST]
            assert await who(established) == "trust_domain_unknown"  # at once, on its open connection too
        await refused(ask(address, credentials))


async def test_a_bundle_that_tls_cannot_use_spoils_nothing(
    registry: Registry, authorities: dict[str, Authority]
) -> None:
    credentials = channel_credentials(authorities[EAST].issue_with_key(spiffe_id=AGENT), authorities[FED].bundle)
    async with serving(registry) as address:
        assert await ask(address, credentials) == str(AGENT)
        for roots in ((), (b"garbage",)):
            registry.join(Bundle(trust_domain=WEST, sequence=1, roots=roots))
            registry.svid = registry.new_svid(timedelta(hours=1))
            assert await ask(address, credentials) == str(AGENT)
            assert (await _presented_chain(*_split(address)))[0] == registry.svid.chain[0]  # renewals go on as well


async def test_enrolment_shows_the_root_and_asks_for_no_certificate(
    registry: Registry, authorities: dict[str, Authority]
) -> None:
    pin = fingerprint(authorities[FED].bundle)
    async with serving(registry, require_client=False) as address:
        for wrong in (fingerprint(authorities[EAST].bundle), "sha256:" + "0" * 64):
            with pytest.raises(Denied) as caught:
                await fetch_pinned(address, wrong, clock=CLOCK)
            assert caught.value.error_code == "pin_mismatch"
        pinned = await fetch_pinned(address, pin, clock=CLOCK)
        assert registry.calls == 0  # nothing was sent yet
        assert (pinned.federation, pinned.bundle.roots) == (FED, authorities[FED].bundle.roots)
        credentials = anonymous_channel_credentials(pinned.bundle)
        assert await ask(address, credentials, pinned.server_name) == "svid_missing"
        await refused(ask(address, anonymous_channel_credentials(authorities[EAST].bundle), pinned.server_name))


async def test_renewal_under_load_fails_no_call(registry: Registry, authorities: dict[str, Authority]) -> None:
    """Both ends renew several times; long-lived and short-lived connections go on meanwhile."""
    ttl = timedelta(seconds=20)
    log = structlog.get_logger()
    root = authorities[FED].bundle

    async def server_svid() -> Svid:
        return registry.new_svid(ttl)

    async def client_svid() -> Svid:
        return authorities[EAST].issue_with_key(spiffe_id=AGENT, ttl=ttl)

    server = Renewer(await server_svid(), server_svid, clock=CLOCK, log=log)
    client = Renewer(await client_svid(), client_svid, clock=CLOCK, log=log)
    first_not_after = max(server.current.not_after, client.current.not_after)
    registry.current = lambda: (server.current, [root, *registry.bundles.values()])  # type: ignore[method-assign]
    answers: dict[str, int] = {}
    stop = asyncio.Event()

    def count(answer: str) -> None:
        answers[answer] = answers.get(answer, 0) + 1

    async def long_lived(address: str) -> None:
        """As our clients do it: at each renewal a new channel, then the old one goes."""
        async with AsyncExitStack() as stack:
            version = client.latest.version
            one = await stack.enter_async_context(channel(address, channel_credentials(client.current, root)))
            while not stop.is_set():
                if client.latest.version != version:
                    version = client.latest.version
                    fresh = channel(address, channel_credentials(client.current, root))
                    count(await who(fresh))
                    await stack.aclose()
                    one = await stack.enter_async_context(fresh)
                count(await who(one))
                await asyncio.sleep(0.005)

    async def short_lived(address: str) -> None:
        while not stop.is_set():
            count(await ask(address, channel_credentials(client.current, root)))

    async with serving(registry) as address:
        before = (await _presented_chain(*_split(address)))[0]
        renewers = [asyncio.create_task(r.run(), name="renewer") for r in (server, client)]
        try:
            async with asyncio.timeout(2 * START), asyncio.TaskGroup() as tasks:
                for _ in range(4):
                    tasks.create_task(long_lived(address))
                tasks.create_task(short_lived(address))
                while min(server.latest.version, client.latest.version) < 3 or utc(CLOCK) <= first_not_after:
                    await asyncio.sleep(0.02)
                stop.set()
        finally:
            for task in renewers:
                await cancel(task)
        after = (await _presented_chain(*_split(address)))[0]
    assert set(answers) == {str(AGENT)}
    assert answers[str(AGENT)] > 100
    assert certificate_from_der(after).not_valid_after_utc > certificate_from_der(before).not_valid_after_utc


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
