"""Virtual machines for tests: real systemd in namespaces of its own, with a network that can be cut and re-addressed.

A machine is a container of systemd-nspawn: its own processes, users, /run and network; its disk (clusters.machine)
outlasts a `reboot`, which kills everything at once. A Lan joins machines with this host, which has its `.1`. All of it
lives in namespaces that are gone with the processes that hold them: nothing is left on this host, however a test ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from clusters.children import start_child
from clusters.machine import PROGRAMS, MachineRoot
from clusters.namespace import free_network, run
from clusters.network import Claims
from clusters.processes import children
from clusters.waiting import START, until_now
from federation.errors import TimedOut, Unavailable


class Lan:
    """A network of machines, a bridge in a namespace of its own. This host is `address` in it.

    Raises Unavailable without root or ip (iproute2).
    """

    def __init__(self, log: Path) -> None:
        if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
            raise Unavailable("a network of machines needs root, ip (iproute2) and unshare (util-linux)")
        self._claims = Claims()
        self.net = free_network(self._claims)
        self.address = f"{self.net}.1"
        self._next = 1
        log.unlink(missing_ok=True)  # what an earlier one said is no answer
        self._keeper = start_child(["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"], log)
        self.pid = self._keeper.pid
        self._port = port = f"is{secrets.token_hex(4)}"
        try:
            until_now(lambda: log.exists() and "ready" in log.read_text(errors="replace"), what="a network namespace")
            for command in (
                f"ip link add {port} type veth peer name host netns {self.pid}",
                f"ip addr add {self.address}/24 dev {port}",
                f"ip link set dev {port} up",
                f"{self.enter}ip link add bridge type bridge",
                f"{self.enter}ip link set dev bridge up",
                f"{self.enter}ip link set dev host master bridge",
                f"{self.enter}ip link set dev host up",
            ):
                run(command)
        except Exception:
            self.close()
            raise

    @property
    def enter(self) -> str:
        """What a command begins with that is to run at the bridge."""
        return f"nsenter --target={self.pid} --net "

    def take(self) -> str:
        """An address that no machine has yet."""
        self._next += 1
        return f"{self.net}.{self._next}"

    def alias(self) -> str:
        """One more address of this host."""
        address = self.take()
        run(f"ip addr add {address}/24 dev {self._port}")
        return address

    def close(self) -> None:
        """Take it away: the namespace goes with its last process, and the pairs of interfaces with it."""
        self._keeper.kill()
        self._keeper.wait(timeout=30)
        self._claims.close()


class Machine:
    """One machine in a Lan; `address` is what it has there. It is made switched off: see `start`.

    Raises Unavailable without root, the tools, or a kernel that lets us do it.
    """

    def __init__(self, name: str, lan: Lan, logs: Path) -> None:
        self.name, self._lan, self._log = name, lan, logs / f"{name}.log"
        self.disk = MachineRoot(logs / f"{name}-disk.log")
        self.address = lan.take()
        self._container: subprocess.Popen[bytes] | None = None
        self._leader = 0
        """The process that is the machine's first one, while it is on."""
        self._depth = len(_namespaces(Path("/proc/self/status")))
        self._port = f"m{secrets.token_hex(4)}"
        try:
            run(f"{lan.enter}ip link add {self._port} type veth peer name eth0 netns {self.disk.pid}")
            run(f"{lan.enter}ip link set dev {self._port} master bridge")
            self.disk.write("/etc/hostname", f"{name}\n")
            self._configure()
        except Exception:
            self.close()
            raise

    # --- its life

    def start(self) -> None:
        """Switch it on, and wait until systemd has started everything."""
        if self.alive:
            raise Unavailable(f"{self.name} runs already")
        command = [
            # The container does not die with systemd-nspawn, but everything does with the first process of a namespace.
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            "--console=pipe",
            "--capability=CAP_NET_ADMIN",
            f"--machine={self.name}",
            f"--directory={self.disk.path}",
            "--network-namespace-path=/proc/self/ns/net",
            "--boot",
            "systemd.journald.forward_to_console=1",
        ]
        self._container = start_child(self.disk.outside(command), self._log)
        # Looked for once: a list of children that the kernel makes while one of them ends may lack others.
        self._leader = until_now(
            lambda: self._check() and self._first(), seconds=START, what=f"{self.name} switched on"
        )
        told = until_now(self._booted, seconds=START, what=f"systemd of {self.name}")
        if told == "degraded":
            raise Unavailable(
                f"{self.name} has failed units: {self('systemctl', '--failed', '--plain', '--no-legend')}"
            )

    def kill(self) -> None:
        """Everything in it ends at once, as when the power goes. Its disk stays."""
        if self._container is None:
            return
        leader, self._leader = self._leader, 0
        if leader and self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, signal.SIGKILL)
        self._container.kill()
        self._container.wait(timeout=30)
        self._container = None

    def reboot(self) -> None:
        """Power off and on again: what it had in /run and /tmp is gone, and nothing was told to end."""
        self.kill()
        self.start()

    @property
    def alive(self) -> bool:
        return self._container is not None and self._container.poll() is None

    def close(self) -> None:
        """Take it away, disk and all."""
        self.kill()
        self.disk.close()

    # --- its network

    def readdress(self) -> None:
        """Give it another address, as a DHCP server might: connections to the old one lead nowhere."""
        old, self.address = self.address, self._lan.take()
        run(f"{self._net}ip addr del {old}/24 dev eth0")
        self._configure()

    def cut(self) -> None:
        """Pull the cable: packets are lost in both directions, and nothing is told."""
        run(f"{self._lan.enter}ip link set dev {self._port} nomaster")

    def heal(self) -> None:
        """Put it in again."""
        run(f"{self._lan.enter}ip link set dev {self._port} master bridge")

    @property
    def _net(self) -> str:
        return f"nsenter --target={self.disk.pid} --net "

    def _configure(self) -> None:
        for command in (
            f"{self._lan.enter}ip link set dev {self._port} up",
            f"{self._net}ip link set dev lo up",
            f"{self._net}ip addr add {self.address}/24 dev eth0",
            f"{self._net}ip link set dev eth0 up",
            f"{self._net}ip route replace default via {self._lan.address}",
        ):
            run(command)

    # --- what runs in it

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """`command` so that it runs in the machine, as root. Raises Unavailable when it is switched off."""
        if not self._leader or not self.alive:
            raise Unavailable(f"{self.name} is switched off")
        path = f"PATH={PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        clean = ["env", "--chdir=/", "-i", path, "HOME=/root", "LC_ALL=C.UTF-8"]
        return ["nsenter", f"--target={self._leader}", "--all", "--", *clean, *map(str, command)]

    def __call__(self, *command: str, text: str = "", seconds: float = START) -> str:
        """What the command prints; raises Unavailable with what it says when it fails."""
        done = self.attempt(*command, text=text, seconds=seconds)
        if done.returncode:
            told = (done.stderr.strip() or done.stdout.strip())[-1500:]
            raise Unavailable(f"{self.name}: {' '.join(command)[:200]}: status {done.returncode}: {told}")
        return done.stdout

    def attempt(self, *command: str, text: str = "", seconds: float = START) -> subprocess.CompletedProcess[str]:
        """Run the command, whatever comes of it; raises TimedOut when nothing does."""
        try:
            return subprocess.run(
                self.inside(command), input=text, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"{self.name}: {' '.join(command)[:200]} took longer than {seconds:g} s") from error

    def journal(self, unit: str) -> str:
        """What a unit has said since the machine was switched on."""
        return self("journalctl", "--no-pager", "-o", "cat", "-b", "-u", unit)

    def _check(self) -> bool:
        if not self.alive:
            raise Unavailable(f"{self.name} ended: {self._log.read_text(errors='replace')[-500:]}")
        return True

    def _booted(self) -> str:
        self._check()
        state = self.attempt("systemctl", "is-system-running").stdout.strip()
        return state if state in ("running", "degraded") else ""

    def _first(self) -> int:
        """The process that is the machine's first one, two namespaces below ours, or 0."""
        assert self._container is not None  # noqa: S101 - who asks has seen it alive
        waiting = [self._container.pid]
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(OSError):
                found = _namespaces(Path(f"/proc/{pid}/status"))
                if found[-1] == "1" and len(found) > self._depth + 1:
                    return pid
                waiting += children(pid)
        return 0


def _namespaces(status: Path) -> list[str]:
    """The numbers of a process in each of its process namespaces, ours first."""
    return next(line.split()[1:] for line in status.read_text().splitlines() if line.startswith("NSpid:"))
