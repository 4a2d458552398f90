"""A virtual machine at the door of its cluster's agent: proves the agent, then itself, and gets an SVID.

Arrives: a Job of federation.registry.edge.afar. Leaves: a Grant. Run as a program it does so in a process that lives
only for that (federation.registry.door): a gateway or a sidecar would carry the libraries all the time. The other end
is discovery.vms.server.

The machine's own key is made once and is on the disk before the agent hears of it: whatever is lost on the way, the
machine comes again with the same key and is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from federation.aio.clock import Clock
from federation.errors import Denied, InvalidInput, StorageFailed, Unavailable
from federation.proto.v1 import vms_pb2 as pb
from federation.proto.v1 import vms_pb2_grpc as rpc
from federation.registry import door
from federation.registry.edge.afar import Job
from federation.registry.status import from_rpc_error
from federation.trust import possession
from federation.trust.bundle import root_fingerprint
from federation.trust.channels import anonymous_channel_credentials, channel_options
from federation.trust.enrolment import PinnedServer
from federation.trust.keys import PrivateKey, key_from_pem, key_to_pem, new_key, public_der
from federation.trust.keystore import read_secret, write_secret
from federation.trust.petition import Petition
from federation.trust.token import VmToken
from federation.trust.workload import Grant

_ANCHORS = "use the file as `fedctl vm bootstrap` wrote it"
_NOT_ENROLLED = {"vm_unknown", "vm_removed", "vm_not_joined", "vm_key_foreign"}
"""What an agent says of a key that it does not know for this machine: a token may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """What one machine comes with."""

    job: Job
    key: PrivateKey
    known: bool
    """The key was there before: it may be enrolled already."""
    prints: tuple[str, ...]
    """Fingerprints of the roots that the agent may prove itself by."""

    def token(self) -> VmToken | None:
        """Read when it is needed: what is left of it later keeps nobody out. Raises InvalidInput, StorageFailed."""
        token = _token(self.job)
        if token is not None and token.fingerprint not in self.prints:
            raise InvalidInput(
                f"the token in {self.job.token_file} is of another cluster than the anchors in {self.job.anchors}",
                hint="use the files of one bundle",
                code="token_foreign",
            )
        return token


async def enrol(job: Job, *, clock: Clock, timeout: float = 10.0) -> Grant:
    """An SVID from the first agent of `job.enrolment` that gives one; `timeout` seconds for each step at each.

    Raises Denied (the agent's reason and code; pin_mismatch: it is not who the anchors say), InvalidInput
    (token_missing, token_malformed, token_foreign, anchors), Unavailable, TimedOut, CorruptState, StorageFailed.
    """
    key, known = _key(Path(job.key_file))
    prints = tuple(dict.fromkeys(map(root_fingerprint, door.anchors(job.anchors, job.roots, hint=_ANCHORS))))
    machine = _Machine(job=job, key=key, known=known, prints=prints)
    token = None if known else machine.token()
    if not known and token is None:
        raise InvalidInput(
            f"VM {job.vm} has not joined yet, and there is no token",
            hint="ask the operator for a bundle: fedctl vm bootstrap",
            code="token_missing",
        )

    async def ask(address: str, server: PinnedServer) -> Grant:
        return await _by_key_or_token(address, server, machine, token, clock=clock, timeout=timeout)

    return await door.ask_in_turn(
        job.enrolment, prints, ask, trust_domain=job.trust_domain, clock=clock, timeout=timeout
    )


async def _by_key_or_token(
    address: str, server: PinnedServer, machine: _Machine, token: VmToken | None, *, clock: Clock, timeout: float
) -> Grant:
    """By the token where the key is new; else by the key alone, and by a token only where the key is not enrolled."""
    try:
        return await _sign(address, server, machine, token, clock=clock, timeout=timeout)
    except Denied as error:
        if token is not None or error.error_code not in _NOT_ENROLLED:
            raise
        refused = error
    token = machine.token()
    if token is None:
        raise refused
    try:
        return await _sign(address, server, machine, token, clock=clock, timeout=timeout)
    except Denied as error:
        if error.error_code == "token_unknown":  # an old token, still lying there, is not what is wrong
            raise refused from None
        raise


async def _sign(
    address: str, server: PinnedServer, machine: _Machine, token: VmToken | None, *, clock: Clock, timeout: float
) -> Grant:
    job, petition = machine.job, Petition(machine.job.namespace, machine.job.account, clock=clock)
    async with grpc.aio.secure_channel(
        address, anonymous_channel_credentials(server.bundle), options=channel_options(server.server_name)
    ) as channel:
        stub = rpc.VmIdentityStub(channel)  # type: ignore[no-untyped-call]
        call = stub.Sign(timeout=timeout)
        try:
            greeting = await _read(call)
            proof = possession.sign_vm(
                machine.key,
                nonce=greeting.nonce,
                root=root_fingerprint(server.bundle.roots[0]),
                vm=job.vm,
                token=token.hash() if token is not None else b"",
                csr=petition.csr,
            )
            request = pb.VmSignRequest(
                vm=job.vm,
                token=token.encode() if token is not None else "",
                key=public_der(machine.key.public_key()),
                csr=petition.csr,
                proof=proof,
                version=job.version,
            )
            await call.write(request)
            await call.done_writing()
            reply = await _read(call)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, what=f"the agent at {address}") from error
        finally:
            call.cancel()
    return petition.check(reply.reply.SerializeToString())


async def _read(call: grpc.aio.StreamStreamCall) -> pb.VmSignReply:
    """The next message. Raises Unavailable where the stream ends without a reason."""
    message = await call.read()
    if message is grpc.aio.EOF:
        raise Unavailable("the agent has ended the call without an answer")
    return message


def _token(job: Job) -> VmToken | None:
    if not job.token_file:
        return None
    try:
        text = Path(job.token_file).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None  # removed once it was used
    except (OSError, UnicodeDecodeError) as error:
        raise StorageFailed(f"cannot read {job.token_file}: {error}") from error
    token = VmToken.parse(text)
    if token.vm != job.vm:
        raise InvalidInput(
            f"the token in {job.token_file} is for VM {token.vm}, not for {job.vm}",
            hint="use the files of one bundle",
            code="token_foreign",
        )
    return token


def _key(path: Path) -> tuple[PrivateKey, bool]:
    """The machine's own key, and whether it was there before."""
    hint = "move it away, and ask the operator to remove this VM and bootstrap it anew"
    pem = read_secret(path, hint=hint)
    if pem is not None:
        return key_from_pem(pem), True
    key = new_key()
    write_secret(path, key_to_pem(key))
    return key, False


def main() -> None:
    """See federation.registry.door.answer."""
    door.answer(Job, lambda job, clock: enrol(job, clock=clock))


if __name__ == "__main__":
    main()
