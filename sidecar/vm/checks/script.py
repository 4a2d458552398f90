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
KILLED_SECONDS = 1.0
"""So long it may take to end when it was killed; after that it is in the hands of the kernel."""


class Scripts:
    """Runs scripts; remembers those that did not end when they were killed, and starts none of them again till then."""

    def __init__(self) -> None:
        self._left: list[tuple[Script, asyncio.subprocess.Process]] = []

    async def run(self, probe: Script) -> Result:
        """The caller bounds the time by cancelling: the program's process group is killed then.

        One that does not end all the same (it waits for a disk or a server that is gone) is left to the event loop,
        which reaps it once it ends. Until then the script is critical without being run: one process, not one a run.
        """
        self._left = [(script, process) for script, process in self._left if process.returncode is None]
        for script, process in self._left:
            if script == probe:
                return critical(f"process {process.pid} of the run before does not end, although it was killed")
        try:
            return await self._run(probe)
        except OSError as error:  # no more files or processes
            return critical(f"cannot be started: {error.strerror or error}")

    async def _run(self, probe: Script) -> Result:
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
            except ValueError as error:
                return critical(f"cannot be started: {error}")
            try:
                status = await process.wait()
            finally:
                if process.returncode is None:
                    await self._kill(probe, process)
            said = line(output.text())
        if status == 0:
            return Result(Outcome.PASSING)
        if status == 1:
            return Result(Outcome.WARNING, said)
        why = f"exit status {status}" if status >= 0 else f"ended by signal {-status}"
        return critical(f"{why}: {said}" if said else why)

    async def _kill(self, probe: Script, process: asyncio.subprocess.Process) -> None:
        self._left.append((probe, process))
        with contextlib.suppress(OSError):  # it has ended just now, or has become somebody whom we may not kill
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILLED_SECONDS):
                await process.wait()


class _Output:
    """A pipe: what comes through is read at once, and the beginning of it is kept."""

    def __init__(self) -> None:
        """Raises OSError."""
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
