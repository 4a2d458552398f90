"""Virtual machines, with systemd, that join by following docs/vms.md, and what they survive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from clusters import manifests
from clusters.children import start_child
from clusters.ground import Hosts
from clusters.machine import PROGRAMS
from clusters.packages import all_unpacked, unpacked
from clusters.processes import ProcessFederation
from clusters.vm import Lan, Machine
from clusters.waiting import START, until_now
from federation.errors import TimedOut, Unavailable

pytestmark = pytest.mark.e2e

DOCS = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists()) / "docs"
PAGE, CONSUL_PAGE = DOCS / "vms.md", DOCS / "consul.md"
PAGE_SECONDS = 400
NAME = "echo.shop.global"
URL = f"http://{NAME}:8080/"
TOUCHED = ("/etc", "/var/lib/isthmus/host")


@pytest.fixture(scope="module")
def federation(topology: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessFederation]:
    """East and west on addresses that machines reach; their agents let machines in."""
    directory = tmp_path_factory.mktemp("v")
    try:
        ground = Hosts(lambda cluster: directory / cluster / "manifests")
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    federation = ProcessFederation(topology, directory, ground=ground)
    yield federation
    federation.stop()


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    try:
        lan = Lan(tmp_path_factory.mktemp("lan") / "lan.log")
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    yield lan
    lan.close()


@pytest.fixture(scope="module")
def machine(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Machine]]:
    """Makes machines that are switched off."""
    made: list[Machine] = []

    def make(name: str) -> Machine:
        try:
            made.append(Machine(name, lan, tmp_path_factory.mktemp(name)))
        except Unavailable as error:
            pytest.skip(f"{error.message}: run scripts/test as root")
        return made[-1]

    yield make
    for one in made:
        one.close()


def with_resolved(machine: Machine) -> None:
    """As most distributions come: programs ask systemd-resolved."""
    try:
        machine.disk.copy(unpacked("systemd-resolved"))
    except Unavailable as error:
        pytest.skip(str(error))
    machine.disk.link("/etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    machine.disk.link(
        "/etc/systemd/system/multi-user.target.wants/systemd-resolved.service",
        "/lib/systemd/system/systemd-resolved.service",
    )
    machine.disk.write("/etc/sysusers.d/resolved.conf", 'u systemd-resolve - "systemd Resolver"\n')


@pytest.fixture(scope="module")
def web(machine: Callable[[str], Machine]) -> Machine:
    web = machine("web-1")
    with_resolved(web)
    web.start()
    return web


def operator(federation: ProcessFederation, machine: Machine, folder: Path) -> dict[str, str]:
    """What the page presupposes: fedctl, and ssh and scp to the machine."""
    commands = folder / "bin"
    commands.mkdir()
    inside = " ".join(machine.inside(["sh", "-c"]))
    for name, text in {
        "ssh": f'test "$1" = root@{machine.name} && shift && exec {inside} "cd /root; $*"',
        "scp": 'eval "to=\\${$#}"\nwhile [ $# -gt 1 ]; do\n'
        f'test "$to" = root@{machine.name}: && {inside} "tee /root/kept-$1 > /root/$1" < "$1" || exit 1\nshift\ndone',
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    return {
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ISTHMUS_HOME": str(federation.directory / "home"),
    }


@dataclass(frozen=True)
class Story:
    """A machine that has joined by the page, and what stood on it before."""

    federation: ProcessFederation
    web: Machine
    before: dict[str, str]
    told: str


def called(machine: Machine, url: str = URL) -> str:
    """The cluster that answers a program of the machine; empty when none does."""
    done = machine.attempt("curl", "-fsS", "--max-time", "15", url)
    return str(json.loads(done.stdout)["cluster"]) if done.returncode == 0 else ""


def reaches(machine: Machine, what: str, url: str = URL) -> str:
    """The cluster that answers, once one does."""
    try:
        return str(until_now(lambda: called(machine, url), seconds=START, what=what))
    except TimedOut as error:
        told = machine.attempt("curl", "-sv", "--max-time", "15", url).stderr
        raise TimedOut(f"{error}\n{told}\n{machine.journal('isthmus-sidecar')[-3000:]}") from error


def fences(kind: str, text: str) -> list[str]:
    """What stands in a text in fences of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def script_of(kind: str, text: str) -> str:
    """The commands of a text, in its order."""
    return "\n".join(["set -eux", *fences(kind, text)])


