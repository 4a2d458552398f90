from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters.vm import Lan, Machine
from clusters.waiting import until_now
from federation.errors import Unavailable

pytestmark = pytest.mark.integration

REACH = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1).close()"


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    try:
        lan = Lan(tmp_path / "lan.log")
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    yield lan
    lan.close()


@pytest.fixture
def machine(lan: Lan, tmp_path: Path) -> Iterator[Machine]:
    try:
        machine = Machine("web-1", lan, tmp_path)
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    yield machine
    machine.close()


def test_a_machine_lives_is_cut_off_moves_and_loses_its_power(lan: Lan, machine: Machine) -> None:
    """1. it runs isthmus  2. it reaches this host, and not when cut  3. it moves  4. its disk outlasts a reboot."""
    with pytest.raises(Unavailable, match="switched off"):
        machine("true")
    machine.start()
    with pytest.raises(Unavailable, match="runs already"):
        machine.start()
    assert machine("fedctl", "--version").startswith("fedctl ")
    assert machine("hostname").strip() == "web-1"
    with pytest.raises(Unavailable, match="status 3: no such luck"):
        machine("sh", "-c", "echo no such luck >&2; exit 3")

    with socket.create_server((lan.address, 0)) as server:
        port = str(server.getsockname()[1])

        def reached() -> str:
            if machine.attempt("python", "-c", REACH, lan.address, port).returncode:
                return ""
            connection, (peer, _) = server.accept()
            connection.close()
            return str(peer)

        assert until_now(reached, what="a connection") == machine.address
        machine.cut()
        assert not reached()
        machine.heal()
        assert until_now(reached, what="a connection after the cut") == machine.address
        old = machine.address
        machine.readdress()
        assert machine.address != old
        assert until_now(reached, what="a connection from the new address") == machine.address

    machine("sh", "-c", "echo kept > /var/lib/kept; echo lost > /run/lost; systemd-run -q --unit=sleeper sleep 1000")
    machine.reboot()
    assert machine.disk.read("/var/lib/kept") == "kept\n"
    assert machine.attempt("test", "-e", "/run/lost").returncode != 0
    assert machine.attempt("systemctl", "is-active", "sleeper").stdout.strip() == "inactive"


KILLED = """
import os, signal, sys
from pathlib import Path
from clusters.vm import Lan, Machine
lan = Lan(Path(sys.argv[1]) / "lan.log")
machine = Machine("web-1", lan, Path(sys.argv[1]))
machine.start()
first = machine.inside(["true"])[1].partition("=")[2]
print(lan.pid, machine.disk.pid, first, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_of_it(lan: Lan, machine: Machine) -> None:
    mounts = Path("/proc/self/mounts")
    machine.disk.write("/etc/mark", "x")
    assert not Path("/etc/mark").exists()
    assert not machine.disk.path.exists()
    assert str(machine.disk.path) not in mounts.read_text(), "its mounts are seen by its keeper only"
    machine.close()
    machine.close()  # again changes nothing


def test_it_does_not_outlive_who_started_it(machine: Machine, tmp_path: Path) -> None:
    """The harness is killed with -9: the network, the disk and all that ran in the machine end."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "other"], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9, done.stderr
    pids = done.stdout.split()
    assert len(pids) == 3
    until_now(lambda: not [pid for pid in pids if running(pid)], what="the end of everything")


def running(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"  # somebody has yet to bury it


def test_files_of_a_switched_off_machine(machine: Machine) -> None:
    disk = machine.disk
    disk.write("/etc/new/file", "text\n", mode=0o640)
    disk.link("/etc/new/link", "../file")
    listing = disk.listing(["/etc/new"])
    assert listing["/etc/new/file"].startswith("f 640 0 ")
    assert listing["/etc/new/link"].startswith("l 777 0 ../file")
    disk.write("/etc/new/file", "other\n", mode=0o640)
    assert disk.listing(["/etc/new"]) != listing
    assert disk.read("/etc/new/file") == "other\n"
    with pytest.raises(Unavailable, match="No such file"):
        disk.read("/etc/none")
