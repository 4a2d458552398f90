"""The joining cluster's side of Enrolment: prove the registry by the token's fingerprint, prove the own key, join."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from federation.aio.clock import Clock, SystemClock
from federation.errors import InvalidInput
from federation.model import wire
from federation.model.cluster import Bundle
from federation.model.ids import trust_domain_of
from federation.model.service import Locality
from federation.proto.v1 import registry_pb2 as pb
from federation.proto.v1 import registry_pb2_grpc as rpc
from federation.registry.status import from_rpc_error
from federation.trust.authority import Authority
from federation.trust.enrolment import PinnedServer, fetch_pinned
from federation.trust.grpc_credentials import anonymous_channel_credentials, channel_options
from federation.trust.possession import possession_message
from federation.trust.token import JoinToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What a token leads to; the registry is proved by the fingerprint in it, and nothing was sent yet."""

    token: JoinToken
    server: PinnedServer

    @property
    def cluster(self) -> str:
        return self.token.cluster

    @property
    def federation(self) -> str:
        return self.server.federation

    @property
    def trust_domain(self) -> str:
        """The trust domain that the joining cluster's authority has to be of."""
        return trust_domain_of(self.cluster, self.federation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What the registry answers to a cluster that joined.

    `registry_address` is the one of Catalog and Operator. The epochs of the cluster's reports have to exceed
    `epoch_floor`: an earlier member of its name had got so far.
    """

    federation: str
    trust_domain: str
    registry_bundle: Bundle
    single_machine: bool
    registry_address: str
    epoch_floor: int = 0


async def look_up(token: str, *, clock: Clock | None = None, timeout: float = 10.0) -> Invitation:
    """Dial the registry that `token` names and learn the federation's domain.

    Raises InvalidInput (token_malformed), Unavailable, TimedOut, Denied (pin_mismatch: another registry).
    """
    parsed = JoinToken.parse(token)
    server = await fetch_pinned(parsed.registry, parsed.ca_fingerprint, clock=clock or SystemClock(), timeout=timeout)
    return Invitation(token=parsed, server=server)


async def join(
    token: str,
    authority: Authority,
    *,
    locality: Locality | None = None,
    clock: Clock | None = None,
    timeout: float = 10.0,
) -> Joined:
    """Redeem `token` for the cluster whose root `authority` keeps; safe to repeat with the same root.

    Raises Denied (token_used, token_expired, token_revoked, token_unknown, pin_mismatch), AlreadyExists (the name is
    taken), InvalidInput (`authority` is of another trust domain), Unavailable, TimedOut, StorageFailed.
    """
    invitation = await look_up(token, clock=clock, timeout=timeout)
    if authority.bundle.trust_domain != invitation.trust_domain:
        raise InvalidInput(
            f"the cluster's keys are of {authority.bundle.trust_domain}, the token is for {invitation.trust_domain}",
            hint="join with an empty directory, or ask for a token for this cluster",
            code="token_foreign",
        )
    parsed = invitation.token
    request = pb.JoinRequest(
        token=parsed.encode(),
        cluster=parsed.cluster,
        bundle=wire.bundle_to_pb(authority.bundle),
        possession=authority.sign_possession(possession_message(parsed)),
        locality=wire.locality_to_pb(locality or Locality()),
    )
    reply = await _ask(invitation, "Join", request, timeout)
    return Joined(
        federation=reply.federation,
        trust_domain=reply.trust_domain,
        registry_bundle=wire.bundle_from_pb(reply.registry_bundle),
        single_machine=reply.single_machine,
        registry_address=reply.registry_address,
        epoch_floor=reply.epoch_floor,
    )


async def still_good(invitation: Invitation, *, timeout: float = 10.0) -> pb.LookReply:
    """Ask the registry whether the token would be accepted; it is not redeemed.

    Raises Denied (token_used, token_expired, token_revoked, token_unknown), AlreadyExists (the name is taken),
    Unavailable, TimedOut.
    """
    reply: pb.LookReply = await _ask(invitation, "Look", pb.LookRequest(token=invitation.token.encode()), timeout)
    return reply


async def _ask(invitation: Invitation, method: str, request: Any, timeout: float) -> Any:
    """What the registry's Enrolment service answers to who has no certificate."""
    async with grpc.aio.secure_channel(
        invitation.token.registry,
        anonymous_channel_credentials(invitation.server.bundle),
        options=channel_options(invitation.server.server_name),
    ) as channel:
        stub = rpc.EnrolmentStub(channel)  # type: ignore[no-untyped-call]
        try:
            return await getattr(stub, method)(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, what=f"the registry at {invitation.token.registry}") from error