def section(title: str, page: Path = PAGE) -> str:
    """A part of a page."""
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


JOINING = (
    *("1. The cluster lets machines in", "2. Invite it", "3. Install it", "4. Call a name"),
    "What was done to the machine",
)
"""What the story does of the page; tests/integration/test_wheel.py installs the programs by it."""


def follow(part: str, federation: ProcessFederation, machine: Machine, folder: Path) -> str:
    """Run the commands of parts of the page as the operator; what they say."""
    log = folder / "log"
    variables = [f"{k}={v}" for k, v in operator(federation, machine, folder).items()]
    page = start_child(["env", f"--chdir={folder}", *variables, "bash", "-c", script_of("sh", part)], log)
    try:
        until_now(lambda: page.poll() is not None, seconds=PAGE_SECONDS, what="the end of the page")
    except TimedOut:
        os.killpg(page.pid, signal.SIGKILL)
    told = log.read_text(errors="replace")
    assert page.wait() == 0, f"{told[-3000:]}\n{machine.journal('isthmus-sidecar')[-3000:]}"
    assert "Traceback" not in told
    return told


@pytest.fixture(scope="module")
def story(running: ProcessFederation, web: Machine, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """1. the federation  2. a machine  3. every command of the page, in its order."""
    before = web.disk.listing(TOUCHED)
    part = "\n".join(section(title) for title in JOINING)
    told = follow(part, running, web, tmp_path_factory.mktemp("page"))
    return Story(running, web, before, told)


def test_a_machine_joins_by_following_the_page(story: Story, fedctl: Fedctl) -> None:
    assert len(re.findall(r'"cluster": "', story.told)) == 2, "by both names"
    (row,) = fedctl.ok("vm", "list", "--cluster", "east", "-o", "json").json
    assert (row["name"], row["identity"], row["state"]) == ("web-1", "shop/web", "joined")
    assert row["address"] == story.web.address
    addresses = story.web("getent", "ahostsv4", NAME).split()
    assert addresses[0].startswith("240."), "by the redirect way"
    assert "127.0.0.55:15053" in story.web.disk.read("/etc/systemd/resolved.conf.d/zz-isthmus.conf")
    pid = story.web("systemctl", "show", "--property=MainPID", "--value", "isthmus-sidecar").strip()
    assert story.web("stat", "--format=%U", f"/proc/{pid}").strip() == "isthmus-sidecar", "a user of its own"


def test_it_survives_the_loss_of_its_agent_and_a_reboot_without_it(story: Story) -> None:
    """1. the agent is killed: calls go on  2. the power goes: it comes back from its disk  3. the agent is back."""
    reaches(story.web, "a call")
    kept = "cd /var/lib/isthmus/sidecar && grep -q echo addresses && grep -q echo view"
    until_now(lambda: story.web.attempt("sh", "-c", kept).returncode == 0, what="the name on the machine's disk")
    story.federation.kill("east-agent")
    try:
        assert called(story.web)
        story.web.reboot()
        reaches(story.web, "a call after a reboot, without an agent")
    finally:
        story.federation.restart("east-agent")
    asyncio.run(story.federation.wait_ready("east-agent"))


def test_it_survives_another_address_and_a_cut(story: Story, fedctl: Fedctl) -> None:
    """1. it gets another address, and tells it  2. the cable is pulled: look-ups go on  3. it is put in again."""
    story.web.readdress()

    def seen() -> bool:
        (row,) = fedctl.ok("vm", "list", "--cluster", "east", "-o", "json").json
        return bool(row["address"] == story.web.address)

    until_now(seen, seconds=START, what="the new address at the agent")
    reaches(story.web, "a call from the new address")
    story.web.cut()
    assert story.web("getent", "ahostsv4", NAME).startswith("240.")
    story.web.heal()
    reaches(story.web, "a call after the cut")


def test_what_was_done_to_it_is_taken_back(story: Story) -> None:
    """1. uninstalled, every file is as before  2. installed again with the used invitation: its key is enough."""
    bundle = story.web("cat", "/root/kept-web-1.yaml")
    story.web("fedctl", "vm", "uninstall")
    left = story.web.disk.listing(TOUCHED)
    assert left == story.before
    assert "240.64" not in story.web("nft", "list", "ruleset") + story.web("ip", "route", "show", "table", "local")
    assert story.web.attempt("getent", "ahostsv4", NAME).returncode != 0
    story.web("fedctl", "vm", "install", "-", text=bundle)
    reaches(story.web, "a call after it was installed again")


# --- a host whose programs read resolv.conf themselves, in the way that needs no rule


class Nameserver:
    """Answers every A question with one address."""

    def __init__(self, host: str, answer: str) -> None:
        self.host, self._answer = host, answer
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 53))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                data, peer = self._socket.recvfrom(4096)
                if data == b"end":
                    return
                query = dns.message.from_wire(data)
                reply = dns.message.make_response(query)
                if query.question[0].rdtype == dns.rdatatype.A:
                    reply.answer.append(dns.rrset.from_text(query.question[0].name, 5, "IN", "A", self._answer))
                self._socket.sendto(reply.to_wire(), peer)

    def close(self) -> None:
        self._socket.sendto(b"end", self._socket.getsockname())
        self._thread.join(timeout=30)
        self._socket.close()


