"""What tells the clusters of one machine apart, so that one of them can be cut off, filled up or set ahead alone.

Each cluster's processes are started in a cgroup of their own, by which the packets that they send are known; keep their
state on a small disk of their own; and its agent reads its clock through libfaketime, from a file (Envoy cannot be run
under it). Cgroups and disks carry the number of our process: what a harness that was killed has left the next removes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from clusters.packages import unpacked
from federation.errors import Unavailable

GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
"""Where cgroups of version 2 are mounted, alone or beside those of version 1."""
MEGABYTES = 64
"""Of the disk of one cluster: its state takes two or three."""
_ENTER = 'echo $$ >"$0/cgroup.procs" && exec "$@"'


class Separation:
    """Of the clusters `names`. `network`, `disks` and `clocks` say what of it is wanted; each takes root.

    Raises Unavailable where this machine cannot do it.
    """

    def __init__(
        self, names: Iterable[str], directory: Path, *, network: bool = False, disks: bool = False, clocks: bool = False
    ) -> None:
        """`directory`: for the clocks, and for each cluster with a disk the folder of its name, where that is."""
        if os.geteuid() != 0:
            raise Unavailable("to tell clusters of one machine apart takes root", hint="run it as root")
        self.names, self._directory, self._clocks = tuple(names), directory, clocks
        self._tag = f"isthmus-{os.getpid()}-{secrets.token_hex(2)}"
        directory.mkdir(parents=True, exist_ok=True)
        self.groups: dict[str, Path] = self._make_groups() if network else {}
        self._disks: list[Path] = []
        self._library = _faketime() if clocks else None
        try:
            if disks:
                self._make_disks()
        except BaseException:
            self.close()
            raise

    def command(self, cluster: str, words: Sequence[str | Path], *, clock: bool = False) -> list[str]:
        """`words` so that what they start is the cluster's; `clock`: and reads the cluster's clock."""
        found = [str(word) for word in words]
        if clock and self._library is not None:
            file = self.clock(cluster)
            found = [
                "env",
                f"LD_PRELOAD={self._library}",
                f"FAKETIME_TIMESTAMP_FILE={file}",
                "FAKETIME_CACHE_DURATION=1",
                "FAKETIME_DISABLE_SHM=1",
                "DONT_FAKE_MONOTONIC=1",
                *found,
            ]
            if not file.exists():
                file.write_text("+0\n")
        if cluster in self.groups:
            found = ["sh", "-c", _ENTER, str(self.groups[cluster]), *found]
        return found

    @property
    def has_clocks(self) -> bool:
        return self._clocks

    def clock(self, cluster: str) -> Path:
        """The file that says by how much the cluster's clocks are ahead."""
        return self._directory / f"{cluster}.clock"

    def group(self, cluster: str) -> str:
        """The cgroup of the cluster's processes, as iptables names it; empty where it has none."""
        return self.groups[cluster].name if cluster in self.groups else ""

    def close(self) -> None:
        """Take all of it away; the clusters' processes have ended."""
        for group in self.groups.values():
            with contextlib.suppress(OSError):
                group.rmdir()
        while self._disks:
            _unmount(self._disks.pop())

    def _make_groups(self) -> dict[str, Path]:
        root = next((place for place in GROUPS if (place / "cgroup.procs").exists()), None)
        if root is None or shutil.which("iptables") is None:
            raise Unavailable(
                "to tell the packets of clusters apart takes cgroups of version 2 and iptables",
                hint="mount -t cgroup2, apt-get install iptables",
            )
        for old in root.glob("isthmus-*"):
            if gone(old.name):
                with contextlib.suppress(OSError):
                    old.rmdir()
        made = {name: root / f"{self._tag}-{name}" for name in self.names}
        for group in made.values():
            group.mkdir()
        return made

    def _make_disks(self) -> None:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            source, place = line.split()[:2]
            if gone(source):
                _unmount(Path(place.encode().decode("unicode_escape")))
        for name in self.names:
            disk = self._directory / name
            disk.mkdir()
            words = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m,mode=700", f"{self._tag}-{name}", str(disk)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
            if done.returncode:
                raise Unavailable(f"no disk of its own for {name}: {done.stderr.strip()}")
            self._disks.append(disk)


def _unmount(place: Path) -> None:
    """At once, whoever still has a file open there."""
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True, timeout=30, check=False)


def gone(name: str) -> bool:
    """Whether a cgroup or a chain is of a harness that no longer runs."""
    found = re.search(r"isthmus-(\d+)-", name, re.IGNORECASE)
    return found is not None and not Path(f"/proc/{found[1]}").exists()


def _faketime() -> Path:
    """The library; raises Unavailable where it cannot be had."""
    for found in unpacked("libfaketime").rglob("libfaketimeMT.so.1"):
        return found
    raise Unavailable("the package libfaketime has no libfaketimeMT.so.1")
