"""Lets virtual machines in, over TCP: the first time by a token, afterwards by the key that they enrolled with it.

Arrives: a stream on which this end speaks first, with a number drawn for it alone. Leaves: an SVID whose names are what
the table says, never what the request asks for. The other end is federation.registry.machine.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import grpc

from discovery.enrolment import Door, Signer
from discovery.vms.names import key_label, vm_names
from discovery.vms.table import VmTable
from federation.errors import Denied
from federation.log import Logger
from federation.model.ids import parse_label
from federation.proto.v1 import identity_pb2, vms_pb2_grpc
from federation.proto.v1 import vms_pb2 as pb
from federation.trust import possession
from federation.trust.bundle import fingerprint, root_fingerprint
from federation.trust.csr import read_csr
from federation.trust.keys import public_fingerprint, public_from_der
from federation.trust.token import VmToken


class VmServer:
    """Answers at `door` from `start` to `close`."""

    def __init__(self, door: Door, table: VmTable, signer: Signer, *, log: Logger) -> None:
        self.door = door
        self._table, self._signer, self._log = table, signer, log

    async def start(self) -> None:
        """Raises Unavailable where the address is taken."""

        def add(server: Any) -> None:
            vms_pb2_grpc.add_VmIdentityServicer_to_server(_Servicer(self._sign), server)  # type: ignore[no-untyped-call]

        await self.door.start(add)

    async def close(self) -> None:
        """Stop listening and end the calls in flight."""
        await self.door.close()

    async def _sign(self, context: Any) -> None:
        async with self.door.call(context) as host:
            nonce = secrets.token_bytes(possession.NONCE_BYTES)
            await context.write(pb.VmSignReply(nonce=nonce))
            request = await context.read()
            if request is grpc.aio.EOF:
                return  # who only looked whether somebody answers here
            await context.write(pb.VmSignReply(reply=await self._answer(request, nonce, host)))
            self.door.issued += 1

    async def _answer(self, request: pb.VmSignRequest, nonce: bytes, host: str) -> identity_pb2.SignReply:
        """Prove, then decide, then sign; what a token has done is on the disk before anything is signed."""
        name = parse_label(request.vm, what="VM")
        key = public_from_der(request.key)
        wanted = read_csr(request.csr)
        token = self._token(request)
        authority = self._signer.authority
        possession.check_vm(
            key,
            request.proof,
            nonce=nonce,
            root=fingerprint(authority.bundle),
            vm=name,
            token=token.hash() if token is not None else b"",
            csr=request.csr,
        )
        print_ = public_fingerprint(key)
        if token is not None:
            vm = await self._table.redeem(name, token.hash(), print_)
        else:
            vm = await self._table.renew(name, print_)
        spiffe_id = vm.identity(authority.trust_domain)
        names = vm_names(name, key_label(print_), authority.trust_domain)
        svid, reply = self._signer.sign(wanted, spiffe_id, names)
        self._table.seen(name, address=host, version=request.version[:80])
        self._log.info(
            "vm identity issued",
            vm=name,
            spiffe_id=str(spiffe_id),
            joined=token is not None,
            address=host,
            expires=svid.not_after.isoformat(),
        )
        return reply

    def _token(self, request: pb.VmSignRequest) -> VmToken | None:
        if not request.token:
            return None
        token = VmToken.parse(request.token)
        if token.vm != request.vm:
            raise Denied(f"this token is for VM {token.vm}, not for {request.vm}", code="token_foreign")
        if token.fingerprint not in map(root_fingerprint, self._signer.authority.bundle.roots):
            raise Denied("this token is of another cluster", code="token_foreign")
        return token


class _Servicer(vms_pb2_grpc.VmIdentityServicer):
    def __init__(self, sign: Callable[[Any], Any]) -> None:
        self._answer = sign

    async def Sign(self, requests: Any, context: Any) -> None:
        await self._answer(context)
