"""Reads and writes this host, or below another root: files, and the commands that make the host notice.

Each part of isthmus that changes the host (the sidecar of a VM, a unit of a plain-host cluster) keeps a journal of its
own in /var/lib/isthmus/host. With a root other than `/` no command is run.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from federation.aio.files import write_atomic
from federation.errors import Conflict, CorruptState, Denied, StorageFailed, Unavailable
from sidecar.vm.changes import ABSENT, Content, Journal, Step

FOLDER = "/var/lib/isthmus/host"
"""Journals, and what stood at /etc/resolv.conf before: readable by everybody, like what it is a copy of."""

BEFORE = f"{FOLDER}/before"
"""Where a person finds what stood at a path that was left, because somebody had changed it."""

_SECONDS = 60.0

Command = tuple[str, ...]
Run = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a command; returns its exit status and what it wrote to standard error."""


@dataclass(frozen=True, slots=True)
class Host:
    """The host whose `/` is `root`."""

    root: Path = Path("/")
    run: Run = field(default=lambda command: _run(command))

    @property
    def live(self) -> bool:
        """Whether this is the host that we run on."""
        return self.root.resolve() == Path("/")

    def path(self, path: str) -> Path:
        """Where an absolute path of the host is for us."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> Content:
        """What stands there; raises Denied, StorageFailed, Conflict for what is neither file nor link."""
        where = self.path(path)
        try:
            status = where.lstat()
            if stat.S_ISLNK(status.st_mode):
                return Content(link=os.readlink(where))
            if not stat.S_ISREG(status.st_mode):
                raise Conflict(f"{path} is neither a file nor a link", hint="move it away", code="file_changed")
            return Content(data=where.read_bytes(), mode=stat.S_IMODE(status.st_mode))
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        except OSError as error:
            raise _failed("read", path, error) from error

    def text(self, path: str) -> str:
        """The text of a file, links followed within the root; empty where there is none."""
        for _ in range(16):
            found = self.read(path)
            if not found.link:
                return (found.data or b"").decode(errors="replace")
            path = follow(path, found.link)
        return ""

    def texts(self, folder: str, suffix: str) -> dict[str, str]:
        """The text of each file in a folder whose name ends so, by name."""
        try:
            names = sorted(p.name for p in self.path(folder).iterdir() if p.name.endswith(suffix))
        except OSError:
            return {}
        return {name: self.text(f"{folder}/{name}") for name in names}

    def journal(self, part: str) -> Journal:
        """What that part did before; raises CorruptState."""
        path = _journal(part)
        found = self.read(path)
        if found.data is None:
            return Journal()
        try:
            journal = msgspec.json.decode(found.data, type=Journal)
        except msgspec.DecodeError as error:
            raise CorruptState(
                f"{path} is damaged: {error}", hint="what was changed is not known: look at the files by hand"
            ) from error
        if journal.version != 1:
            raise CorruptState(f"{path} is of version {journal.version}", hint="use the isthmus that wrote it")
        return journal

    def begin(self, part: str, journal: Journal, steps: Sequence[Step]) -> None:
        """The steps, after the journal that tells how to take them back. Raises Denied, StorageFailed, Conflict.

        What was not done is done by the next run.
        """
        made = [_journal(part), *(s.path for s in steps if not s.content.absent)]
        folders = {*journal.folders, *self._missing(made)}
        self.save(part, msgspec.structs.replace(journal, folders=tuple(sorted(folders))))
        self.do(steps)

    def do(self, steps: Iterable[Step]) -> None:
        """Make each path what it is to be. Raises Denied, StorageFailed, Conflict."""
        for step in steps:
            self._do(step)

    def save(self, part: str, journal: Journal) -> None:
        """Keep what that part did."""
        self._write(_journal(part), Content(data=msgspec.json.format(msgspec.json.encode(journal)) + b"\n", mode=0o600))

    def forget(self, part: str, journal: Journal) -> None:
        """That part has done nothing any more: its journal goes, and the folders that it made, if they are empty."""
        self._do(Step(_journal(part), ABSENT))
        if not list(self.path(FOLDER).glob("*.json")):
            shutil.rmtree(self.path(BEFORE), ignore_errors=True)
        self._remove_folders((*journal.folders, FOLDER, str(Path(FOLDER).parent)))

    def commands(self, commands: Iterable[Command]) -> None:
        """Run them in order on the live host. Raises Unavailable with the first that fails."""
        if not self.live:
            return
        for command in commands:
            status, complaint = self.run(command)
            if status:
                lines = complaint.strip().splitlines()
                raise Unavailable(
                    f"{' '.join(command)}: {lines[0] if lines else f'exit status {status}'}",
                    hint="the files are written: mend this and run it again, or take all of it back",
                    code="command_failed",
                )

    def _missing(self, paths: Iterable[str]) -> set[str]:
        """The folders above `paths` that are not there yet."""
        parents = {parent for path in paths for parent in Path(path).parents}
        return {str(p) for p in parents if not self.path(str(p)).exists()}

    def _do(self, step: Step) -> None:
        where, content = self.path(step.path), step.content
        if content.data is not None:
            self._write(step.path, content)
            return
        try:
            if content.link:
                where.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                beside = where.with_name(f".{where.name}.{os.getpid()}.tmp")
                beside.symlink_to(content.link)
                beside.replace(where)
            else:
                where.unlink(missing_ok=True)
        except OSError as error:
            raise _failed("write", step.path, error) from error

    def _write(self, path: str, content: Content) -> None:
        where = self.path(path)
        try:
            where.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomic(where, content.data or b"", mode=content.mode)
        except StorageFailed as error:
            if isinstance(error.__cause__, OSError):
                raise _failed("write", path, error.__cause__) from error
            raise
        except OSError as error:
            raise _failed("write", path, error) from error

    def _remove_folders(self, folders: Iterable[str]) -> None:
        """Those that are empty, the deepest first."""
        for folder in sorted(folders, key=len, reverse=True):
            try:
                self.path(folder).rmdir()
            except OSError:
                continue  # something of somebody is in it, or it is gone


def _journal(part: str) -> str:
    return f"{FOLDER}/{part}.json"


def follow(path: str, link: str) -> str:
    """Where a link at `path` leads, as an absolute path of the host."""
    return os.path.normpath(os.path.join(os.path.dirname(path), link))


def contents(host: Host, paths: Iterable[str]) -> Mapping[str, Content]:
    """What stands at each path."""
    return {path: host.read(path) for path in paths}


def _failed(verb: str, path: str, error: OSError) -> Denied | StorageFailed | Conflict:
    if error.errno in (errno.EACCES, errno.EPERM):
        return Denied(f"cannot {verb} {path}: {error.strerror}", hint="run this as root", code="not_root")
    if error.errno == errno.EBUSY:
        return Conflict(
            f"cannot {verb} {path}: something is mounted there",
            hint="a container manager gives this host the file: set the nameserver there instead",
            code="file_mounted",
        )
    return StorageFailed(f"cannot {verb} {path}: {error.strerror}", hint="free or repair the disk")


def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        return 127, f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return 124, f"it took longer than {_SECONDS:g} s"
    return done.returncode, done.stderr