OCCUPIED = """
import socket, subprocess, sys
everywhere = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
everywhere.bind(("0.0.0.0", 53))
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
raise SystemExit(subprocess.run(sys.argv[1:]).returncode)
"""


BURST = """
set -e
folder=/run/systemd/system/isthmus-resolver.service.d
mkdir -p $folder
printf "[Service]\\nExecStart=\\nExecStart=/bin/sh -c 'echo >> /run/started'\\n" > $folder/quick.conf
systemctl daemon-reload
touch /run/started
for i in 1 2 3 4 5 6 7 8; do
  until test "$(wc -l < /run/started)" -ge $i; do
    systemctl is-active --quiet isthmus-resolver.path
    echo "nameserver 192.0.2.$i" > /etc/resolv.conf
    sleep 0.1
  done
done
rm -r $folder
systemctl daemon-reload
until test "$(systemctl is-active isthmus-resolver.service)" = inactive; do sleep 0.1; done
systemctl is-active isthmus-resolver.path
"""
"""The file is written, and the unit started, more often than systemd starts one by default; and quickly, so that this
is so on a busy machine, too."""


@pytest.fixture
def nameserver(lan: Lan) -> Iterator[Nameserver]:
    made = Nameserver(lan.address, "198.51.100.7")
    yield made
    made.close()


def test_resolv_conf_and_the_loopback_way(
    story: Story, fedctl: Fedctl, machine: Callable[[str], Machine], lan: Lan, nameserver: Nameserver
) -> None:
    """1. refused, in one line  2. installed: all names  3. DHCP writes it often, and anew  4. undone: as it was."""
    plain = machine("db-1")
    first = f"# by DHCP\nsearch a.example\nnameserver {lan.address}\n"
    plain.disk.write("/etc/resolv.conf", first, mode=0o640)
    plain.start()
    before = plain.disk.listing(TOUCHED)
    bundle = fedctl.ok("vm", "bootstrap", "db-1", "--cluster", "east", "--namespace", "shop").out
    install = ("fedctl", "vm", "install", "-", "--way", "loopback")
    for refused, code in (
        (plain.attempt("setpriv", "--reuid=65534", *install, "-o", "json", text=bundle), "not_root"),
        (
            plain.attempt("unshare", "--net", "python", "-c", OCCUPIED, *install, "-o", "json", text=bundle),
            "dns_port_taken",
        ),
    ):
        assert json.loads(refused.stderr.splitlines()[-1])["error"]["code"] == code
    assert plain.disk.listing(TOUCHED) == before, "what is refused leaves nothing"
    plain(*install, text=bundle)
    reaches(plain, "a call by the loopback way")
    assert plain("getent", "ahostsv4", NAME).startswith("127.")
    assert plain("getent", "ahostsv4", "www.example").startswith("198.51.100.7")

    plain("timeout", "120", "sh", "-c", BURST, seconds=150)
    second = f"# by DHCP again\nsearch b.example\noptions rotate ndots:2\nnameserver {lan.address}\n"
    plain("sh", "-c", "cat > /etc/resolv.conf", text=second)
    try:
        until_now(lambda: "nameserver 127.0.0.55" in plain("cat", "/etc/resolv.conf"), what="the sidecar first again")
    except TimedOut as error:
        raise TimedOut(f"{error}\n{plain.journal('isthmus-resolver')}") from error
    assert "options ndots:2\n" in plain("cat", "/etc/resolv.conf")
    assert plain("cat", "/var/lib/isthmus/host/resolv.conf") == second
    assert called(plain)

    # More often than systemd starts a unit by default, each after the last one has ended.
    burst = """
    for i in $(seq 8); do
      until test "$(systemctl is-active isthmus-resolver.service)" = inactive; do sleep 0.05; done
      cat /etc/third > /etc/resolv.conf
      until grep -q 127.0.0.55 /etc/resolv.conf; do
        systemctl is-active --quiet isthmus-resolver.path || exit 1
        sleep 0.05
      done
    done
    """
    plain("sh", "-c", "cat > /etc/third", text=second)
    plain("timeout", "300", "sh", "-c", burst, seconds=330)
    assert plain("systemctl", "is-active", "isthmus-resolver.path").strip() == "active"
    plain("rm", "/etc/third")

    plain("fedctl", "vm", "uninstall")
    assert plain("cat", "/etc/resolv.conf") == second
    plain("sh", "-c", "cat > /etc/resolv.conf", text=first)
    assert plain.disk.listing(TOUCHED) == before


