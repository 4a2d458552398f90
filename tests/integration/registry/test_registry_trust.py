"""Who may connect, and what happens to those who claim what is not theirs: refused, audited, nobody else notices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from federation.aio.clock import SystemClock
from federation.errors import Denied, IsthmusError, Unavailable
from federation.model.ids import SpiffeId
from federation.model.record import Kind
from federation.proto.v1 import registry_pb2 as pb
from federation.proto.v1 import registry_pb2_grpc as rpc
from federation.registry.client import WATCH
from federation.registry.status import from_rpc_error
from federation.trust.authority import Authority
from federation.trust.bundle import sign_successor
from federation.trust.grpc_credentials import anonymous_channel_credentials, channel_credentials, channel_options
from federation.trust.svid import Svid

pytestmark = pytest.mark.integration


async def refusal(world: Any, member: Any, svid: Svid | None) -> IsthmusError:
    """How a Watch with this certificate ends."""
    options = channel_options(f"registry.{member.joined.federation}")
    if svid is None:
        credentials = anonymous_channel_credentials(member.joined.registry_bundle)
    else:
        credentials = channel_credentials(svid, member.joined.registry_bundle)
    async with grpc.aio.secure_channel(world.address, credentials, options=options) as channel:
        call = channel.stream_stream(WATCH)()
        try:
            await call.write(member.sink.open().SerializeToString())
            await call.read()
            code = await call.code()
            raise grpc.aio.AioRpcError(
                code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
            )
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error, what="the registry")


async def test_without_a_certificate_there_is_no_connection(world: Any) -> None:
    east = await world.join("east")
    assert isinstance(await refusal(world, east, None), Unavailable)


async def test_an_unknown_root_is_no_connection(world: Any, tmp_path: Any) -> None:
    east = await world.join("east")
    stranger = Authority.open(tmp_path / "stranger", trust_domain="east.demo.test", clock=SystemClock())
    svid = stranger.issue_with_key(spiffe_id=SpiffeId.parse("spiffe://east.demo.test/ns/isthmus-system/sa/agent"))
    assert isinstance(await refusal(world, east, svid), Unavailable)


async def test_a_member_cannot_sign_for_another(world: Any) -> None:
    east, west = await world.pair()
    before = west.view
    forger = Authority(east.authority._root, trust_domain="west.demo.test", clock=SystemClock())
    svid = forger.issue_with_key(spiffe_id=SpiffeId.parse("spiffe://west.demo.test/ns/isthmus-system/sa/agent"))
    with capture_logs() as logs:
        error = await refusal(world, east, svid)
    assert (type(error), error.error_code) == (Denied, "svid_untrusted")
    assert [entry["code"] for entry in logs if entry["event"] == "caller_refused"] == ["svid_untrusted"]
    assert west.view == before


@pytest.mark.parametrize("path", ["/ns/isthmus-system/sa/gateway", "/ns/shop/sa/agent", "/operator/root"])
async def test_only_the_agent_speaks_for_its_cluster(world: Any, path: str) -> None:
    east = await world.join("east", path=path)
    error = await refusal(world, east, east.svid())
    assert (type(error), error.error_code) == (Denied, "not_authorised")
    assert world.registry.gate.denied == 1


async def test_a_cluster_is_no_operator_but_may_leave(world: Any) -> None:
    east, _ = await world.join("east"), await world.join("west")
    async with await east.connect() as channel:
        stub = rpc.OperatorStub(channel)
        for call, request in (
            (stub.ListClusters, pb.Empty()),
            (stub.IssueToken, pb.IssueTokenRequest(cluster="edge")),
            (stub.Leave, pb.LeaveRequest(cluster="west")),
            (stub.CreateLink, pb.CreateLinkRequest(a="east", b="west")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request)
            assert from_rpc_error(caught.value, what="").error_code == "not_authorised"
        await stub.Leave(pb.LeaveRequest(cluster="east"))
    assert [c.name for c in await world.operator().clusters()] == ["west"]


async def test_an_operator_has_no_catalog(world: Any) -> None:
    client = world.operator()
    call = client._channel.stream_stream(WATCH)()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


HIJACKS = {
    "another origin": (
        "foreign_origin",
        lambda m: m.record(Kind.SERVICE, "shop/echo", m.service().payload, origin="west"),
    ),
    "the registry's origin": ("foreign_origin", lambda m: m.record(Kind.LINK, "east/edge", b"", origin="@registry")),
    "a link": ("unexpected_kind", lambda m: m.record(Kind.LINK, "east/edge", b"")),
    "an import": ("unexpected_kind", lambda m: m.record(Kind.IMPORT, "shop/echo", b"")),
    "another cluster": ("foreign_name", lambda m: m.about_itself(name="west")),
    "another trust domain": ("foreign_trust_domain", lambda m: m.about_itself(trust_domain="west.demo.test")),
    "another's bundle": (
        "foreign_trust_domain",
        lambda m: m.about_itself(bundle=replace(m.authority.bundle, trust_domain="west.demo.test")),
    ),
    "a new root, unsigned": (
        "bundle_unsigned",
        lambda m: m.about_itself(bundle=replace(m.authority.bundle, sequence=2)),
    ),
    "no root": ("bundle_empty", lambda m: m.about_itself(bundle=replace(m.authority.bundle, roots=(), sequence=9))),
    "a record under another name": (
        "foreign_name",
        lambda m: m.record(Kind.SERVICE, "pay/card", m.service("shop/x").payload),
    ),
    "a name that is none": ("foreign_name", lambda m: m.record(Kind.SERVICE, "shop/echo\n", m.service().payload)),
    "garbage": ("malformed_record", lambda m: m.record(Kind.SERVICE, "shop/x", b"\xff\xff\xff")),
    "metadata as a gateway": ("forbidden_address", lambda m: m.gateway("bad", "169.254.169.254")),
    "metadata, mapped": ("forbidden_address", lambda m: m.gateway("bad", "::ffff:169.254.169.254")),
    "a gateway at another port": ("invalid_port", lambda m: m.gateway("bad", port=0)),
}


@pytest.mark.parametrize("what", HIJACKS)
async def test_claims_that_are_not_ones_own(world: Any, wait: Any, what: str) -> None:
    east, west = await world.pair()
    before = west.view
    code, forge = HIJACKS[what]
    good = east.service("shop/later")
    with capture_logs() as logs:
        east.put(forge(east), good)

        def refused() -> bool:
            said = east.publish.last_error
            return code in east.codes() or (said is not None and said.error_code == code)

        await wait(refused)
        audited = [entry["code"] for entry in logs if entry["event"] == "claim_refused"]
    assert (audited[:1] == [code]) == (code.startswith(("foreign", "bundle")))
    if code == "foreign_origin":
        assert west.view == before
    else:  # the rest of the report goes on
        await wait(lambda: good.key in west.view)
        assert {k: r for k, r in west.view.items() if k != good.key} == before


async def test_loopback_gateways_need_a_federation_of_one_machine(make_world: Any, wait: Any) -> None:
    world = make_world(single_machine=False)
    await world.start()
    try:
        east = await world.join("east")
        east.report(east.gateway("local"), east.gateway("good", "203.0.113.7"))
        world.follow(east)
        await wait(lambda: east.rejections)
        assert {(r.name, r.code) for r in east.rejections} == {
            ("gw", "forbidden_address"),
            ("local", "forbidden_address"),
        }
        assert [g.gateway.name for g in await world.operator().gateways()] == ["good"]
    finally:
        await world.close()


async def test_an_agent_that_was_replaced_is_refused_and_disturbs_nobody(world: Any, wait: Any) -> None:
    east, west = await world.pair()
    await world.unfollow("east")
    newer = type(east)("east", east.authority, east.joined, epoch=7)
    newer.report(newer.service(ready=9))
    world.follow(newer)
    await wait(lambda: any(r.version.epoch == 7 for r in west.view.values()))
    opened = newer.publish.connections
    before = west.view
    world.follow(east)  # epoch 1
    await wait(lambda: east.publish.last_error and east.publish.last_error.error_code == "stale_epoch")
    assert west.view == before
    assert newer.publish.connected
    assert newer.publish.connections == opened
    await world.stop()
    await world.unfollow("east")
    world.follow(east)
    await world.start()  # which remembers the epoch
    await wait(lambda: east.publish.last_error and east.publish.last_error.error_code == "stale_epoch")
    assert {c.name: c.epoch for c in await world.operator().clusters()}["east"] == 7


async def test_a_lawful_successor_of_the_bundle_is_kept(world: Any, wait: Any, tmp_path: Any) -> None:
    east, west = await world.pair()
    other = Authority.open(tmp_path / "next", trust_domain="east.demo.test", clock=SystemClock())
    second = replace(east.authority.bundle, sequence=2, roots=(*east.authority.bundle.roots, *other.bundle.roots))
    second = sign_successor(second, east.authority._root.key)
    east.put(east.about_itself(bundle=second))
    await wait(lambda: world.registry.store.clusters.all()["east"].bundle == second)
    # Who has a certificate of the new root is let in, too.
    newcomer = type(east)("east", other, east.joined, epoch=2)
    world.follow(newcomer)
    await wait(lambda: newcomer.watch.connected)
    assert not east.rejections
    assert len(west.view) == 4
