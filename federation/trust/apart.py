"""Lets a short-lived process make a key and check the agent's reply (federation.trust.petition is what runs there).

Arrives: an identity to ask for. Leaves: what federation.trust.petition gives, over the pipes of that process. So who
asks needs no cryptography library: 10 MB that a gateway or a sidecar would use twice an hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence

import msgspec

from federation import errors
from federation.errors import IsthmusError, Unavailable
from federation.trust.framing import FrameError, read_frame, write_frame
from federation.trust.workload import Grant

PROGRAM = (sys.executable, "-m", "federation.trust.petition")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the other process ends with: a grant, or the error (`kind` is its class)."""

    grant: Grant | None = None
    kind: str = ""
    code: str = ""
    message: str = ""
    hint: str = ""


def dump(outcome: Outcome) -> bytes:
    return msgspec.msgpack.encode(outcome)


def failure(error: IsthmusError) -> Outcome:
    return Outcome(kind=type(error).__name__, code=error.error_code, message=error.message, hint=error.hint)


class Apart:
    """federation.trust.petition.Petition in another process. Made by `begin`."""

    def __init__(self, process: Process, request: bytes) -> None:
        self._process, self.request = process, request

    async def grant(self, reply: bytes) -> Grant:
        """Raises as Petition.grant, and Unavailable (keys_unavailable) when the process fails."""
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None and writer is not None  # noqa: S101, PT018 - it was started with pipes
        try:
            await write_frame(writer, reply)
            outcome = msgspec.msgpack.decode(await reader.read(-1), type=Outcome)
        except (OSError, FrameError, msgspec.MsgspecError) as error:
            raise _failed(error) from error
        return _result(outcome)


@contextlib.asynccontextmanager
async def begin(namespace: str, account: str) -> AsyncIterator[Apart]:
    """A new key with its request; the process ends with the block. Raises Unavailable (keys_unavailable)."""
    async with _started(*PROGRAM, namespace, account) as process:
        assert process.stdout is not None  # noqa: S101 - it was started with pipes
        try:
            request = await read_frame(process.stdout)
        except (OSError, FrameError, asyncio.IncompleteReadError) as error:
            raise _failed(error) from error
        yield Apart(process, request)


async def ask(program: Sequence[str], job: bytes) -> Grant:
    """What `program` makes of `job`, which it reads as one frame: it writes an Outcome and ends.

    Raises what it ended with, and Unavailable (keys_unavailable).
    """
    async with _started(*program) as process:
        assert process.stdout is not None and process.stdin is not None  # noqa: S101, PT018 - started with pipes
        try:
            await write_frame(process.stdin, job)
            outcome = msgspec.msgpack.decode(await process.stdout.read(-1), type=Outcome)
        except (OSError, FrameError, msgspec.MsgspecError) as error:
            raise _failed(error) from error
        return _result(outcome)


def _result(outcome: Outcome) -> Grant:
    if outcome.grant is not None:
        return outcome.grant
    kind = getattr(errors, outcome.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, IsthmusError)):
        kind = IsthmusError
    raise kind(outcome.message, hint=outcome.hint, code=outcome.code)


@contextlib.asynccontextmanager
async def _started(*command: str) -> AsyncIterator[Process]:
    """A process that ends with the block. Raises Unavailable (keys_unavailable)."""
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    except OSError as error:
        raise _failed(error) from error
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


def _failed(error: Exception) -> Unavailable:
    return Unavailable(
        f"the process that makes keys failed: {error or type(error).__name__}",
        hint="its own words are in this process's log",
        code="keys_unavailable",
    )
