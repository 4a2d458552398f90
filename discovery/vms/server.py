"""Lets virtual machines in, over TCP: the first time by a token, afterwards by the key that they enrolled with it.

Arrives: a stream on which this end speaks first, with a number drawn for it alone. Leaves: an SVID whose names are what
the table says, never what the request asks for. The other end is federation.registry.machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import grpc

from discovery.vms.names import key_label, peer_host, vm_names
from discovery.vms.table import VmTable
from federation.aio.clock import Clock
from federation.dns.ratelimit import Limiter, RateLimit, Verdict
from federation.errors import Denied, IsthmusError, QuotaExceeded, TimedOut, Unavailable
from federation.log import Logger
from federation.model.address import join_address, split_address
from federation.model.ids import parse_label
from federation.model.wire import bundle_to_pb
from federation.proto.v1 import identity_pb2, vms_pb2_grpc
from federation.proto.v1 import vms_pb2 as pb
from federation.registry.status import abort
from federation.trust import possession
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint, root_fingerprint
from federation.trust.csr import read_csr
from federation.trust.grpc_credentials import server_credentials
from federation.trust.keys import public_fingerprint, public_from_der
from federation.trust.svid import Svid
from federation.trust.token import VmToken

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


class VmServer:
    """Listens from `start` to `close`."""

    def __init__(
        self,
        listen: str,
        table: VmTable,
        authority: Authority,
        *,
        svid: Callable[[], Svid],
        federation: str,
        cluster: str,
        agent_addresses: Callable[[], Sequence[str]],
        enrolment_addresses: Callable[[], Sequence[str]],
        clock: Clock,
        log: Logger,
        ttl: timedelta,
        timeout: float = 10.0,
        rate: RateLimit = RATE,
    ) -> None:
        """`timeout` (s) bounds one whole call."""
        self.port = 0
        self.issued = 0
        self.refused = 0
        self._listen, self._table, self._authority, self._svid = listen, table, authority, svid
        self._federation, self._cluster = federation, cluster
        self._agent_addresses, self._enrolment_addresses = agent_addresses, enrolment_addresses
        self._log, self._ttl, self._timeout = log, ttl, timeout
        self._limiter = Limiter(rate, clock.monotonic)
        self._calls: Counter[str] = Counter()
        self._server: Any = None

    async def start(self) -> None:
        """Raises Unavailable where the address is taken."""
        host, port = split_address(self._listen, what="vms.listen")
        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        vms_pb2_grpc.add_VmIdentityServicer_to_server(_Servicer(self._sign), server)  # type: ignore[no-untyped-call]
        credentials = server_credentials(lambda: (self._svid(), [self._authority.bundle]), require_client=False)
        try:
            self.port = server.add_secure_port(join_address(host, port), credentials)
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {join_address(host, port)}",
                hint="is another process using the port? change `vms.listen` in the settings",
                code="port_taken",
            ) from error
        await server.start()
        self._server = server

    async def close(self) -> None:
        """Stop listening and end the calls in flight."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def _sign(self, context: Any) -> None:
        host = peer_host(context.peer())
        try:
            with self._admitted(host):
                async with asyncio.timeout(self._timeout):
                    nonce = secrets.token_bytes(possession.NONCE_BYTES)
                    await context.write(pb.VmSignReply(nonce=nonce))
                    request = await context.read()
                    if request is grpc.aio.EOF:
                        return  # who only looked whether somebody answers here
                    await context.write(pb.VmSignReply(reply=await self._answer(request, nonce, host)))
                    self.issued += 1
        except TimeoutError:
            await abort(context, TimedOut(f"the call has lasted longer than {self._timeout:g} s"))
        except IsthmusError as error:
            self.refused += 1
            self._log.warning("vm refused", address=host, code=error.error_code, detail=error.message)
            await abort(context, error)

    @contextlib.contextmanager
    def _admitted(self, host: str) -> Iterator[None]:
        """Raises QuotaExceeded (too_many_calls)."""
        if self._calls[host] >= MAX_CALLS_PER_HOST or self._limiter.judge(host) is not Verdict.PASS:
            raise QuotaExceeded(f"too many calls from {host}", hint="it tries again by itself", code="too_many_calls")
        self._calls[host] += 1
        try:
            yield
        finally:
            self._calls[host] -= 1
            if not self._calls[host]:
                del self._calls[host]

    async def _answer(self, request: pb.VmSignRequest, nonce: bytes, host: str) -> identity_pb2.SignReply:
        """Prove, then decide, then sign; what a token has done is on the disk before anything is signed."""
        name = parse_label(request.vm, what="VM")
        key = public_from_der(request.key)
        wanted = read_csr(request.csr)
        token = self._token(request)
        bundle = self._authority.bundle
        possession.check_vm(
            key,
            request.proof,
            nonce=nonce,
            root=fingerprint(bundle),
            vm=name,
            token=token.hash() if token is not None else b"",
            csr=request.csr,
        )
        print_ = public_fingerprint(key)
        if token is not None:
            vm = await self._table.redeem(name, token.hash(), print_)
        else:
            vm = await self._table.renew(name, print_)
        spiffe_id = vm.identity(self._authority.trust_domain)
        names = vm_names(name, key_label(print_), self._authority.trust_domain)
        svid = self._authority.issue(wanted, spiffe_id=spiffe_id, ttl=self._ttl, dns_names=names)
        self._table.seen(name, address=host, version=request.version[:80])
        self._log.info(
            "vm identity issued",
            vm=name,
            spiffe_id=str(spiffe_id),
            joined=token is not None,
            address=host,
            expires=svid.not_after.isoformat(),
        )
        addresses = self._agent_addresses()
        return identity_pb2.SignReply(
            chain=svid.chain,
            bundle=bundle_to_pb(bundle),
            agent_address=addresses[0],
            agent_addresses=addresses,
            enrolment_addresses=self._enrolment_addresses(),
            federation=self._federation,
            cluster=self._cluster,
        )

    def _token(self, request: pb.VmSignRequest) -> VmToken | None:
        if not request.token:
            return None
        token = VmToken.parse(request.token)
        if token.vm != request.vm:
            raise Denied(f"this token is for VM {token.vm}, not for {request.vm}", code="token_foreign")
        if token.fingerprint not in map(root_fingerprint, self._authority.bundle.roots):
            raise Denied("this token is of another cluster", code="token_foreign")
        return token


class _Servicer(vms_pb2_grpc.VmIdentityServicer):
    def __init__(self, sign: Callable[[Any], Any]) -> None:
        self._answer = sign

    async def Sign(self, requests: Any, context: Any) -> None:
        await self._answer(context)
