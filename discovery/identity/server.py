"""Gives SVIDs to the processes of this machine, over a UNIX socket; the kernel says who asks (SO_PEERCRED).

Arrives: a request with a CSR whose names are ignored. Leaves: a leaf for the identity that the allow table grants to
the caller's user id. The other end is federation.trust.workload.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from google.protobuf.message import DecodeError

from discovery.identity.allow import AllowTable
from federation.errors import AlreadyExists, Denied, InvalidInput, InvalidSettings, IsthmusError, StorageFailed
from federation.log import Logger
from federation.model.ids import SpiffeId
from federation.model.wire import bundle_to_pb
from federation.proto.v1 import identity_pb2 as pb
from federation.trust.authority import DEFAULT_TTL, Authority
from federation.trust.csr import read_csr
from federation.trust.framing import FrameError, read_frame, write_frame

_MAX_PATH = 107  # sun_path, less its final NUL
_MAX_CALLS = 64
"""Calls in flight; one more is turned away, so that a crowd cannot hold all of the agent's descriptors."""
MAX_CALLS_PER_USER = _MAX_CALLS - 16
"""The same for one user id, so that who connects and says nothing does not keep the others from their renewals."""


class IdentityServer:
    """Listens on `path` from `start` to `close`."""

    def __init__(
        self,
        path: Path,
        authority: Authority,
        *,
        allow: AllowTable,
        federation: str,
        cluster: str,
        agent_addresses: Callable[[], Sequence[str]],
        log: Logger,
        ttl: timedelta = DEFAULT_TTL,
        timeout: float = 5.0,
        mode: int = 0o666,
    ) -> None:
        """`mode` of the socket: everyone may ask, `allow` decides. `timeout` (s) bounds one whole call."""
        self.path = path
        self.issued = 0
        self.refused = 0
        self._authority, self._allow, self._ttl = authority, allow, ttl
        self._federation, self._cluster, self._agent_addresses = federation, cluster, agent_addresses
        self._log, self._timeout, self._mode = log, timeout, mode
        self._server: asyncio.Server | None = None
        self._calls: dict[asyncio.Task[None], int] = {}  # to the caller's user id

    async def start(self) -> None:
        """Raises InvalidSettings (path too long), AlreadyExists (somebody listens there), StorageFailed."""
        self._server = await asyncio.start_unix_server(self._accepted, sock=_bind(self.path, self._mode))

    async def close(self) -> None:
        """Stop listening and end the calls in flight."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for call in tuple(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._server is None or len(self._calls) >= _MAX_CALLS:
            writer.transport.abort()
            return
        uid = peer_uid(writer.get_extra_info("socket"))
        if sum(1 for other in self._calls.values() if other == uid) >= MAX_CALLS_PER_USER:
            writer.transport.abort()
            return
        self._calls[task] = uid
        try:
            async with asyncio.timeout(self._timeout):
                await self._serve(uid, reader, writer)
        except (TimeoutError, FrameError, asyncio.IncompleteReadError, OSError) as error:
            if isinstance(error, asyncio.IncompleteReadError) and not error.partial:
                return  # who only looked whether somebody answers here
            self._log.info("identity call broken off", error=str(error) or type(error).__name__)
        finally:
            self._calls.pop(task, None)
            writer.close()

    async def _serve(self, uid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await read_frame(reader)
        try:
            reply = self._answer(uid, data)
            self.issued += 1
        except IsthmusError as error:
            self.refused += 1
            self._log.warning("identity refused", uid=uid, code=error.error_code, error=error.message)
            reply = pb.SignReply(error_code=error.error_code, error_detail=str(error))
        await write_frame(writer, reply.SerializeToString())

    def _answer(self, uid: int, data: bytes) -> pb.SignReply:
        try:
            request = pb.SignRequest.FromString(data)
        except DecodeError as error:
            raise InvalidInput("no SignRequest message", code="invalid_request") from error
        bundle = self._authority.bundle
        spiffe_id = SpiffeId.workload(bundle.trust_domain, request.namespace, request.account)
        if not self._allow.admits(uid, request.namespace, request.account):
            raise Denied(
                f"user id {uid} may not be {request.namespace}/{request.account}",
                hint="add it to `identities` in the agent's settings",
                code="identity_denied",
            )
        svid = self._authority.issue(read_csr(request.csr), spiffe_id=spiffe_id, ttl=self._ttl)
        self._log.info("identity issued", uid=uid, spiffe_id=str(spiffe_id), expires=svid.not_after.isoformat())
        addresses = self._agent_addresses()
        return pb.SignReply(
            chain=svid.chain,
            bundle=bundle_to_pb(bundle),
            agent_address=addresses[0],
            agent_addresses=addresses,
            federation=self._federation,
            cluster=self._cluster,
        )


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process that connected, as the kernel recorded it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    _, uid, _ = struct.unpack("iII", credentials)
    return int(uid)


def _bind(path: Path, mode: int) -> socket.socket:
    if len(os.fsencode(path)) > _MAX_PATH:
        raise InvalidSettings(
            f"the socket path {path} is longer than {_MAX_PATH} bytes", hint="choose a shorter state directory"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(_MAX_CALLS)
    except OSError as error:
        listener.close()
        raise StorageFailed(f"cannot listen on {path}: {error.strerror}") from error
    except IsthmusError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket of a process that has died; one that answers belongs to somebody."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AlreadyExists(f"{path} is there and is no socket", hint="move it away")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except TimeoutError:
            pass
    raise AlreadyExists(f"another process listens on {path}", hint="is an agent of this cluster running already?")
