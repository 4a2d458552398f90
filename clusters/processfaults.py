"""Faults of clusters whose processes run on this machine, on folders or on API servers.

Processes are killed and stopped as they are. What takes more than that is there with a `Separation`: packets are lost
by rules in a chain of our own, state is on a disk that can be filled, an agent's clock is read from a file.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from clusters.apiserver import LocalCluster, Part
from clusters.faults import NotSupported, check_share, check_slow
from clusters.ground import ApiServers
from clusters.processes import ProcessFederation
from clusters.separation import gone
from clusters.waiting import START
from federation.errors import NotFound, Unavailable

BALLAST = ".isthmus-ballast"
LARGEST = 1 << 30
"""Bytes of a disk that may be filled: larger ones are the machine's."""
KUBERNETES: tuple[Part, ...] = ("etcd", "apiserver", "controllers")
_PIECE = 1 << 16


class ProcessFaults:
    """Faults of one federation; `part` is the name of a process without its cluster's, or a part of its API server."""

    def __init__(self, federation: ProcessFederation, *, rng: random.Random | None = None) -> None:
        self._federation, self._rng = federation, rng or random.Random()
        self._paused: set[str] = set()
        self._chain = f"ISTHMUS-{os.getpid()}-{id(self) & 0xFFFF:x}"
        self._lossy = False

    # --- processes ---------------------------------------------------------------------------------------------------

    async def kill(self, cluster: str, part: str = "") -> float:
        """Its processes with their Envoys; without a part, of API servers too."""
        moment = time.monotonic()
        if part in KUBERNETES:
            return self._api(cluster, part).kill(_part(part))
        for name in self._names(cluster, part):
            with contextlib.suppress(Unavailable):
                self._federation.kill(name)
        if not part and (api := self._apis().get(cluster)) is not None:
            for one in api.parts:
                api.kill(one)
        return moment

    async def pause(self, cluster: str, part: str = "") -> float:
        if part in KUBERNETES:
            return self._api(cluster, part).pause(_part(part))
        names = self._names(cluster, part)
        moment = self._federation.pause(cluster, *names)
        self._paused |= set(names)
        if not part and (api := self._apis().get(cluster)) is not None:
            for one in api.parts:
                api.pause(one)
        return moment

    # --- the network -------------------------------------------------------------------------------------------------

    async def partition(self, a: str, b: str, *, one_way: bool = False) -> float:
        """By whose process sends: each connects from the same address. What passes through the registry goes on."""
        rules: list[str] = []
        for source, target in ((a, b), (b, a))[: 1 if one_way else 2]:
            rules += self._lost(source, target)
        self._add(rules)
        return time.monotonic()

    def _lost(self, a: str, b: str) -> list[str]:
        """What `a` sends to where `b` listens, and its answers on connections that `b` has opened to it."""
        mark = self._rng.randrange(1, 1 << 31)
        here, there = self._place(a), self._place(b)
        return [
            f"-m cgroup --path {self._group(a)} -d {there} -j DROP",
            f"-m cgroup --path {self._group(b)} -d {here} -j CONNMARK --set-mark {mark}",
            f"-m connmark --mark {mark} -m conntrack --ctdir REPLY -j DROP",
        ]

    async def drop(self, cluster: str, share: float) -> float:
        """Of what others, this machine's clients too, send to where it listens."""
        lost = f"-m statistic --mode random --probability {check_share(share):.6f} -j DROP"
        self._add([f"-d {self._place(cluster)} -m cgroup ! --path {self._group(cluster)} {lost}"])
        return time.monotonic()

    async def slow(self, cluster: str, *, delay: float = 0.0, rate: int = 0) -> float:
        check_slow(delay, rate)
        raise NotSupported(
            "clusters of one machine share its loopback interface, whose queue is everybody's",
            hint="clusters of containers have interfaces of their own",
        )

    def _add(self, rules: list[str]) -> None:
        if not self._lossy:
            _iptables(f"-N {self._chain}")
            self._lossy = True
            _iptables(f"-I OUTPUT 1 -o lo -j {self._chain}")
        for rule in rules:
            _iptables(f"-A {self._chain} {rule}")

    # --- disks and clocks --------------------------------------------------------------------------------------------

    async def disk_full(self, cluster: str, part: str = "") -> float:
        """All processes of the cluster share its disk."""
        folder = self._folder(cluster)
        disk = os.statvfs(folder)
        if disk.f_frsize * disk.f_blocks > LARGEST:
            raise NotSupported(
                f"the state of {cluster} is on this machine's own disk",
                hint="give the federation a Separation with disks",
            )
        fill(folder / BALLAST)
        return time.monotonic()

    async def clock(self, cluster: str, seconds: float) -> float:
        """Of its agent's wall clock, within a second; what measures durations is left alone."""
        separation = self._federation.separation
        if separation is None or not separation.has_clocks:
            raise NotSupported(
                f"{cluster} has the clock of this machine", hint="give the federation a Separation with clocks"
            )
        self._place(cluster)
        separation.clock(cluster).write_text(f"{seconds:+f}\n")
        return time.monotonic()

    # --- healing -----------------------------------------------------------------------------------------------------

    async def heal(self) -> None:
        federation = self._federation
        if self._lossy:
            remove_chain(self._chain)
            self._lossy = False
        sweep()
        for cluster in federation.places:
            with contextlib.suppress(FileNotFoundError):
                (self._folder(cluster) / BALLAST).unlink()
            if federation.separation is not None and federation.separation.has_clocks:
                federation.separation.clock(cluster).write_text("+0\n")
            federation.resume(cluster)
        self._paused.clear()
        for api in self._apis().values():
            await api.heal()
        ended = [name for name, running in federation.running.items() if not running.alive]
        for name in ended:
            federation.restart(name)
        await federation.wait_ready(*federation.running, timeout=START)

    # --- who and where -----------------------------------------------------------------------------------------------

    def _names(self, cluster: str, part: str) -> list[str]:
        self._place(cluster)
        own = {name.removeprefix(f"{cluster}-"): name for name in self._federation.running if name.startswith(cluster)}
        if part and part not in own:
            raise NotFound(f"{cluster} has no part {part}", hint=f"one of {', '.join(own)}")
        return [own[part]] if part else list(own.values())

    def _place(self, cluster: str) -> str:
        """Where it listens; raises NotFound."""
        if cluster not in self._federation.places:
            known = ", ".join(self._federation.places)
            raise NotFound(f"there is no cluster {cluster}", hint=f"one of {known}", code="no_cluster")
        return self._federation.places[cluster].address

    def _folder(self, cluster: str) -> Path:
        self._place(cluster)
        return self._federation.places[cluster].directory

    def _group(self, cluster: str) -> str:
        self._place(cluster)
        separation = self._federation.separation
        if separation is None or not separation.group(cluster):
            raise NotSupported(
                "processes of one machine connect from one address: whose packet it is nobody sees",
                hint="give the federation a Separation with a network",
            )
        return separation.group(cluster)

    def _apis(self) -> Mapping[str, LocalCluster]:
        ground = self._federation.ground
        return ground.clusters if isinstance(ground, ApiServers) else {}

    def _api(self, cluster: str, part: str) -> LocalCluster:
        self._place(cluster)
        found = self._apis().get(cluster)
        if found is None or part not in found.parts:
            raise NotFound(f"{cluster} has no part {part}: no API server of ours describes it")
        return found


def fill(path: Path) -> None:
    """Write to `path` until its disk takes nothing more."""
    with path.open("ab", buffering=0) as file:
        for piece in (_PIECE, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(piece))


def sweep() -> None:
    """Remove the chains of harnesses that were killed before they healed."""
    with contextlib.suppress(OSError, Unavailable):
        for chain in re.findall(r"^-N (ISTHMUS-\d+-\S+)$", _iptables("-S"), re.MULTILINE):
            if gone(chain):
                remove_chain(chain)


def remove_chain(chain: str) -> None:
    """Take it out, whatever is in it. Raises Unavailable."""
    for words in (f"-D OUTPUT -o lo -j {chain}", f"-F {chain}", f"-X {chain}"):
        _iptables(words)


def _iptables(words: str) -> str:
    done = subprocess.run(
        ["iptables", "--wait", *words.split()], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode:
        raise Unavailable(f"iptables {words}: {done.stderr.strip()}")
    return done.stdout


def _part(part: str) -> Part:
    return next(one for one in KUBERNETES if one == part)
