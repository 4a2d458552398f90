"""What a registry does for who may enter its folder: `registry.sock` in it, without gRPC and without certificates.

One question a connection: a line of JSON ({"do": …}) and as many bytes as it announces; the answer likewise. Who can
open the socket (mode 0600, in a folder of 0700) could read the CA's key beside it, so nothing more is asked of him. A
bridge brings the socket to fedctl from a pod (federation.cli.pods).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from federation.errors import InvalidInput, IsthmusError, StorageFailed, TimedOut, Unavailable
from federation.log import Logger
from federation.registry.status import named_error

SOCKET = "registry.sock"
MAX_BYTES = 1 << 30
_LINE = 1 << 16
_PATH_LIMIT = 107
_ANSWER_SECONDS = 60.0


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """`do`: what is asked for; `payload`: how many bytes follow the line."""

    do: str
    payload: int = 0
    name: str = ""
    replace: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`payload` bytes follow; or `error`: class, code, message and hint of an IsthmusError."""

    payload: int = 0
    error: dict[str, str] | None = None


Handler = Callable[[Question, bytes], Awaitable[bytes]]


class LocalServer:
    """Serves `handlers` by their name in `Question.do` from `start` to `close`."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler], *, log: Logger) -> None:
        self._path, self._handlers, self._log = path, dict(handlers), log
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises StorageFailed."""
        before = os.umask(0o177)
        try:
            self._path.unlink(missing_ok=True)  # the store is locked: nobody else can be listening
            with reachable(self._path) as path:
                self._server = await asyncio.start_unix_server(self._serve, path, limit=_LINE)
        except OSError as error:
            raise StorageFailed(f"cannot listen on {self._path}: {error.strerror or error}") from error
        finally:
            os.umask(before)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer, payload = await self._answer(reader)
            writer.write(msgspec.json.encode(answer) + b"\n" + payload)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # he has gone
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Answer, bytes]:
        try:
            question = msgspec.json.decode(await reader.readline(), type=Question)
            handler = self._handlers.get(question.do)
            if handler is None or not 0 <= question.payload <= MAX_BYTES:
                raise InvalidInput(f"this registry cannot {question.do[:40]!r}", hint="is it older than fedctl?")
            payload = await handler(question, await reader.readexactly(question.payload))
        except (ValueError, msgspec.MsgspecError) as error:
            return Answer(error=_described(InvalidInput(f"no question: {error}"))), b""
        except IsthmusError as error:
            return Answer(error=_described(error)), b""
        except OSError as error:
            failed = StorageFailed(f"the disk refuses it: {error.strerror or error}")
            return Answer(error=_described(failed)), b""
        return Answer(payload=len(payload)), payload


class LocalClient:
    """Asks the registry whose socket is at `path`. Methods raise the registry's IsthmusError, Unavailable, TimedOut."""

    def __init__(self, path: Path, *, what: str = "") -> None:
        self._path, self._what = path, what or f"the registry in {path.parent}"

    async def credential(self, name: str) -> dict[str, bytes]:
        """The files of a new credential of the operator `name`."""
        return msgspec.json.decode(await self._ask(Question(do="credential", name=name)), type=dict[str, bytes])

    async def backup(self) -> bytes:
        """An archive of the registry as it is (federation.registry.backup)."""
        return await self._ask(Question(do="backup"))

    async def restore(self, archive: bytes, *, replace: bool) -> None:
        """Put the archive in the place of what there is; it begins anew with it when this returns."""
        await self._ask(Question(do="restore", payload=len(archive), replace=replace), archive)

    async def _ask(self, question: Question, payload: bytes = b"") -> bytes:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                with reachable(self._path) as path:
                    reader, writer = await asyncio.open_unix_connection(path, limit=_LINE)
                try:
                    writer.write(msgspec.json.encode(question) + b"\n" + payload)
                    await writer.drain()
                    line = await reader.readline()
                    answer = msgspec.json.decode(line, type=Answer)
                    if answer.error is not None:
                        raise named_error(answer.error)
                    return await reader.readexactly(answer.payload)
                finally:
                    writer.close()
        except TimeoutError:
            raise TimedOut(f"{self._what} does not answer") from None
        except (OSError, ValueError, msgspec.MsgspecError, asyncio.IncompleteReadError) as error:
            raise Unavailable(f"{self._what} does not answer: {error}", code="registry_down") from error


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name of the socket at `path` that fits into an address, however long its folder's is."""
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _described(error: IsthmusError) -> dict[str, str]:
    return {**error.as_dict(), "class": type(error).code}