# --- a host on which NetworkManager says how names are resolved

NETWORKMANAGER = (
    *("network-manager", "libnm0", "libndp0", "libteamdctl0", "libnewt0.52"),
    *("libbluetooth3", "libmm-glib0", "dnsmasq-base"),
)
CONNECTION = """
[connection]
id=office
type=ethernet
interface-name=eth0
[ipv4]
method=manual
address1={machine}/24,{lan}
dns={lan}
[ipv6]
method=disabled
"""


def with_networkmanager(machine: Machine, lan: Lan, main: str) -> None:
    """As desktops and some servers come; `main`: of its configuration."""
    try:
        for files in all_unpacked(*NETWORKMANAGER).values():
            machine.disk.copy(files)
    except Unavailable as error:
        pytest.skip(str(error))
    folder = "/etc/NetworkManager"
    machine.disk.write(f"{folder}/conf.d/test.conf", f"[main]\n{main}\n")
    connection = CONNECTION.format(machine=machine.address, lan=lan.address)
    machine.disk.write(f"{folder}/system-connections/office.nmconnection", connection, mode=0o600)
    machine.disk.write("/etc/resolv.conf", "# nobody yet\n")
    for unit in ("dbus.service", "dbus.socket"):  # which other machines do without
        machine.disk.link(f"/etc/systemd/system/{unit}", f"/lib/systemd/system/{unit}")
    unit = "NetworkManager.service"
    machine.disk.link(f"/etc/systemd/system/multi-user.target.wants/{unit}", f"/lib/systemd/system/{unit}")
    machine.disk.write("/etc/sysusers.d/dnsmasq.conf", 'u dnsmasq - "dnsmasq"\n')


