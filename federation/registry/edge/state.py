"""The state directory of an edge process: private, and one process's at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from federation.aio.files import write_atomic
from federation.errors import Conflict, StorageFailed


class StateDirectory:
    """Holds `path` (mode 0700) until `close`; the files in it are named here and nowhere else."""

    def __init__(self, path: Path) -> None:
        """Raises StorageFailed when it cannot be made, Conflict when another process holds it."""
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageFailed(f"cannot use the state directory {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise Conflict(
                f"another process uses the state directory {path}",
                hint="give each gateway and sidecar a state_directory of its own",
                code="state_directory_in_use",
            ) from error

    def close(self) -> None:
        os.close(self._lock)

    @property
    def identity(self) -> Path:
        return self.path / "identity"

    @property
    def machine_key(self) -> Path:
        """The key that a virtual machine proves itself by; the one file here that cannot be got again."""
        return self.path / "machine.key"

    @property
    def view(self) -> Path:
        return self.path / "view"

    @property
    def ads(self) -> Path:
        return self.path / "ads.sock"

    @property
    def admin(self) -> Path:
        return self.path / "admin.sock"

    def write_ports(self, ports: dict[str, int]) -> None:
        """ports.json: the ports that were picked; raises StorageFailed."""
        write_atomic(self.path / "ports.json", msgspec.json.encode(ports) + b"\n")
