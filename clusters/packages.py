"""Programs of the system that only machines of the tests and images get: unpacked from packages, not installed here.

To install systemd-resolved or NetworkManager would change how this host resolves names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from clusters import disk
from federation.errors import StorageFailed, Unavailable

_SECONDS = 180.0


def unpacked(package: str) -> Path:
    """The folder with the files of a Debian package of this system's release; raises as `all_unpacked`."""
    return all_unpacked(package)[package]


def all_unpacked(*packages: str) -> dict[str, Path]:
    """The folders with the files of Debian packages of this system's release, from a cache or from its archive.

    Raises Unavailable where there is no apt, or no archive, and StorageFailed (`no_disk`).
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "isthmus" / "packages"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable(f"{packages[0]} can be had on Debian and Ubuntu only")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as made:
        # The newest that this host knows of: it has to fit to the systemd that is here.
        versions = _versions(_run(["apt-cache", "show", "--no-all-versions", *packages], made))
        if unknown := [name for name in packages if name not in versions]:
            raise Unavailable(f"{unknown[0]} is not known to apt", hint="run apt-get update")
        found = {name: cache / f"{name}_{versions[name].replace(':', '%')}" for name in packages}
        if missing := [name for name, folder in found.items() if not folder.is_dir()]:
            _run(["apt-get", "download", "-qq", *missing], made)
        for archive in sorted(Path(made).glob("*.deb")):
            name = archive.name.partition("_")[0]
            files = Path(made) / name
            _run(["dpkg-deb", "-x", str(archive), str(files)], made)
            try:
                files.rename(found[name])
            except OSError:
                if not found[name].is_dir():  # somebody else was faster
                    raise
    return found


def _versions(records: str) -> dict[str, str]:
    """The version of each package in what `apt-cache show` prints."""
    return dict(re.findall(r"^Package: (\S+)$(?:\n.+$)*?\nVersion: (\S+)$", records, re.MULTILINE))


def _run(command: list[str], folder: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        if disk.is_full(done.stderr):
            said = f"{' '.join(command[:2])}: no space left on device"
            raise StorageFailed(said, hint="make room where XDG_CACHE_HOME (~/.cache) is", code=disk.CODE)
        raise Unavailable(f"{' '.join(command)}: {lines[-1]}", hint="the machines of the tests need the package")
    return done.stdout
