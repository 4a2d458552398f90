"""The registry's unary methods over gRPC: who calls is proved first, then federation.registry.service decides."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from federation.aio.clock import Clock
from federation.errors import Denied
from federation.log import Logger
from federation.model import wire
from federation.proto.v1 import records_pb2 as records
from federation.proto.v1 import registry_pb2 as pb
from federation.proto.v1 import registry_pb2_grpc as rpc
from federation.registry.auth import Caller, ClusterCaller, identify, require_cluster, require_operator
from federation.registry.inventory import Inventory
from federation.registry.service import Service
from federation.registry.status import unary
from federation.trust.grpc_credentials import peer_identity
from federation.trust.svid import utc

T = TypeVar("T")


class Gate:
    """Proves the caller of every stream and call on the main port. `denied` counts those who were turned away."""

    def __init__(self, service: Service, *, clock: Clock, audit: Logger) -> None:
        self._service, self._clock, self._audit = service, clock, audit
        self.denied = 0

    def caller(self, context: Any) -> Caller:
        """Raises Denied (svid_*, trust_domain_unknown, not_authorised)."""
        try:
            spiffe_id = peer_identity(context, self._service.bundles(), now=utc(self._clock))
            return identify(spiffe_id, federation=self._service.federation, members=self._service.store.clusters.all())
        except Denied as error:
            self._refused(context, error)
            raise

    def cluster(self, context: Any) -> str:
        """The member that calls; raises Denied."""
        return self._require(context, require_cluster)

    def operator(self, context: Any) -> str:
        """The operator that calls; raises Denied."""
        return self._require(context, require_operator)

    def _require(self, context: Any, check: Callable[[Caller], str]) -> str:
        caller = self.caller(context)
        try:
            return check(caller)
        except Denied as error:
            self._refused(context, error)
            raise

    def _refused(self, context: Any, error: Denied) -> None:
        self.denied += 1
        peer = ""
        with contextlib.suppress(Exception):  # the address is an extra; gRPC may not know it any more
            peer = context.peer()
        self._audit.warning("caller_refused", peer=peer, code=error.error_code, detail=error.message)


class OperatorServicer(rpc.OperatorServicer):
    """federation.v1.Operator."""

    def __init__(self, service: Service, inventory: Inventory, gate: Gate, *, log: Logger, audit: Logger) -> None:
        self._service, self._inventory, self._gate, self._audit = service, inventory, gate, audit
        for method in ("IssueToken", "RevokeToken", "ListClusters", "Leave", "CreateLink", "DeleteLink"):
            self._wrap(method, log)
        for method in ("ListLinks", "ListServices", "ListGateways", "Status"):
            self._wrap(method, log)

    def _wrap(self, method: str, log: Logger) -> None:
        handler: Callable[..., Awaitable[Any]] = getattr(self, method)
        setattr(self, method, unary(log)(handler))

    def _did(self, who: str, what: str, **fields: Any) -> None:
        self._audit.info(what, operator=who, **fields)

    async def IssueToken(self, request: pb.IssueTokenRequest, context: Any) -> pb.IssueTokenReply:
        who = self._gate.operator(context)
        token, expires_ns = await self._service.issue_token(request.cluster, request.ttl_seconds)
        self._did(who, "token_issued", cluster=request.cluster)
        return pb.IssueTokenReply(token=token, expires_ns=expires_ns)

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> pb.Empty:
        who = self._gate.operator(context)
        await self._service.revoke_token(request.cluster)
        self._did(who, "token_revoked", cluster=request.cluster)
        return pb.Empty()

    async def ListClusters(self, request: pb.Empty, context: Any) -> pb.ListClustersReply:
        self._gate.operator(context)
        return self._inventory.clusters()

    async def Leave(self, request: pb.LeaveRequest, context: Any) -> pb.Empty:
        caller = self._gate.caller(context)
        if not (isinstance(caller, ClusterCaller) and caller.cluster == request.cluster):
            require_operator(caller)
        await self._service.leave(request.cluster)
        self._did(str(caller), "cluster_left", cluster=request.cluster)
        return pb.Empty()

    async def CreateLink(self, request: pb.CreateLinkRequest, context: Any) -> records.Link:
        who = self._gate.operator(context)
        grants = [wire.link_grant_from_pb(g) for g in request.grants]
        prints = (request.fingerprint_a, request.fingerprint_b)
        link = await self._service.link(request.a, request.b, prints, grants)
        self._did(who, "link_created", link=link.name, grants=len(grants))
        return wire.link_to_pb(link)

    async def DeleteLink(self, request: pb.DeleteLinkRequest, context: Any) -> pb.Empty:
        who = self._gate.operator(context)
        await self._service.unlink(request.a, request.b)
        self._did(who, "link_deleted", link=f"{request.a}/{request.b}")
        return pb.Empty()

    async def ListLinks(self, request: pb.Empty, context: Any) -> pb.ListLinksReply:
        self._gate.operator(context)
        return self._inventory.links()

    async def ListServices(self, request: pb.Empty, context: Any) -> pb.ListServicesReply:
        self._gate.operator(context)
        return self._inventory.services()

    async def ListGateways(self, request: pb.Empty, context: Any) -> pb.ListGatewaysReply:
        self._gate.operator(context)
        return self._inventory.gateways()

    async def Status(self, request: pb.Empty, context: Any) -> pb.RegistryStatus:
        self._gate.operator(context)
        return self._inventory.status()


class EnrolmentServicer(rpc.EnrolmentServicer):
    """federation.v1.Enrolment: the caller has no certificate; the token and the proof in the request speak for it."""

    def __init__(self, service: Service, *, log: Logger) -> None:
        self._service = service
        for method in ("Join", "Look"):
            setattr(self, method, unary(log)(getattr(self, method)))

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinReply:
        return await self._service.enrol(
            request.token,
            request.cluster,
            wire.bundle_from_pb(request.bundle),
            request.possession,
            wire.locality_from_pb(request.locality),
        )

    async def Look(self, request: pb.LookRequest, context: Any) -> pb.LookReply:
        return self._service.look(request.token)
