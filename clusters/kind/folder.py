"""What the harness keeps of a topology on this machine: the topology itself, kubeconfigs, fedctl's contexts, a lock.

All of it can be lost: what runs is found by its marks, and kubeconfigs are written anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import msgspec

from clusters import disk
from clusters.kind.config import PREFIX
from clusters.topology import Topology
from federation.aio.files import read_state, write_state
from federation.errors import Conflict, CorruptState, StorageFailed

_ROOM = "make room there and run the same command again, or keep the files elsewhere by --state"


def base(environ: Mapping[str, str] = os.environ) -> Path:
    """`${XDG_STATE_HOME:-~/.local/state}/isthmus/clusters`; as that specification says, a relative one is ignored."""
    state = Path(environ.get("XDG_STATE_HOME") or "")
    if not state.is_absolute():
        state = Path(environ.get("HOME") or Path.home()) / ".local" / "state"
    return state / "isthmus" / "clusters"


class Folder:
    """Of one topology, below `base()` unless told otherwise."""

    def __init__(self, topology: str, *, prefix: str = PREFIX, where: Path | None = None) -> None:
        self.path = (where or base()) / f"{prefix}.{topology}"

    @property
    def home(self) -> Path:
        """fedctl's contexts for this federation."""
        return self.path / "home"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def kubeconfig(self, cluster: str) -> Path:
        return self.path / f"{cluster}.kubeconfig"

    def make(self) -> None:
        """Raises StorageFailed (`no_disk`)."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise disk.refusal(self.path, error, hint=_ROOM) from error

    def save(self, topology: Topology) -> None:
        """Raises StorageFailed (`no_disk`)."""
        path = self.path / "topology"
        try:
            write_state(path, msgspec.json.encode(topology))
        except StorageFailed as error:
            if isinstance(error.__cause__, OSError):
                raise disk.refusal(path, error.__cause__, hint=_ROOM) from error
            raise

    def load(self) -> Topology | None:
        """The topology that was saved; None where there is none that can be read."""
        try:
            data = read_state(self.path / "topology")
            return None if data is None else msgspec.json.decode(data, type=Topology)
        except (CorruptState, StorageFailed, msgspec.DecodeError):
            return None

    def server(self, cluster: str) -> str:
        """The API server that the kubeconfig names; empty where there is none."""
        with contextlib.suppress(OSError):
            for line in self.kubeconfig(cluster).read_text(errors="replace").splitlines():
                if line.strip().startswith("server:"):
                    return line.split("server:", 1)[1].strip()
        return ""

    @contextlib.contextmanager
    def locked(self, *, anyhow: bool = False) -> Iterator[None]:
        """One command at a time changes the topology; raises Conflict (`busy`) while another one does, StorageFailed.

        `anyhow`: without a lock where the disk takes none. What removes must not want room for it.
        """
        with contextlib.ExitStack() as held:
            try:
                file = held.enter_context(self._lock())
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    f"another command is at work on {self.path.name}", hint="wait until it has ended", code="busy"
                ) from None
            except StorageFailed:
                if not anyhow:
                    raise
            yield

    def _lock(self) -> IO[str]:
        self.make()
        path = self.path / "lock"
        try:
            return path.open("w")
        except OSError as error:
            raise disk.refusal(path, error, hint=_ROOM) from error

    def remove(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.path, ignore_errors=True)
