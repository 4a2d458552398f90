"""A federation of processes on this machine: registry, agents, gateways, sidecars and workloads, on loopback.

Everything is started the way a person would start it (settings files, the modules' own entry points), runs in a session
of its own, logs to a file, is ended by `stop` whatever state it is in, and does not outlive this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from clusters import manifests
from clusters.children import start_child
from clusters.ground import Folders, Ground
from clusters.network import free_port, loopback_addresses, virtual_ranges
from clusters.program import last_line
from clusters.separation import Separation
from clusters.topology import ECHO, KV, ClusterSpec, Topology
from clusters.waiting import START
from discovery.settings import SETTINGS_FILE
from federation.cli.home import Home
from federation.errors import TimedOut, Unavailable

NAMESPACE = "shop"
HTTP_SERVICE, HTTP_PORT = ECHO.name, ECHO.port
TCP_SERVICE, TCP_PORT = KV.name, KV.port


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The addresses and folders of one cluster."""

    spec: ClusterSpec
    directory: Path
    address: str
    agent_port: int
    gateway_port: int
    http_port: int
    tcp_port: int
    dns_port: int
    """Of the sidecar."""
    agent_dns_port: int
    virtual_range: str
    metrics: dict[str, int]

    @property
    def manifests(self) -> Path:
        return self.directory / "manifests"

    @property
    def agent(self) -> Path:
        return self.directory / "agent"


