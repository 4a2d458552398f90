"""How a gateway or a sidecar gets its identity from its cluster's agent: over a UNIX socket, with a key of its own.

Light on purpose: the edge processes import it. The other end is discovery.identity.server; the messages are
federation/proto/v1/identity.proto, each preceded by its length.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec
from google.protobuf.message import DecodeError

from federation.aio.clock import Clock
from federation.errors import CorruptState, Denied, InvalidInput, IsthmusError, TimedOut, Unavailable
from federation.model.cluster import Bundle
from federation.proto.v1 import identity_pb2 as pb
from federation.trust.framing import FrameError, read_frame, write_frame
from federation.trust.keystore import read_secret, write_secret
from federation.trust.svid import Svid


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What an agent gives to a process of its cluster; `agent_address` is "host:port" of its Catalog service.

    `agent_addresses` are all of them, that one first; `enrolment_addresses` where virtual machines come for the next.
    """

    svid: Svid
    bundle: Bundle
    agent_address: str
    federation: str
    cluster: str
    agent_addresses: tuple[str, ...] = ()
    enrolment_addresses: tuple[str, ...] = ()

    @property
    def issued_at(self) -> datetime:
        return self.svid.issued_at

    @property
    def not_after(self) -> datetime:
        return self.svid.not_after

    @property
    def addresses(self) -> tuple[str, ...]:
        """At least one; an older agent, and what was kept of one, tells one alone."""
        return self.agent_addresses or (self.agent_address,)

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


class Petition(Protocol):
    """A new key, and how it becomes a Grant: federation.trust.petition.Petition, here or in another process."""

    request: bytes
    """SignRequest, serialised."""

    async def grant(self, reply: bytes) -> Grant:
        """What a SignReply without an error gives, verified. Raises Denied, InvalidInput, Unavailable."""


class WorkloadIdentity:
    """Fetches SVIDs for one identity over the agent's socket.

    `apart`: a process of its own makes the key and checks the reply, so that this one does not load what that takes.
    """

    def __init__(self, *, clock: Clock, timeout: float = 10.0, apart: bool = False) -> None:
        self._clock, self._timeout, self._apart = clock, timeout, apart

    async def fetch(self, socket_path: Path, namespace: str, account: str) -> Grant:
        """A new key and its SVID; the reply is verified before it is believed.

        Raises Unavailable (no agent there), TimedOut, Denied (the agent's reason and code), InvalidInput.
        """
        try:
            async with asyncio.timeout(self._timeout):
                if self._apart:
                    await _probe(socket_path)
                async with self._petition(namespace, account) as petition:
                    reply = await _exchange(socket_path, petition.request)
                    message = pb.SignReply.FromString(reply)
                    if message.error_code:
                        raise _refusal(message.error_code)(message.error_detail, code=message.error_code)
                    return await petition.grant(reply)
        except TimeoutError as error:
            raise TimedOut(f"the agent did not answer on {socket_path} within {self._timeout:g} s") from error
        except (FrameError, DecodeError, asyncio.IncompleteReadError) as error:
            raise Unavailable(f"what answers on {socket_path} is no agent of isthmus: {error}") from error
        except OSError as error:
            raise Unavailable(
                f"no agent answers on {socket_path}: {error.strerror or error}", hint="is the agent running?"
            ) from error

    def _petition(self, namespace: str, account: str) -> AbstractAsyncContextManager[Petition]:
        if self._apart:
            from federation.trust import apart  # either way needs what is here

            return apart.begin(namespace, account)
        from federation.trust import petition  # brings cryptography

        return nullcontext(petition.Petition(namespace, account, clock=self._clock))


def _refusal(code: str) -> type[IsthmusError]:
    return InvalidInput if code.startswith(("invalid_", "csr_", "unsupported_")) else Denied


async def _probe(path: Path) -> None:
    """Raises OSError where nobody listens: no process is started for that."""
    _, writer = await asyncio.open_unix_connection(str(path))
    writer.close()


async def _exchange(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        await write_frame(writer, request)
        return await read_frame(reader)
    finally:
        writer.close()


__all__ = ["Grant", "WorkloadIdentity"]
