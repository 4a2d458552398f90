"""Network namespaces of this machine, for what needs a network of its own: rules, addresses, listeners everywhere."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from clusters.network import Claims
from federation.errors import Unavailable

_ENTERED = "ISTHMUS_OWN_NETWORK"


class NetworkNamespace:
    """A network namespace in which only loopback is up, and with `uplink` a pair of interfaces to this one.

    `wrap` before a command runs it inside. With `uplink`, this side has the address `outside` and the other `inside`.
    Raises Unavailable where the rights or the tools (ip, nft) are missing.
    """

    def __init__(self, *, uplink: bool = False) -> None:
        if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nft"):
            raise Unavailable("a network namespace needs root, ip (iproute2) and nft (nftables)")
        tag = secrets.token_hex(4)
        self.name, self._link = f"isthmus-{tag}", f"is{tag}"
        self.wrap = ["ip", "netns", "exec", self.name]
        self.outside = self.inside = "127.0.0.1"
        self._claims = Claims()
        run(f"ip netns add {self.name}")
        try:
            run(f"ip -n {self.name} link set lo up")
            if uplink:
                self._connect()
        except Unavailable:
            self.close()
            raise

    def _connect(self) -> None:
        net = free_network(self._claims)
        self.outside, self.inside = f"{net}.1", f"{net}.2"
        inner = f"{self._link}i"
        for command in (
            f"ip link add {self._link} type veth peer name {inner} netns {self.name}",
            f"ip addr add {self.outside}/30 dev {self._link}",
            f"ip link set {self._link} up",
            f"ip -n {self.name} addr add {self.inside}/30 dev {inner}",
            f"ip -n {self.name} link set {inner} up",
        ):
            run(command)

    def cut(self) -> None:
        """Pull the cable of the uplink: packets are lost on the way, and no end of a connection is told."""
        run(f"ip -n {self.name} link set {self._link}i down")

    def mend(self) -> None:
        """Undo `cut`."""
        run(f"ip -n {self.name} link set {self._link}i up")

    def python(self, code: str, *arguments: str) -> str:
        """What `code` prints, run inside by this interpreter; raises Unavailable with what it says when it fails."""
        done = subprocess.run(
            [*self.wrap, sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"inside {self.name}: {done.stderr.strip()}")
        return done.stdout

    def close(self) -> None:
        """Remove it; what still runs inside keeps its network until it ends."""
        for command in (f"ip link del {self._link}", f"ip netns del {self.name}"):
            with contextlib.suppress(Unavailable):
                run(command)
        self._claims.close()


class BridgedNamespace(NetworkNamespace):
    """One that is a machine of its own in a network which has `bridge` of this machine as its switch.

    `outside` is this machine's address there. Its programs ask the resolver that `resolve_by` has named. The containers
    of Docker have such networks; the addresses that Docker gives out begin at the other end.
    """

    def __init__(self, bridge: str, network: IPv4Network, outside: str) -> None:
        self._bridge, self._network = bridge, network
        super().__init__(uplink=True)
        self.outside = outside

    def _connect(self) -> None:
        self.inside = self._take()
        inner = f"{self._link}i"
        for command in (
            f"ip link add {self._link} type veth peer name {inner} netns {self.name}",
            f"ip link set {self._link} master {self._bridge}",
            f"ip link set {self._link} up",
            f"ip -n {self.name} addr add {self.inside}/{self._network.prefixlen} dev {inner}",
            f"ip -n {self.name} link set {inner} up",
        ):
            run(command)

    def _take(self) -> str:
        last = int(self._network.broadcast_address)
        for number in range(last - 1, max(last - 256, int(self._network.network_address) + 1), -1):
            if self._claims.take(f"addresses/{IPv4Address(number)}"):
                return str(IPv4Address(number))
        raise Unavailable(f"every address at the end of {self._network} is claimed")

    def resolve_by(self, address: str) -> None:
        """Programs that are started with `wrap` from now on ask the DNS server there."""
        self._files.mkdir(parents=True, exist_ok=True)
        (self._files / "resolv.conf").write_text(f"nameserver {address}\n")

    @property
    def _files(self) -> Path:
        """What `ip netns exec` shows instead of the same files in /etc: ip-netns(8)."""
        return Path("/etc/netns") / self.name

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._files, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._files.parent.rmdir()


class LocalNetwork:
    """A /24 of which every address is this machine's own, for servers that a Kubernetes cluster is told of.

    Its API takes no endpoint on loopback, and no other machine is routed here. Raises Unavailable without the rights.
    """

    def __init__(self) -> None:
        self._claims = Claims()
        self._net = free_network(self._claims)
        try:
            run("ip link set lo up")
            run(f"ip route replace local {self._net}.0/24 dev lo")
        except (Unavailable, OSError) as error:
            self._claims.close()
            raise Unavailable(
                f"no network of our own: {error}", hint="it needs ip (iproute2), and root or a user namespace"
            ) from error

    def addresses(self) -> Iterator[str]:
        """Each address of it."""
        return (f"{self._net}.{host}" for host in range(1, 255))

    def close(self) -> None:
        """Take it away again."""
        with contextlib.suppress(Unavailable):
            run(f"ip route del local {self._net}.0/24 dev lo")
        self._claims.close()


def enter_own_network() -> None:
    """Where we are not root: run this program anew in a user and network namespace in which we are.

    Returns in that program, and where we are root at once. Raises Unavailable where such namespaces are not allowed.
    """
    if os.geteuid() == 0:
        return
    command = ["unshare", "--map-root-user", "--net"]
    try:
        run(" ".join([*command, "true"]))
    except (Unavailable, OSError) as error:
        raise Unavailable(
            f"no network of our own: {error}", hint="run it as root, or where user namespaces are allowed"
        ) from error
    os.environ[_ENTERED] = "1"
    os.execvp(command[0], [*command, *sys.orig_argv])  # noqa: S606 - no shell


def in_own_network() -> bool:
    """Whether `enter_own_network` has started us: others enter it with nsenter(1)."""
    return _ENTERED in os.environ


def free_network(claims: Claims) -> str:
    """The first three numbers of a /24 of 10.203.0.0/16 which nobody else of ours has."""
    for number in random.sample(range(256), 256):
        if claims.take(f"addresses/10.203.{number}"):
            return f"10.203.{number}"
    raise Unavailable("every network of 10.203.0.0/16 is claimed")


def run(command: str) -> None:
    """Run a command without arguments that need quotes; raises Unavailable with what it says when it fails."""
    done = subprocess.run(command.split(), check=False, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise Unavailable(f"{command}: {done.stderr.strip()}")
