"""Commands of other programs (docker, kind, fedctl), several at once: what they print, or an error of ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusters.waiting import START
from federation.aio.launch import die_with_parent
from federation.errors import NotFound, TimedOut, Unavailable


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    words: tuple[str, ...]
    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode(errors="replace")

    @property
    def reason(self) -> str:
        """The line that says what went wrong, as far as a machine can tell."""
        lines = [line.strip() for line in (self.err or self.text).splitlines() if line.strip()]
        telling = [line for line in lines if line.lower().startswith(("error", "panic", "fatal"))]
        return (telling or lines or [f"status {self.status}"])[-1][:400]


async def attempt(
    *words: str | Path,
    text: bytes = b"",
    seconds: float = START,
    environ: Mapping[str, str] | None = None,
    long: bool = False,
) -> Done:
    """Run the command with `text` as its input, whatever comes of it.

    It is killed, with all that it started in its session, when this is cancelled; a `long` one also when we are killed.
    Raises NotFound (`<program>_missing`) and TimedOut.
    """
    command = tuple(map(str, words))
    if shutil.which(command[0]) is None:
        raise NotFound(f"{command[0]} is not on PATH", hint="install it, or put it on PATH", code=_missing(command[0]))
    process = await asyncio.create_subprocess_exec(
        *(die_with_parent(command) if long else command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=None if environ is None else {**os.environ, **environ},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate(text)
    except TimeoutError as error:
        raise TimedOut(f"{_line(command)} took longer than {seconds:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())
    return Done(command, process.returncode or 0, out, err.decode(errors="replace"))


async def call(
    *words: str | Path, text: bytes = b"", seconds: float = START, environ: Mapping[str, str] | None = None
) -> str:
    """What the command prints; raises Unavailable with what it says when it fails, and as `attempt` does."""
    done = await attempt(*words, text=text, seconds=seconds, environ=environ)
    if done.status:
        raise Unavailable(f"{_line(done.words)}: {done.reason}")
    return done.text


def _missing(program: str) -> str:
    return f"{Path(program).name.replace('-', '_')}_missing"


def _line(command: Sequence[str]) -> str:
    return " ".join(command)[:120]
