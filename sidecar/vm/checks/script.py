"""A script check: a program of the VM's own, as the sidecar's user, without a shell; its exit status counts.

0 passes, 1 passes with a warning, all else is critical (as in Consul). Whoever takes too long is ended with all that it
has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from sidecar.vm.checks.machine import Outcome
from sidecar.vm.checks.result import Result, critical, line
from sidecar.vm.definition import Script

MAX_OUTPUT = 4096
"""Bytes of output that are looked at; the rest is read and dropped, so that the program does not wait for it."""
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""All that a script gets: nothing of the sidecar's own."""


async def run(probe: Script) -> Result:
    """The caller bounds the time by cancelling: the program's process group is killed then."""
    # A pipe of our own: asyncio's would be waited for until every process that holds it has ended.
    with _Output() as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *probe.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.end,
                stderr=output.end,
                start_new_session=True,
                env=ENVIRONMENT,
                cwd="/",
            )
        except (OSError, ValueError) as error:
            return critical(f"cannot be started: {getattr(error, 'strerror', None) or error}")
        try:
            status = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await asyncio.shield(process.wait())
        said = line(output.text())
    if status == 0:
        return Result(Outcome.PASSING)
    if status == 1:
        return Result(Outcome.WARNING, said)
    why = f"exit status {status}" if status >= 0 else f"ended by signal {-status}"
    return critical(f"{why}: {said}" if said else why)


class _Output:
    """A pipe: what comes through is read at once, and the beginning of it is kept."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._read, self.end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read, False)
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> _Output:
        self._loop.add_reader(self._read, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._read)
        os.close(self._read)
        os.close(self.end)

    def text(self) -> str:
        """What was said until now."""
        while len(self._data) < MAX_OUTPUT and self._take():
            pass
        return self._data.decode(errors="replace")

    def _take(self) -> bool:
        try:
            data = os.read(self._read, 65536)
        except BlockingIOError:
            return False
        self._data += data[: MAX_OUTPUT - len(self._data)]
        return bool(data)
