"""A TCP port of the agent at which those ask for an identity who have none yet, and what they are told with it.

Arrive: calls over TLS without a client's certificate, as many as a host may make. Leave: a certificate whose names the
agent decides. Who the caller is finds out discovery.vms.server (virtual machines) or discovery.pods.server (pods).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc

from discovery.vms.names import peer_host
from federation.aio.clock import Clock
from federation.dns.ratelimit import Limiter, RateLimit, Verdict
from federation.errors import IsthmusError, QuotaExceeded, TimedOut, Unavailable
from federation.log import Logger
from federation.model.address import join_address, split_address
from federation.model.ids import SpiffeId
from federation.model.wire import bundle_to_pb
from federation.proto.v1 import identity_pb2 as pb
from federation.registry.status import abort
from federation.trust.authority import Authority
from federation.trust.grpc_credentials import server_credentials
from federation.trust.keys import PublicKey
from federation.trust.svid import Svid

MAX_CALLS = 256
"""In flight; one more is turned away."""
MAX_CALLS_PER_HOST = MAX_CALLS // 2
"""The same for one address, so that who connects and says nothing does not keep the others from their renewals."""
RATE = RateLimit(per_second=20.0, burst=200.0, ipv4_prefix=32, ipv6_prefix=64, slip=0)
"""Calls of one address."""
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.max_connection_idle_ms", 30_000),
    ("grpc.max_concurrent_streams", MAX_CALLS_PER_HOST),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Signs what was decided, for `ttl`, and tells where the agent is."""

    authority: Authority
    federation: str
    cluster: str
    agent_addresses: Callable[[], Sequence[str]]
    enrolment_addresses: Callable[[], Sequence[str]]
    ttl: timedelta

    def sign(self, wanted: PublicKey, spiffe_id: SpiffeId, dns_names: Sequence[str] = ()) -> tuple[Svid, pb.SignReply]:
        """A certificate for the key `wanted`, and the reply that brings it."""
        svid = self.authority.issue(wanted, spiffe_id=spiffe_id, ttl=self.ttl, dns_names=dns_names)
        addresses = self.agent_addresses()
        return svid, pb.SignReply(
            chain=svid.chain,
            bundle=bundle_to_pb(self.authority.bundle),
            agent_address=addresses[0],
            agent_addresses=addresses,
            enrolment_addresses=self.enrolment_addresses(),
            federation=self.federation,
            cluster=self.cluster,
        )


class Door:
    """Listens from `start` to `close`; each call is bounded by `call`."""

    def __init__(
        self,
        listen: str,
        authority: Authority,
        *,
        setting: str,
        who: str,
        svid: Callable[[], Svid],
        clock: Clock,
        log: Logger,
        timeout: float = 10.0,
        rate: RateLimit = RATE,
    ) -> None:
        """`setting`: the key of `listen`; `who` comes, in the log. `timeout` (s) bounds one whole call."""
        self.port = 0
        self.issued = 0
        self.refused = 0
        self.calls: Counter[str] = Counter()
        """In flight, by host."""
        self._listen, self._authority, self._svid = listen, authority, svid
        self._setting, self._who, self._log, self._timeout = setting, who, log, timeout
        self._limiter = Limiter(rate, clock.monotonic)
        self._server: Any = None

    def addresses(self, advertised: Sequence[str]) -> tuple[str, ...]:
        """host:port at which others dial it."""
        host, port = split_address(self._listen, what=self._setting)
        return tuple(advertised) or (join_address(host, self.port or port),)

    async def start(self, add: Callable[[Any], None]) -> None:
        """`add` adds the service to a server. Raises Unavailable where the address is taken."""
        host, port = split_address(self._listen, what=self._setting)
        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        add(server)
        credentials = server_credentials(lambda: (self._svid(), [self._authority.bundle]), require_client=False)
        try:
            self.port = server.add_secure_port(join_address(host, port), credentials)
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {join_address(host, port)}",
                hint=f"is another process using the port? change `{self._setting}` in the settings",
                code="port_taken",
            ) from error
        await server.start()
        self._server = server

    async def close(self) -> None:
        """Stop listening and end the calls in flight."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    @contextlib.asynccontextmanager
    async def call(self, context: Any) -> AsyncIterator[str]:
        """One call, from the host that is given: what goes wrong in it ends it, with its code."""
        host = peer_host(context.peer())
        try:
            with self._admitted(host):
                async with asyncio.timeout(self._timeout):
                    yield host
        except TimeoutError:
            await abort(context, TimedOut(f"the call has lasted longer than {self._timeout:g} s"))
        except IsthmusError as error:
            self.refused += 1
            self._log.warning(f"{self._who} refused", address=host, code=error.error_code, detail=error.message)
            await abort(context, error)

    @contextlib.contextmanager
    def _admitted(self, host: str) -> Iterator[None]:
        """Raises QuotaExceeded (too_many_calls)."""
        if self.calls[host] >= MAX_CALLS_PER_HOST or self._limiter.judge(host) is not Verdict.PASS:
            raise QuotaExceeded(f"too many calls from {host}", hint="it tries again by itself", code="too_many_calls")
        self.calls[host] += 1
        try:
            yield
        finally:
            self.calls[host] -= 1
            if not self.calls[host]:
                del self.calls[host]
