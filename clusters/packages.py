"""Programs of the system that only machines of the tests get: unpacked from their packages, never installed here.

To install systemd-resolved or NetworkManager would change how this host resolves names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from federation.errors import Unavailable

_SECONDS = 180.0


def unpacked(package: str) -> Path:
    """The folder with the files of a Debian package of this system's release, from a cache or from its archive.

    Raises Unavailable where there is no apt, or no archive.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "isthmus" / "packages"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable(f"{package} can be had on Debian and Ubuntu only")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as made:
        # The newest that this host knows of: it has to fit to the systemd that is here.
        version = _run(["apt-cache", "show", "--no-all-versions", package], made)
        number = next((line[9:] for line in version.splitlines() if line.startswith("Version: ")), "")
        if not number:
            raise Unavailable(f"{package} is not known to apt", hint="run apt-get update")
        there = cache / f"{package}_{number.replace(':', '%')}"
        if there.is_dir():
            return there
        _run(["apt-get", "download", "-qq", package], made)
        (archive,) = Path(made).glob("*.deb")
        files = Path(made) / "files"
        _run(["dpkg-deb", "-x", str(archive), str(files)], made)
        try:
            files.rename(there)
        except OSError:
            if not there.is_dir():  # somebody else was faster
                raise
    return there


def _run(command: list[str], folder: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise Unavailable(f"{' '.join(command)}: {lines[-1]}", hint="the machines of the tests need the package")
    return done.stdout
