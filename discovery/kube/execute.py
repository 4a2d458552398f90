"""A program in a pod, started by way of the API server: `pods/exec` over a WebSocket (channel.k8s.io).

Each frame begins with the number of a channel: input, output, errors, and at the end a Status (meta/v1). Version 5 of
the protocol can close the input alone; version 4, which API servers before 1.30 speak, cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.connection import unreachable
from discovery.kube.errors import Forbidden, NotFound, Unauthorised
from discovery.kube.resources import PODS
from federation.errors import Unavailable

if TYPE_CHECKING:
    import aiohttp

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_MOST_ERRORS = 64 << 10
_OPEN_SECONDS = 15.0
_CLOSE_SECONDS = 2.0


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] | None = None


class _End(msgspec.Struct):
    status: str = ""
    message: str = ""
    reason: str = ""
    details: _Details | None = None


class ExecFailed(Unavailable):
    """The program could not be started, or its connection was lost."""

    code = "exec_failed"


class Execution:
    """A running program. Not for several readers at once."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, *, what: str) -> None:
        self._socket, self._what = socket, what
        self.errors = b""
        """What it has written to standard error so far, the first 64 KiB."""
        self.exit_status: int | None = None
        """None as long as it runs, and where it never did; `reason` says why then."""
        self.reason = ""

    async def read(self) -> bytes:
        """The next piece of its output; empty at its end. Raises ExecFailed when the connection is lost."""
        import aiohttp

        while True:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY or message.type is aiohttp.WSMsgType.TEXT:
                data = message.data.encode() if isinstance(message.data, str) else message.data
                if not data:
                    continue
                channel, content = data[0], data[1:]
                if channel == _STDOUT and content:
                    return bytes(content)
                if channel == _STDERR:
                    self.errors = (self.errors + content)[:_MOST_ERRORS]
                elif channel == _STATUS:
                    self._ended(content)
            elif message.type is aiohttp.WSMsgType.ERROR:
                raise ExecFailed(f"{self._what}: the connection broke: {message.data}")
            else:
                if self.exit_status is None and not self.reason:
                    raise ExecFailed(f"{self._what}: the connection was cut")
                return b""

    async def write(self, data: bytes) -> None:
        """To its input. Raises ExecFailed when the connection is lost."""
        try:
            await self._socket.send_bytes(bytes((_STDIN,)) + data)
        except (OSError, RuntimeError) as error:  # aiohttp: ClientConnectionResetError, "cannot write to closing …"
            raise ExecFailed(f"{self._what}: the connection broke: {error}") from error

    async def end_input(self) -> bool:
        """Close its input; False where the API server's protocol cannot, and only ending it will do."""
        if self._socket.protocol != V5:
            return False
        with contextlib.suppress(OSError, RuntimeError):
            await self._socket.send_bytes(bytes((_CLOSE, _STDIN)))
        return True

    def _ended(self, content: bytes) -> None:
        try:
            end = msgspec.json.decode(content, type=_End)
        except msgspec.MsgspecError:
            self.reason = content[:300].decode(errors="replace")
            return
        if end.status == "Success":
            self.exit_status = 0
            return
        causes = (end.details.causes if end.details else None) or []
        code = next((c.message for c in causes if c.reason == "ExitCode"), "")
        self.exit_status = int(code) if code.isdigit() else None
        self.reason = end.message or end.reason or "it failed"


@contextlib.asynccontextmanager
async def execute(
    client: KubeClient, namespace: str, pod: str, command: Sequence[str], *, container: str = ""
) -> AsyncIterator[Execution]:
    """Start `command`; it is ended with the block.

    Raises Forbidden, Unauthorised, NotFound (the pod has gone), Unreachable, ExecFailed.
    """
    import aiohttp
    from yarl import URL

    what = f"exec in {namespace}/{pod}"
    query = [("command", word) for word in command]
    query += [("stdin", "true"), ("stdout", "true"), ("stderr", "true"), ("tty", "false")]
    if container:
        query.append(("container", container))
    connection = await client.connected()
    url = URL(f"{connection.host}{PODS.path(namespace, pod, 'exec')}?{urlencode(query)}", encoded=True)
    try:
        async with asyncio.timeout(_OPEN_SECONDS):
            socket = await connection.session.ws_connect(
                url,
                headers=await connection.headers(),
                protocols=(V5, V4),
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
                max_msg_size=0,
                **connection.options,
            )
    except aiohttp.WSServerHandshakeError as error:
        raise _refused(error, what) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise unreachable(error, connection.host) from error
    try:
        yield Execution(socket, what=what)
    finally:
        await socket.close()


def _refused(error: aiohttp.WSServerHandshakeError, what: str) -> Exception:
    if error.status == 401:
        return Unauthorised(f"the API server does not accept our credentials ({what})", hint="check the kubeconfig")
    if error.status == 403:
        return Forbidden(
            f"not allowed: {what}",
            hint='your account needs {apiGroups: [""], resources: ["pods/exec"], verbs: ["create", "get"]}',
        )
    if error.status == 404:
        return NotFound(f"{what}: there is no such pod any more")
    return ExecFailed(
        f"{what}: the API server answers {error.status} {error.message}",
        hint="is the container running? kubectl get pods; does the API server reach its node?",
    )
