"""How a gateway or a sidecar gets its identity from its cluster's agent: over a UNIX socket, with a key of its own.

Light on purpose: the edge processes import it. The other end is discovery.identity.server; the messages are
federation/proto/v1/identity.proto, each preceded by its length.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from google.protobuf.message import DecodeError

from federation.aio.clock import Clock
from federation.errors import CorruptState, Denied, InvalidInput, IsthmusError, TimedOut, Unavailable
from federation.model.cluster import Bundle
from federation.model.ids import SpiffeId
from federation.model.wire import bundle_from_pb
from federation.proto.v1 import identity_pb2 as pb
from federation.trust.bundle import check_bundle
from federation.trust.csr import make_csr
from federation.trust.framing import FrameError, read_frame, write_frame
from federation.trust.keys import certificate_from_der, check_public_key, key_to_pem, new_key, public_der
from federation.trust.keystore import read_secret, write_secret
from federation.trust.svid import Svid, utc
from federation.trust.verify import verify_chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What an agent gives to a process of its cluster; `agent_address` is "host:port" of its Catalog service."""

    svid: Svid
    bundle: Bundle
    agent_address: str
    federation: str
    cluster: str

    @property
    def issued_at(self) -> datetime:
        return self.svid.issued_at

    @property
    def not_after(self) -> datetime:
        return self.svid.not_after

    def save(self, path: Path) -> None:
        """Keep it for a start while the agent is away; raises StorageFailed."""
        write_secret(path, msgspec.json.encode(self))

    @classmethod
    def load(cls, path: Path) -> Grant | None:
        """What `save` kept, None where there is nothing. It may have expired. Raises CorruptState, Denied."""
        hint = "remove it; the agent issues a new identity"
        raw = read_secret(path, hint=hint)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=cls)
        except msgspec.DecodeError as error:
            raise CorruptState(f"{path} is of another version", hint=hint) from error


class WorkloadIdentity:
    """Fetches SVIDs for one identity over the agent's socket."""

    def __init__(self, *, clock: Clock, timeout: float = 10.0) -> None:
        self._clock, self._timeout = clock, timeout

    async def fetch(self, socket_path: Path, namespace: str, account: str) -> Grant:
        """A new key and its SVID; the reply is verified before it is believed.

        Raises Unavailable (no agent there), TimedOut, Denied (the agent's reason and code), InvalidInput.
        """
        key = new_key()
        request = pb.SignRequest(namespace=namespace, account=account, csr=make_csr(key))
        try:
            async with asyncio.timeout(self._timeout):
                reply = pb.SignReply.FromString(await _exchange(socket_path, request.SerializeToString()))
        except TimeoutError as error:
            raise TimedOut(f"the agent did not answer on {socket_path} within {self._timeout:g} s") from error
        except (FrameError, DecodeError, asyncio.IncompleteReadError) as error:
            raise Unavailable(f"what answers on {socket_path} is no agent of isthmus: {error}") from error
        except OSError as error:
            raise Unavailable(
                f"no agent answers on {socket_path}: {error.strerror or error}", hint="is the agent running?"
            ) from error
        if reply.error_code:
            raise _refusal(reply.error_code)(reply.error_detail, code=reply.error_code)
        bundle = bundle_from_pb(reply.bundle)
        check_bundle(bundle)
        chain = tuple(reply.chain)
        spiffe_id = verify_chain(chain, {bundle.trust_domain: bundle}, now=utc(self._clock))
        if spiffe_id != SpiffeId.workload(bundle.trust_domain, namespace, account):
            raise Denied(f"the agent issued {spiffe_id} where {namespace}/{account} was asked for", code="svid_invalid")
        leaf = certificate_from_der(chain[0])
        if public_der(check_public_key(leaf.public_key())) != public_der(key.public_key()):
            raise Denied("the agent issued a certificate for another key", code="svid_invalid")
        svid = Svid(
            spiffe_id=spiffe_id,
            chain=chain,
            key_pem=key_to_pem(key),
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )
        return Grant(
            svid=svid,
            bundle=bundle,
            agent_address=reply.agent_address,
            federation=reply.federation,
            cluster=reply.cluster,
        )


def _refusal(code: str) -> type[IsthmusError]:
    return InvalidInput if code.startswith(("invalid_", "csr_", "unsupported_")) else Denied


async def _exchange(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        await write_frame(writer, request)
        return await read_frame(reader)
    finally:
        writer.close()


__all__ = ["Grant", "WorkloadIdentity"]
