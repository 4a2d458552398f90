"""Gives Pods their identity: a certificate for the service account whose token they show.

Arrives: a token and a certificate request. Leaves: an SVID whose name is the token's. The API server is asked each
time, and nothing that it said is used again: a Pod that is gone is refused at its next call. The other end is
federation.registry.pod.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from discovery.enrolment import Door, Signer
from discovery.pods.identity import ReviewStatus, dns_names, holder, identity
from federation.errors import IsthmusError, Unavailable
from federation.log import Logger
from federation.model.cluster import Problem
from federation.proto.v1 import identity_pb2, pods_pb2_grpc
from federation.proto.v1 import pods_pb2 as pb
from federation.trust.csr import read_csr

UNAVAILABLE = "token_review_unavailable"


class Reviewer(Protocol):
    """Who knows tokens: discovery.kube.tokens."""

    async def review(self, token: str) -> ReviewStatus:
        """Raises IsthmusError where nobody can tell."""


class PodServer:
    """Answers at `door` from `start` to `close`."""

    def __init__(
        self,
        door: Door,
        reviewer: Reviewer,
        signer: Signer,
        *,
        accounts: Collection[str],
        on_problems: Callable[[Iterable[Problem]], None] = lambda _: None,
        log: Logger,
    ) -> None:
        """`accounts` of our own namespace may have an identity."""
        self.door = door
        self._reviewer, self._signer, self._accounts = reviewer, signer, accounts
        self._on_problems, self._log = on_problems, log

    async def start(self) -> None:
        """Raises Unavailable where the address is taken."""

        def add(server: Any) -> None:
            pods_pb2_grpc.add_PodIdentityServicer_to_server(_Servicer(self._sign), server)  # type: ignore[no-untyped-call]

        await self.door.start(add)

    async def close(self) -> None:
        """Stop listening and end the calls in flight."""
        await self.door.close()

    async def _sign(self, request: pb.PodSignRequest, context: Any) -> identity_pb2.SignReply:
        async with self.door.call(context) as host:
            reply = await self._answer(request, host)
            self.door.issued += 1
            return reply
        raise AssertionError("a call that goes wrong is aborted")

    async def _answer(self, request: pb.PodSignRequest, host: str) -> identity_pb2.SignReply:
        wanted = read_csr(request.csr)
        pod = holder(await self._review(request.token))
        spiffe_id = identity(pod, self._signer.authority.trust_domain, accounts=self._accounts)
        svid, reply = self._signer.sign(wanted, spiffe_id, dns_names(pod))
        self._log.info(
            "pod identity issued",
            pod=f"{pod.namespace}/{pod.name}",
            spiffe_id=str(spiffe_id),
            address=host,
            version=request.version[:80],
            expires=svid.not_after.isoformat(),
        )
        return reply

    async def _review(self, token: str) -> ReviewStatus:
        """Raises Unavailable for all that keeps the API server from telling: the Pod is not to blame."""
        try:
            found = await self._reviewer.review(token)
        except IsthmusError as error:
            self._on_problems([Problem(UNAVAILABLE, "pods", f"tokens of pods cannot be reviewed: {error}")])
            raise Unavailable(
                f"the agent cannot have the token reviewed: {error.message}",
                hint="it tries again by itself; see `fedctl status`",
                code=UNAVAILABLE,
            ) from error
        self._on_problems([])
        return found


class _Servicer(pods_pb2_grpc.PodIdentityServicer):
    def __init__(self, sign: Callable[[Any, Any], Any]) -> None:
        self._answer = sign

    async def Sign(self, request: Any, context: Any) -> Any:
        return await self._answer(request, context)
