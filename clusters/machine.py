"""The file system of a machine of the tests: this one's, with a layer above that is thrown away, and isthmus in /opt.

A keeper, a process that sleeps in a mount namespace of its own, holds it. Nothing is mounted where others see it, and
all of it is gone with the keeper, which dies with this process however that ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

from clusters.children import start_child
from clusters.waiting import until_now
from federation.errors import Unavailable

PROGRAMS = "/opt/isthmus/bin"
COMMANDS = {
    "fedctl": "federation.cli.main",
    "isthmus-registry": "federation.registry.__main__",
    "isthmus-agent": "discovery.__main__",
    "isthmus-gateway": "gateway.__main__",
    "isthmus-sidecar": "sidecar.__main__",
    "isthmus-redirect": "sidecar.intercept.__main__",
}
_PLACE = Path("/mnt")
"""Where each keeper mounts the root of its machine: in its own mount namespace, so others see nothing there."""
_TOOLS = ("unshare", "nsenter", "ip", "nft", "systemd-nspawn")
_MASKED = (
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
    "systemd-timesyncd.service",
    "systemd-logind.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "getty.target",
    "console-getty.service",
    "timers.target",
    "remote-fs.target",
    "dbus.service",
    "dbus.socket",
)
"""Units of a whole machine that no test needs: a start takes seconds with them."""
_STARTED = ("multi-user.target", "sockets.target")
_MAKE = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t tmpfs tmpfs /run/systemd
for pair in $2; do
  mkdir -p "$1/root${pair#*:}"
  mount --bind "${pair%%:*}" "$1/root${pair#*:}"
  mount -o remount,bind,ro "$1/root${pair#*:}"
done
echo ready
exec sleep infinity
"""


class MachineRoot:
    """`path`, seen in the keeper's mount namespace only, is the root of a machine; what is written there stays.

    Raises Unavailable without root, the tools, or a kernel that lets us do it.
    """

    def __init__(self, log: Path) -> None:
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if os.geteuid() != 0 or missing:
            raise Unavailable(
                "a machine for tests needs root"
                + (f" and {', '.join(missing)} (util-linux, iproute2, nftables, systemd-container)" if missing else "")
            )
        self.path = _PLACE / "root"
        binds = " ".join(f"{source}:{target}" for source, target in _binds())
        log.unlink(missing_ok=True)  # what an earlier one said is no answer
        command = ["unshare", "--mount", "--net", "--propagation=private", "bash", "-c", _MAKE, "keeper"]
        self._keeper = start_child([*command, str(_PLACE), binds], log)
        self.pid = self._keeper.pid
        try:
            until_now(lambda: self._made(log), what="the file system of a machine")
            self._install()
        except Exception:
            self.close()
            raise

    def _made(self, log: Path) -> bool:
        if self._keeper.poll() is not None:
            raise Unavailable(f"no file system for a machine: {log.read_text(errors='replace').strip()[-300:]}")
        return log.exists() and "ready" in log.read_text(errors="replace")

    def outside(self, command: Sequence[str | Path]) -> list[str]:
        """`command` so that it runs where the machine's root is seen, but not within the machine."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--", *map(str, command)]

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file of the machine, whether it runs or not."""
        script = 'mkdir -p "$(dirname "$1")" && rm -f "$1" && cat > "$1" && chmod "$2" "$1"'
        self._run(["sh", "-c", script, "sh", self._inside(path), f"{mode:o}"], text)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link of the machine."""
        self._run(["sh", "-c", 'mkdir -p "$(dirname "$1")" && ln -sfn "$2" "$1"', "sh", self._inside(path), target])

    def copy(self, folder: Path) -> None:
        """Lay the files below `folder` over those of the machine, as an unpacked package."""
        # A package may have /lib, which is a link to /usr/lib here.
        script = 'tar -C "$1" -cf - . | tar -C "$2" --keep-directory-symlink -xf -'
        self._run(["sh", "-c", script, "sh", str(folder), str(self.path)])

    def read(self, path: str) -> str:
        """The text of a file of the machine; raises Unavailable where there is none."""
        return self._run(["cat", self._inside(path)])

    def listing(self, folders: Iterable[str]) -> dict[str, str]:
        """What each path below the folders is: its type, mode, owner, link and the sum of its content."""
        script = (
            'for f in "$@"; do find "$f" ! -type d -printf "%p\\t%y %m %U %l " '
            '\\( -type f -exec cksum {} \\; -o -printf "\\n" \\); done 2>/dev/null | cut -d" " -f1-6'
        )
        told = self._run(["sh", "-c", script, "sh", *map(self._inside, folders)])
        return {p.removeprefix(str(self.path)): what for p, _, what in (li.partition("\t") for li in told.splitlines())}

    def close(self) -> None:
        """Give it up; a machine that still runs on it goes on until it ends."""
        self._keeper.kill()
        self._keeper.wait(timeout=30)

    def _inside(self, path: str) -> str:
        return str(self.path / path.lstrip("/"))

    def _run(self, command: Sequence[str], text: str = "") -> str:
        done = subprocess.run(
            self.outside(command), input=text, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise Unavailable(f"{' '.join(command[-2:])}: {done.stderr.strip()}")
        return done.stdout

    def _install(self) -> None:
        """isthmus as a user has it in /opt/isthmus; and a system that starts nothing else."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.link(f"{PROGRAMS}/{version}", f"/opt/isthmus/python/bin/{version}")
        for name in ("python", "python3"):
            self.link(f"{PROGRAMS}/{name}", version)
        self.write("/opt/isthmus/pyvenv.cfg", "home = /opt/isthmus/python/bin\ninclude-system-site-packages = false\n")
        site = f"/opt/isthmus/lib/{version}/site-packages"
        self.write(f"{site}/isthmus.pth", "/opt/isthmus/packages\n/opt/isthmus/src\n")
        head = f"#!{PROGRAMS}/python\nimport sys\n"
        for name, module in COMMANDS.items():
            text = f"{head}from {module} import main\nsys.exit(main())\n"
            self.write(f"{PROGRAMS}/{name}", text, mode=0o755)
        envoy = Path(sys.executable).with_name("envoy").read_text()
        self.write(f"{PROGRAMS}/envoy", f"#!{PROGRAMS}/python\n{envoy.partition(chr(10))[2]}", mode=0o755)
        library = sysconfig.get_config_var("INSTSONAME")
        if sysconfig.get_config_var("Py_ENABLE_SHARED") and library:
            self.link(f"/usr/local/lib/{library}", f"/opt/isthmus/python/lib/{library}")
        self._run(["chroot", str(self.path), "ldconfig"])
        # What happens to be enabled on this host is no part of a machine: a Docker engine would fail in it.
        self._run(["rm", "-rf", *(self._inside(f"/etc/systemd/system/{target}.wants") for target in _STARTED)])
        for unit in _MASKED:
            self.link(f"/etc/systemd/system/{unit}", "/dev/null")
        self.link("/etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target")
        self.write("/etc/machine-id", "")
        self.write("/etc/hosts", "127.0.0.1 localhost\n")


def _binds() -> list[tuple[Path, str]]:
    """What of this installation a machine has, and where: its own paths may be hidden from units (ProtectHome)."""
    repository = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
    return [
        (Path(sys.base_prefix), "/opt/isthmus/python"),
        (Path(sysconfig.get_path("purelib")), "/opt/isthmus/packages"),
        (repository, "/opt/isthmus/src"),
    ]