@dataclass(slots=True)
class Running:
    """A process that was started, and how to start it again."""

    name: str
    arguments: tuple[str, ...]
    log: Path
    ready_url: str | None
    process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class ProcessFederation:
    """Builds, breaks and heals one federation below `directory` (which should have a short path: UNIX sockets)."""

    def __init__(
        self,
        topology: Topology,
        directory: Path,
        *,
        ground: Ground | None = None,
        separation: Separation | None = None,
        seed: int | None = None,
    ) -> None:
        """`ground`: what its clusters stand on; plain hosts unless given. `separation`, of `directory`: see there."""
        self.topology, self.directory, self.separation = topology, directory, separation
        self.ground = ground or Folders(lambda cluster: self.places[cluster].manifests)
        rng = random.Random(seed)
        ranges = virtual_ranges(rng)
        self.registry_address = next(loopback_addresses(rng))
        addresses = self.ground.addresses(rng)
        self.registry_ports = {name: free_port(self.registry_address) for name in ("listen", "enrolment")}
        self.registry_ports["metrics"] = free_port("127.0.0.1")
        self.places = {spec.name: self._place(spec, next(addresses), ranges) for spec in topology.clusters}
        self.running: dict[str, Running] = {}

    def _place(self, spec: ClusterSpec, address: str, ranges: Iterator[str]) -> Place:
        return Place(
            spec=spec,
            directory=self.directory / spec.name,
            address=address,
            agent_port=free_port(address),
            gateway_port=free_port(address),
            http_port=free_port(address),
            tcp_port=free_port(address),
            dns_port=free_port(address),
            agent_dns_port=free_port(address),
            virtual_range=next(ranges),
            metrics={role: free_port("127.0.0.1") for role in ("agent", "gateway", "sidecar")},
        )

    @property
    def home(self) -> Home:
        """The contexts with which fedctl operates this federation."""
        return Home.load(self.directory / "home")

    # --- building ----------------------------------------------------------------------------------------------------

    async def write_manifests(self, name: str) -> None:
        """Describe what the cluster exports by ordinary manifests."""
        place = self.places[name]
        for offer in place.spec.offers:
            at = place.http_port if offer.app == "http" else place.tcp_port
            copy = manifests.Copy(address=place.address, port=at, zone=place.spec.locality.zone)
            described = manifests.exported(NAMESPACE, offer.name, port=offer.port, app=offer.app, copy=copy)
            await self.ground.write(name, *described)

    def init_registry(self) -> None:
        """Make the registry's folder, and fedctl's contexts beside it."""
        from federation.registry.init import init

        where = self.registry_address
        directory = self.directory / "registry"
        init(
            directory,
            self.topology.federation,
            listen=f"{where}:{self.registry_ports['listen']}",
            enrolment=f"{where}:{self.registry_ports['enrolment']}",
            metrics=f"127.0.0.1:{self.registry_ports['metrics']}",
            single_machine=True,
        )
        Home(directory=self.directory / "home").with_operator(directory / "operator").save()

    def start_registry(self) -> None:
        settings = self.directory / "registry" / "settings.yaml"
        self._start("registry", "federation.registry", settings, self.registry_ports["metrics"])

    async def join(self, name: str) -> None:
        """Issue a token and redeem it, as `fedctl token issue` and `fedctl cluster join` do."""
        from discovery.join import join
        from federation.registry.operator import OperatorClient

        place = self.places[name]
        async with OperatorClient.open(self.home.operator_directory()) as registry:
            issued = await registry.issue_token(name)
        await join(
            place.agent,
            token=issued.token,
            cluster=name,
            manifests=place.manifests,
            listen=f"{place.address}:{place.agent_port}",
            locality=place.spec.locality,
            metrics=f"127.0.0.1:{place.metrics['agent']}",
        )
        self.ground.tell(name, place.agent / SETTINGS_FILE, dns=f"{place.address}:{place.agent_dns_port}")
        self.home.with_cluster(name, place.agent).save()

    def start_agent(self, name: str) -> None:
        place = self.places[name]
        self._start(f"{name}-agent", "discovery", place.agent / "settings.yaml", place.metrics["agent"])

    def start_gateway(self, name: str) -> None:
        place = self.places[name]
        settings = {
            **self._edge(place, "gateway"),
            "address": place.address,
            "port": place.gateway_port,
            "bind": place.address,
            "egress_bind": place.address,
        }
        self._start_edge(place, "gateway", settings)

    def start_sidecar(self, name: str) -> None:
        place = self.places[name]
        settings = {
            **self._edge(place, "sidecar"),
            "namespace": NAMESPACE,
            "account": "client",
            "way": "loopback",
            "range": place.virtual_range,
            "dns": {"host": place.address, "port": place.dns_port},
        }
        self._start_edge(place, "sidecar", settings)

    def _edge(self, place: Place, role: str) -> dict[str, object]:
        locality = place.spec.locality
        return {
            "name": f"{place.spec.name}-{role}",
            "state_directory": str(place.directory / role),
            "agent_directory": str(place.agent),
            "locality": {"region": locality.region, "zone": locality.zone},
            "metrics": {"port": place.metrics[role]},
            "log": {"level": "debug" if role == "sidecar" else "info", "json": True},
        }

    def _start_edge(self, place: Place, role: str, settings: dict[str, object]) -> None:
        path = place.directory / f"{role}.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        self._start(f"{place.spec.name}-{role}", role, path, place.metrics[role])

    def start_workload(self, name: str, kind: str) -> None:
        """Start the HTTP or TCP echo ("http", "tcp") of a cluster."""
        place = self.places[name]
        port = place.http_port if kind == "http" else place.tcp_port
        self._spawn(
            Running(
                name=f"{name}-{kind}",
                arguments=(
                    "clusters.workloads",
                    kind,
                    f"--cluster={name}",
                    f"--address={place.address}",
                    f"--port={port}",
                ),
                log=self.directory / "logs" / f"{name}-{kind}.log",
                ready_url=None,
            )
        )

    def _start(self, name: str, module: str, settings: Path, metrics_port: int) -> None:
        self._spawn(
            Running(
                name=name,
                arguments=(module, "--settings", str(settings)),
                log=self.directory / "logs" / f"{name}.log",
                ready_url=f"http://127.0.0.1:{metrics_port}/readyz",
            )
        )

    def _spawn(self, running: Running) -> None:
        command: list[str] = [sys.executable, "-m", *running.arguments]
        owner = next((name for name in self.places if running.name.startswith(f"{name}-")), "")
        if self.separation is not None and owner:
            command = self.separation.command(owner, command, clock=running.name == f"{owner}-agent")
        running.process = start_child(command, running.log)
        self.running[running.name] = running

    # --- breaking and healing ----------------------------------------------------------------------------------------

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> float:
        """Send the signal to the process and all that it started; returns the monotonic time of it (s)."""
        running = self.running[name]
        if running.process is None or not running.alive:
            raise Unavailable(f"{name} does not run")
        moment = time.monotonic()
        os.killpg(running.process.pid, number)
        running.process.wait(timeout=30)
        return moment

    def pause(self, cluster: str, *names: str) -> float:
        """Stop every process of the cluster where it stands (SIGSTOP), its Envoys too, or those of `names`.

        Returns the monotonic time (s).
        """
        moment = time.monotonic()
        self._signal(cluster, signal.SIGSTOP, names)
        return moment

    def resume(self, cluster: str) -> float:
        """Let a paused cluster go on; returns the monotonic time of it (s)."""
        self._signal(cluster, signal.SIGCONT)
        return time.monotonic()

    def _signal(self, cluster: str, number: signal.Signals, names: Sequence[str] = ()) -> None:
        for name, running in self.running.items():
            chosen = name in names if names else name.startswith(f"{cluster}-")
            if chosen and running.alive and running.process is not None:
                # Envoys lead sessions of their own. They are found while their parents still wait for them.
                for pid in (running.process.pid, *children(running.process.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)

    def restart(self, name: str) -> None:
        """Start a process again that has ended."""
        running = self.running[name]
        if running.alive:
            raise Unavailable(f"{name} runs already")
        self._spawn(running)

    async def wait_ready(self, *names: str, timeout: float = START) -> None:
        """Wait until each process says that it is ready; raises Unavailable when one ends, TimedOut."""
        await asyncio.gather(*(self._wait_one(self.running[name], timeout) for name in names))

    async def _wait_one(self, running: Running, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        detail = "it did not answer"
        while time.monotonic() < deadline:
            if not running.alive:
                code = running.process.returncode if running.process else None
                raise Unavailable(f"{running.name} ended with status {code}: {last_line(running.log)}")
            ready, detail = await asyncio.to_thread(_probe, running)
            if ready:
                return
            await asyncio.sleep(0.05)
        raise TimedOut(f"{running.name} is not ready after {timeout:g} s: {detail}", hint=f"see {running.log}")

    def kill_all(self) -> None:
        """Kill everything at once, without waiting for any of it; a `stop` under way then has nothing to wait for."""
        for running in list(self.running.values()):
            if running.process is not None and running.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.process.pid, signal.SIGKILL)

    def stop(self, *, timeout: float = 10.0) -> None:
        """End everything that runs, edges first; what does not end in time is killed."""
        order: Sequence[Callable[[str], bool]] = (
            lambda n: n.endswith(("-sidecar", "-gateway")),
            lambda n: n.endswith("-agent"),
            lambda n: True,
        )
        for belongs in order:
            group = [r for n, r in self.running.items() if belongs(n) and r.alive and r.process]
            for running in group:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running.process.pid, signal.SIGTERM)  # type: ignore[union-attr]
            deadline = time.monotonic() + timeout
            for running in group:
                process = running.process
                assert process is not None  # noqa: S101 - filtered above
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=max(0.0, deadline - time.monotonic()))
        for running in self.running.values():
            if running.process is not None:
                # The leader may be gone while its Envoy is not: the whole session is ended.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()
        self.ground.stop()
        if self.separation is not None:
            self.separation.close()


def copy_state(folder: Path, into: Path) -> None:
    """Copy what a process keeps in `folder` while it runs on: not what is its alone, nor what it is just writing.

    That is `*.tmp` (`federation.aio.files`), and has another name a moment later.
    """
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("*.sock", "*.lock", "lock", "ports.json", "*.tmp"))


def children(pid: int) -> list[int]:
    """The process ids of what the process has started and not yet buried."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def _probe(running: Running) -> tuple[bool, str]:
    if running.ready_url is None:
        return "ready" in running.log.read_text(errors="replace"), "it has not said ready"
    try:
        with urllib.request.urlopen(running.ready_url, timeout=2) as reply:  # noqa: S310 - our own loopback URL
            return True, reply.read().decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        return False, error.read().decode(errors="replace").strip()
    except OSError as error:
        return False, str(error)
