"""What operators ask about virtual machines: invitations, who there is, removals.

Arrives: requests of federation/proto/v1/agent.proto, from discovery.admin. Leaves: answers from the table and from the
streams that are open; changes go to the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from discovery.consumers import Consumer
from discovery.vms.names import peer_host
from discovery.vms.plans import Invitation, Vm, invited
from discovery.vms.table import Sight
from federation.errors import Conflict, InvalidInput
from federation.model.cluster import Problem
from federation.model.wire import bundle_to_pb, problem_to_pb
from federation.proto.v1 import agent_pb2 as pb
from federation.trust.bundle import fingerprint
from federation.trust.token import MAX_SECONDS, VmToken

if TYPE_CHECKING:
    from discovery.agent import Agent

_SETTLED = 6
"""Heartbeats after which a stream that is still open is no half of one: the server gives up on those after four."""


async def invite(agent: Agent, request: pb.InviteVmRequest) -> pb.InviteVmReply:
    """A token for one machine. Raises Conflict (vms_not_listening), InvalidInput, InvalidName, AlreadyExists."""
    enrolment = agent.doors.vm_addresses()
    if not enrolment:
        raise Conflict(
            f"the agent of {agent.settings.cluster} lets no VMs in",
            hint="set `vms: {listen: HOST:PORT}` in its settings, at an address that VMs can dial, and start it again",
            code="vms_not_listening",
        )
    seconds = request.ttl_seconds or MAX_SECONDS
    if not 1 <= seconds <= MAX_SECONDS:
        raise InvalidInput(f"a token cannot live for {seconds} s", hint=f"give 1 to {MAX_SECONDS}", code="invalid_ttl")
    asked = invited(
        request.name, request.namespace, request.account, request.services, trust_domain=agent.settings.trust_domain
    )
    print_ = fingerprint(agent.bundle)
    token = VmToken.new(agent=enrolment[0], fingerprint=print_, vm=asked.name)
    expires = agent.clock.wall_ns() + seconds * 1_000_000_000
    await agent.vms.issue(asked, Invitation(token.hash(), expires))
    return pb.InviteVmReply(
        token=token.encode(),
        expires_ns=expires,
        bundle=bundle_to_pb(agent.bundle),
        fingerprint=print_,
        enrolment_addresses=enrolment,
        agent_addresses=agent.addresses(),
        suffix=agent.settings.suffix,
    )


def listed(agent: Agent) -> pb.ListVmsReply:
    """Every machine, by name."""
    streams: dict[str, list[Consumer]] = {}
    for consumer in agent.consumers.all:
        if consumer.vm and consumer.connected:
            streams.setdefault(consumer.vm, []).append(consumer)
    vms, sights = agent.vms.vms, agent.vms.sights
    now, settled = agent.clock.wall_ns(), agent.clock.monotonic() - _SETTLED * agent.settings.heartbeat
    return pb.ListVmsReply(
        vms=[_status(vms[name], sights.get(name), streams.get(name, ()), now, settled) for name in sorted(vms)]
    )


def _status(vm: Vm, sight: Sight | None, streams: Iterable[Consumer], now: int, settled: float) -> pb.VmStatus:
    connected = tuple(streams)
    state = "invited" if not vm.joined else "joined" if connected else "lost"
    seen = 0 if sight is None else sight.seen_ns
    return pb.VmStatus(
        name=vm.name,
        namespace=vm.namespace,
        account=vm.account,
        services=vm.services,
        state=state,
        address=sight.address if sight is not None else "",
        version=sight.version if sight is not None else "",
        seen_ns=now if connected else seen,
        created_ns=vm.created_ns,
        joined_ns=vm.joined_ns,
        token_expires_ns=vm.invitation.expires_ns if vm.invitation is not None else 0,
        problems=map(problem_to_pb, _problems(vm, connected, now, settled)),
    )


def _problems(vm: Vm, streams: Iterable[Consumer], now: int, settled: float) -> Iterator[Problem]:
    """What it says of itself, and what only its agent can see: that it is there twice.

    A machine that got another address leaves a stream behind that is not known to be broken yet.
    """
    hosts = sorted({peer_host(consumer.address) for consumer in streams if consumer.opened_at <= settled})
    if len(hosts) > 1:
        yield Problem("vm_twice", vm.name, f"it is connected from {' and from '.join(hosts)}: was it copied?", now)
    for consumer in streams:
        yield from consumer.problems