@pytest.mark.parametrize(
    ("name", "main", "written"),
    [
        ("nm-1", "", "/etc/NetworkManager/conf.d/zz-isthmus.conf"),
        ("nm-2", "dns=dnsmasq", "/etc/NetworkManager/dnsmasq.d/isthmus.conf"),
    ],
)
def test_networkmanager(
    story: Story,
    fedctl: Fedctl,
    machine: Callable[[str], Machine],
    lan: Lan,
    nameserver: Nameserver,
    name: str,
    main: str,
    written: str,
) -> None:
    """1. it is found by itself  2. ours and all other names  3. another nameserver, and a reboot  4. undone."""
    host = machine(name)
    with_networkmanager(host, lan, main)
    host.start()

    def resolves(answer: str) -> None:
        """Other names than ours get this answer."""
        told = ("getent", "ahostsv4", "www.example")
        until_now(lambda: host.attempt(*told).stdout.startswith(answer), seconds=START, what=f"{answer}")

    host("nmcli", "connection", "up", "office")
    resolves("198.51.100.7")
    before = host.disk.listing(TOUCHED)
    bundle = fedctl.ok("vm", "bootstrap", name, "--cluster", "east", "--namespace", "shop").out
    host("fedctl", "vm", "install", "-", text=bundle)
    assert host("test", "-e", written) == ""
    reaches(host, "a call")
    resolves("198.51.100.7")

    other = Nameserver(lan.alias(), "198.51.100.8")
    try:
        host("nmcli", "connection", "modify", "office", "ipv4.dns", other.host)
        host("nmcli", "device", "reapply", "eth0")
        resolves("198.51.100.8")
        assert called(host)
        host.reboot()
        host("nmcli", "connection", "up", "office")
        reaches(host, "a call after a reboot")
        resolves("198.51.100.8")
    finally:
        host("nmcli", "connection", "modify", "office", "ipv4.dns", lan.address)
        host("nmcli", "device", "reapply", "eth0")
        other.close()

    host("fedctl", "vm", "uninstall")
    resolves("198.51.100.7")
    assert host.attempt("getent", "ahostsv4", NAME).stdout.startswith("198.51.100.7"), "nobody knows ours any more"
    changed = {p for p, what in host.disk.listing(TOUCHED).items() if before.get(p) != what}
    assert changed <= {"/etc/NetworkManager/system-connections/office.nmconnection", "/etc/resolv.conf"}
    assert before.keys() <= host.disk.listing(TOUCHED).keys()


# --- what a machine offers itself


def test_a_service_of_a_machine_is_called_from_another_cluster(
    story: Story, fedctl: Fedctl, machine: Callable[[str], Machine], west: Caller, tmp_path: Path
) -> None:
    """1. a program on loopback  2. by the page: its services file  3. west calls it, by mutual TLS up to the machine's
    sidecar  4. by the page: it is taken out for good."""
    api = machine("api-1")
    with_resolved(api)
    api.start()
    start_workload(api, "api", cluster="on-a-machine", address="127.0.0.1", port=8081)
    before = api.disk.listing(("/etc/systemd", "/etc/isthmus"))
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    follow(section("What it offers itself"), story.federation, api, tmp_path / "in")

    try:
        answer = until_now(lambda: west.answers("api.shop.global"), seconds=START, what="an answer of the machine")
        assert answer == "on-a-machine"
    except TimedOut as error:
        raise TimedOut(f"{error}\n{api.journal('isthmus-sidecar')[-3000:]}\n{fedctl('status').out}") from error
    rows = fedctl.ok("get", "endpoints", "--from", "east", "-o", "json").json
    (row,) = [row for row in rows if row["service"] == "shop/api"]
    assert row["identity"].endswith("/ns/shop/sa/api"), "the only way in is mutual TLS: it listens on loopback"
    assert (row["address"], row["source"]) == (api.address, "vm api-1")

    follow(section("Take it out for good"), story.federation, api, tmp_path / "out")
    assert "api-1" not in fedctl.ok("vm", "list", "--cluster", "east").out
    left = set(api.disk.listing(("/etc/systemd", "/etc/isthmus"))) - set(before)
    assert left == {"/etc/isthmus/services.yaml"}, "what was copied there by hand"


# --- a cluster of plain hosts


def start_workload(machine: Machine, unit: str, *, cluster: str, address: str, port: int) -> None:
    """The HTTP echo, as a program of the machine."""
    words = [f"--cluster={cluster}", f"--address={address}", f"--port={port}"]
    machine("systemd-run", f"--unit={unit}", f"{PROGRAMS}/python", "-m", "clusters.workloads", "http", *words)


