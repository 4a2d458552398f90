"""What operators are told of machines: their state, from the table and from the streams that are open."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from discovery.consumers import Consumers, Role
from discovery.vms import admin
from discovery.vms.table import VmTable
from federation.aio.clock import FakeClock
from federation.errors import IsthmusError
from federation.proto.v1 import agent_pb2 as pb
from federation.proto.v1 import catalog_pb2
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint
from federation.trust.token import VmToken


@pytest.fixture
def agent(tmp_path: Path) -> Any:
    """As much of an agent as is asked."""
    clock, log = FakeClock(), structlog.get_logger()
    authority = Authority.open(tmp_path / "keys", trust_domain="dc1.fed.test", clock=clock)
    return SimpleNamespace(
        settings=SimpleNamespace(cluster="dc1", trust_domain="dc1.fed.test", suffix="global", heartbeat=5.0),
        bundle=authority.bundle,
        clock=clock,
        vms=VmTable(tmp_path, clock=clock, log=log),
        consumers=Consumers(lease=5, memory=60, clock=clock, log=log),
        addresses=lambda: ("192.0.2.1:7445",),
        doors=SimpleNamespace(vm_addresses=lambda: ("192.0.2.1:7446", "192.0.2.2:7446")),
    )


def request(**changes: Any) -> pb.InviteVmRequest:
    return pb.InviteVmRequest(**{"name": "web-1", "namespace": "shop", "account": "web", **changes})


def only(agent: Any) -> pb.VmStatus:
    (vm,) = admin.listed(agent).vms
    return vm


async def test_an_invitation_has_all_that_a_machine_needs(agent: Any) -> None:
    reply = await admin.invite(agent, request(services=["shop/*"], ttl_seconds=60))
    token = VmToken.parse(reply.token)
    assert (token.vm, token.agent, token.fingerprint) == ("web-1", "192.0.2.1:7446", fingerprint(agent.bundle))
    assert list(reply.enrolment_addresses) == ["192.0.2.1:7446", "192.0.2.2:7446"]
    assert reply.expires_ns == agent.clock.wall_ns() + 60 * 10**9
    invitation = agent.vms.vms["web-1"].invitation
    assert (invitation.hash, invitation.expires_ns) == (token.hash(), reply.expires_ns)
    assert token.secret not in (agent.vms._path).read_bytes(), "hashed at rest"
    vm = only(agent)
    assert (vm.state, vm.token_expires_ns, list(vm.services)) == ("invited", reply.expires_ns, ["shop/*"])


@pytest.mark.parametrize(
    ("changes", "enrolment", "code"),
    [
        ({}, (), "vms_not_listening"),
        ({"ttl_seconds": 901}, ("a:1",), "invalid_ttl"),
        ({"name": "a.b"}, ("a:1",), "invalid_name"),
        ({"services": ["x"]}, ("a:1",), "invalid_pattern"),
    ],
)
async def test_what_gets_no_invitation(
    agent: Any, changes: dict[str, Any], enrolment: tuple[str, ...], code: str
) -> None:
    agent.doors.vm_addresses = lambda: enrolment
    with pytest.raises(IsthmusError) as caught:
        await admin.invite(agent, request(**changes))
    assert caught.value.error_code == code
    assert not agent.vms.vms


async def test_a_machine_is_joined_while_it_is_connected_and_lost_when_it_is_not(agent: Any) -> None:
    reply = await admin.invite(agent, request())
    await agent.vms.redeem("web-1", VmToken.parse(reply.token).hash(), "sha256:k")
    agent.vms.seen("web-1", address="10.0.0.1", version="1")
    seen = agent.clock.wall_ns()
    agent.clock.advance(60)
    vm = only(agent)
    assert (vm.state, vm.seen_ns, vm.address, vm.version) == ("lost", seen, "10.0.0.1", "1")

    streams = [
        agent.consumers.opened(role=Role.SIDECAR, identity="spiffe://x", address=address, vm="web-1")
        for address in ("ipv4:10.0.0.1:4711", "ipv4:10.0.0.1:4712")
    ]
    vm = only(agent)
    assert (vm.state, vm.seen_ns, list(vm.problems)) == ("joined", agent.clock.wall_ns(), [])
    for stream in streams:
        agent.consumers.closed(stream, clean=False)
    assert only(agent).state == "lost"


async def test_a_machine_that_is_there_twice_and_what_it_says_of_itself_are_shown(agent: Any) -> None:
    reply = await admin.invite(agent, request())
    await agent.vms.redeem("web-1", VmToken.parse(reply.token).hash(), "sha256:k")
    for address in ("ipv4:10.0.0.1:4711", "ipv6:%5Bfd00::1%5D:4711"):
        stream = agent.consumers.opened(role=Role.SIDECAR, identity="spiffe://x", address=address, vm="web-1")
    presence = catalog_pb2.Presence(name="web-1")
    presence.problems.add(code="port_clash", subject="shop/echo", detail="8080 is taken")
    agent.consumers.present(stream, presence)
    (clash,) = only(agent).problems  # it may have got another address just now
    assert clash.code == "port_clash"
    agent.clock.advance(30)
    twice, clash = only(agent).problems
    assert (twice.code, clash.code) == ("vm_twice", "port_clash")
    assert "10.0.0.1 and from fd00::1" in twice.detail
