"""Joining over the enrolment port: tokens that admit once, and everything that does not admit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest

from clusters.waiting import until
from federation.aio.clock import SystemClock
from federation.errors import AlreadyExists, Denied, InvalidInput, InvalidName, IsthmusError, NotFound, Unavailable
from federation.model import wire
from federation.proto.v1 import registry_pb2 as pb
from federation.proto.v1 import registry_pb2_grpc as rpc
from federation.registry.join import still_good
from federation.registry.operator import join, look_up
from federation.registry.status import from_rpc_error
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint
from federation.trust.enrolment import fetch_pinned
from federation.trust.grpc_credentials import anonymous_channel_credentials, channel_options
from federation.trust.possession import possession_message
from federation.trust.token import JoinToken

pytestmark = pytest.mark.integration


def code(error: pytest.ExceptionInfo[IsthmusError]) -> str:
    return error.value.error_code


def request(token: str, authority: Authority, /, **changes: Any) -> pb.JoinRequest:
    parsed = JoinToken.parse(token)
    return pb.JoinRequest(
        **{
            "token": token,
            "cluster": parsed.cluster,
            "bundle": wire.bundle_to_pb(authority.bundle),
            "possession": authority.sign_possession(possession_message(parsed)),
            **changes,
        }
    )


async def send(token: str, message: pb.JoinRequest) -> pb.JoinReply:
    """What a client would say that is not ours."""
    parsed = JoinToken.parse(token)
    server = await fetch_pinned(parsed.registry, parsed.ca_fingerprint, clock=SystemClock())
    async with grpc.aio.secure_channel(
        parsed.registry, anonymous_channel_credentials(server.bundle), options=channel_options(server.server_name)
    ) as channel:
        try:
            return await rpc.EnrolmentStub(channel).Join(message)  # type: ignore[no-untyped-call]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, what="the registry") from error


@pytest.fixture
def keys(world: Any) -> Any:
    (world.directory / "clusters").mkdir()
    return world.authority


async def test_a_cluster_joins(world: Any, keys: Any) -> None:
    token = (await world.operator().issue_token("east")).token
    invitation = await look_up(token)
    assert (invitation.cluster, invitation.trust_domain) == ("east", "east.demo.test")
    joined = await join(token, keys("east"))
    assert (joined.federation, joined.trust_domain, joined.single_machine) == ("demo.test", "east.demo.test", True)
    assert joined.registry_address == world.address
    assert joined.registry_bundle.trust_domain == "demo.test"
    assert [c.name for c in await world.operator().clusters()] == ["east"]


async def test_a_lost_reply_is_repeated_and_a_thief_gets_nothing(world: Any, keys: Any, tmp_path: Any) -> None:
    token = (await world.operator().issue_token("east")).token
    first = await join(token, keys("east"))
    assert await join(token, keys("east")) == first
    thief = Authority.open(tmp_path / "thief", trust_domain="east.demo.test", clock=SystemClock())
    with pytest.raises(Denied) as caught:
        await join(token, thief)
    assert code(caught) == "token_used"
    assert await join(token, keys("east")) == first


async def test_of_concurrent_joins_one_wins(world: Any, tmp_path: Any) -> None:
    token = (await world.operator().issue_token("east")).token
    contenders = [
        Authority.open(tmp_path / f"{i}", trust_domain="east.demo.test", clock=SystemClock()) for i in range(20)
    ]
    results = await asyncio.gather(*(join(token, keys) for keys in contenders), return_exceptions=True)
    refused = [r for r in results if isinstance(r, Denied)]
    assert (len(results) - len(refused), {r.error_code for r in refused}) == (1, {"token_used"})


async def test_revoked_replaced_and_expired_tokens(world: Any, keys: Any) -> None:
    operator = world.operator()
    revoked = (await operator.issue_token("east")).token
    await operator.revoke_token("east")
    replaced = (await operator.issue_token("east")).token
    valid = (await operator.issue_token("east")).token
    for token in (revoked, replaced):
        with pytest.raises(Denied) as caught:
            await join(token, keys("east"))
        assert code(caught) == "token_revoked"
    await join(valid, keys("east"))
    short = (await operator.issue_token("west", ttl_seconds=1)).token
    await until(lambda: expired(short), what="the end of the token")
    with pytest.raises(Denied) as caught:
        await join(short, keys("west"))
    assert code(caught) == "token_expired"
    with pytest.raises(NotFound):
        await operator.revoke_token("west")


async def expired(token: str) -> bool:
    try:
        await still_good(await look_up(token))
    except Denied as error:
        return error.error_code == "token_expired"
    return False


async def test_a_token_is_looked_at_and_not_redeemed(world: Any, keys: Any) -> None:
    """As often as one likes, and by the rules of redeeming."""
    operator = world.operator()
    token = (await operator.issue_token("east")).token
    for _ in range(2):
        reply = await still_good(await look_up(token))
        assert 0 < reply.expires_ns - reply.now_ns <= 900 * 10**9
    assert await operator.clusters() == []
    await join(token, keys("east"))
    revoked = (await operator.issue_token("west")).token
    await operator.revoke_token("west")
    made_up = JoinToken.new(
        registry=world.enrolment, ca_fingerprint=JoinToken.parse(token).ca_fingerprint, cluster="north"
    ).encode()
    for refused, why in ((token, "token_used"), (revoked, "token_revoked"), (made_up, "token_unknown")):
        with pytest.raises(Denied) as caught:
            await still_good(await look_up(refused))
        assert code(caught) == why


async def test_a_token_of_another_registry(world: Any, keys: Any) -> None:
    token = JoinToken.parse((await world.operator().issue_token("east")).token)
    foreign = JoinToken.new(registry=world.enrolment, ca_fingerprint="sha256:" + "0" * 64, cluster="east")
    with pytest.raises(Denied) as caught:  # noticed before anything is sent
        await join(foreign.encode(), keys("east"))
    assert code(caught) == "pin_mismatch"
    made_up = JoinToken.new(registry=world.enrolment, ca_fingerprint=token.ca_fingerprint, cluster="east")
    with pytest.raises(Denied) as caught:
        await join(made_up.encode(), keys("east"))
    assert code(caught) == "token_unknown"


async def test_a_token_is_for_one_name(world: Any, keys: Any) -> None:
    token = (await world.operator().issue_token("east")).token
    with pytest.raises(InvalidInput) as caught:
        await join(token, keys("west"))
    assert code(caught) == "token_foreign"
    with pytest.raises(Denied) as refused:
        await send(token, request(token, keys("west"), cluster="west"))
    assert code(refused) == "token_foreign"


async def test_what_a_forged_request_gets(world: Any, keys: Any, tmp_path: Any) -> None:
    token = (await world.operator().issue_token("east")).token
    east, other = keys("east"), keys("west")
    another = Authority.open(tmp_path / "another", trust_domain="east.demo.test", clock=SystemClock())
    forged = {
        "possession_unproven": {"possession": another.sign_possession(possession_message(JoinToken.parse(token)))},
        "bundle_invalid": {"bundle": wire.bundle_to_pb(other.bundle)},
        "bundle_empty": {"bundle": wire.bundle_to_pb(replace(east.bundle, roots=()))},
        "token_malformed": {"token": "isthmus1.AAAA"},
    }
    for expected, changes in forged.items():
        with pytest.raises(IsthmusError) as caught:
            await send(token, request(token, east, **changes))
        assert code(caught) == expected
    assert not await world.operator().clusters()
    await send(token, request(token, east))  # the token was not used up


async def test_a_request_that_is_too_large(world: Any, keys: Any) -> None:
    token = (await world.operator().issue_token("east")).token
    with pytest.raises(IsthmusError):
        await send(token, request(token, keys("east"), possession=b"x" * 1_000_000))


async def test_names_that_cannot_join(world: Any) -> None:
    operator = world.operator()
    await world.join("east")
    with pytest.raises(AlreadyExists) as taken:
        await operator.issue_token("east")
    assert taken.value.error_code == "cluster_exists"
    for name in ("", "East", "a.b", "-", "x" * 64, "a\0b", "@registry", "*"):
        with pytest.raises(InvalidName):
            await operator.issue_token(name)
    with pytest.raises(InvalidInput) as reserved:
        await operator.issue_token("registry")
    assert code(reserved) == "reserved_name"
    with pytest.raises(InvalidInput) as long:
        await operator.issue_token("west", ttl_seconds=901)
    assert code(long) == "invalid_ttl"


async def test_nobody_there(world: Any, keys: Any) -> None:
    token = (await world.operator().issue_token("east")).token
    await world.stop()
    with pytest.raises(Unavailable):
        await join(token, keys("east"), timeout=2)
    with pytest.raises(Unavailable) as caught:
        await world.operator().clusters()
    assert "cannot be reached" in caught.value.message
    assert caught.value.hint


async def test_links_that_cannot_be(world: Any) -> None:
    east, west = await world.join("east"), await world.join("west")
    prints = {
        "fingerprint_a": fingerprint(east.authority.bundle),
        "fingerprint_b": fingerprint(west.authority.bundle),
    }
    operator = world.operator()
    for a, b, expected in (
        ("east", "east", "link_to_itself"),
        ("east", "edge", "cluster_unknown"),
        ("east", "west!", "invalid_name"),
        ("west", "east", "fingerprint_mismatch"),
    ):
        with pytest.raises(IsthmusError) as caught:
            await operator.link(a, b, **prints)
        assert code(caught) == expected
    with pytest.raises(InvalidInput) as malformed:
        await operator.link("east", "west", fingerprint_a="md5:00", fingerprint_b="")
    assert code(malformed) == "malformed_fingerprint"
    with pytest.raises(NotFound) as unknown:
        await operator.unlink("east", "west")
    assert code(unknown) == "link_unknown"
    with pytest.raises(NotFound):
        await operator.leave("edge")
    assert not await operator.links()