def test_a_cluster_of_plain_hosts_by_the_page(
    machine: Callable[[str], Machine], consul_program: Path, tmp_path: Path
) -> None:
    """1. registry, agent, gateway and sidecar by their units  2. a service by its name  3. killed, each comes back
    4. the agent reads a Consul with a token and writes a rule, under its unit  5. Consul's names beside ours."""
    host = machine("host-1")
    with_resolved(host)
    host.start()
    host("bash", "-c", script_of("bash", PAGE.read_text()).replace("192.0.2.10", host.address), seconds=PAGE_SECONDS)
    start_workload(host, "echo", cluster="east", address=host.address, port=8081)
    copy = manifests.Copy(address=host.address, port=8081, zone="")
    service, _, slice_ = manifests.exported("shop", "echo", port=8080, app="http", copy=copy)
    into = "cd /var/lib/isthmus/manifests && cat > .echo && mv .echo echo.yaml"
    host("sh", "-c", into, text=manifests.render(service, slice_).decode())
    until_now(
        lambda: host.attempt("fedctl", "export", "shop/echo", "--cluster", "east").returncode == 0,
        what="an export, which the agent writes into its folder",
    )
    assert "serviceexport.shop.echo.yaml" in host("ls", "/var/lib/isthmus/manifests")
    reaches(host, "a call of the host's own service")
    invited = host("fedctl", "vm", "bootstrap", "vm-2", "--cluster", "east", "--namespace", "shop", "--account", "web")
    assert f"{host.address}:7446" in invited, "where it was told to let machines in"
    units = [f"isthmus-{kind}.service" for kind in ("registry", "agent", "gateway", "sidecar")]
    for unit in units:
        host("sh", "-c", f"kill -9 $(systemctl show -p MainPID --value {unit})")
    until_now(
        lambda: host.attempt("systemctl", "is-active", *units).stdout.split() == ["active"] * 4,
        seconds=START,
        what="every unit again",
    )
    reaches(host, "a call after that")
    host("fedctl", "status", "--wait")
    with_consul(host, consul_program, tmp_path)
    try:
        host("bash", "-c", script_of("bash", CONSUL_PAGE.read_text()), seconds=PAGE_SECONDS)
    except Unavailable as error:
        raise Unavailable(f"{error}\n{host.journal('isthmus-agent')[-3000:]}") from error
    start_workload(host, "db", cluster="east", address=host.address, port=8082)
    host("consul", "services", "register", f"-address={host.address}", "-name=db", "-port=8082", f"-token={MANAGEMENT}")
    until_now(
        lambda: host.attempt("fedctl", "export", "legacy/db", "--cluster", "east").returncode == 0,
        seconds=START,
        what="an export, which the agent writes into its file of rules",
    )
    assert "db" in host("cat", "/etc/isthmus/consul/exports.yaml")
    reaches(host, "a call of a service of Consul", "http://db.legacy.global:8082/")
    told = host("getent", "ahostsv4", "db.service.consul")
    assert told.startswith(host.address), "Consul's own names, beside ours"


MANAGEMENT, READING = "8d6ad8a0-6c3f-4d0a-8a4e-6e1d7f4f2a11", "0f0b0f6e-9a43-4c57-9d54-1c6b3d0c7e22"
"""Tokens of a Consul that is gone with its machine."""
CONSUL = f"""
acl {{
  enabled = true
  default_policy = "deny"
  tokens {{
    initial_management = "{MANAGEMENT}"
    default = "{MANAGEMENT}"
  }}
}}
"""


def with_consul(host: Machine, program: Path, folder: Path) -> None:
    """A Consul that asks for tokens, and one that may what the page says, in the folder where commands run."""
    disk = folder / "disk"  # the mode of which becomes that of the machine's root
    (disk / "usr/local/bin").mkdir(parents=True)
    shutil.copy(program, disk / "usr/local/bin/consul")
    disk.chmod(0o755)
    host.disk.copy(disk)
    host.disk.write("/etc/consul.hcl", CONSUL)
    words = ("-dev", "-datacenter=dc1", f"-advertise={host.address}", "-config-file=/etc/consul.hcl")
    host("systemd-run", "--unit=consul", "/usr/local/bin/consul", "agent", *words)
    (policy,) = fences("hcl", CONSUL_PAGE.read_text())
    management = f"-token={MANAGEMENT}"
    made = ("consul", "acl", "policy", "create", management, "-name=isthmus", "-rules=-")
    until_now(lambda: host.attempt(*made, text=policy).returncode == 0, seconds=START, what="a Consul with its leader")
    host("consul", "acl", "token", "create", management, "-policy-name=isthmus", f"-secret={READING}")
    host("sh", "-c", "cat > /consul.token", text=READING)


class Caller(Protocol):
    """See conftest."""

    def answers(self, name: str) -> str: ...


class Fedctl(Protocol):
    """See conftest."""

    def __call__(self, *words: str) -> Any: ...
    def ok(self, *words: str) -> Any: ...
