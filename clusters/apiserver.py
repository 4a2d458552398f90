"""Kubernetes clusters on this machine without nodes: etcd, kube-apiserver and the controllers that objects need.

Each cluster has its own root, service-account key, Service ranges, loopback address and etcd, listens on loopback only,
and authorises by RBAC. It is ready in a few seconds, can be broken part by part, and keeps its data across restarts.

What runs here is the control plane alone: a Pod stays Pending for ever, and endpoints are what tests write (or what the
controllers make of Pods whose status a test has written).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp

from clusters.faultproxy import FaultProxy
from clusters.kubeclient import KubeClient, connect
from clusters.kubepki import Authority, Pair, kubeconfig, public_pem
from clusters.network import free_port, loopback_addresses
from clusters.program import Program, last_line
from clusters.testbed.components import require
from clusters.together import start_together
from clusters.waiting import START
from discovery.kube import crds
from federation.aio.files import write_atomic
from federation.errors import IsthmusError, TimedOut, Unavailable
from federation.trust.keys import key_to_pem, new_key

Part = Literal["etcd", "apiserver", "controllers"]

PROGRAMS: Mapping[Part, str] = {
    "etcd": "etcd",
    "apiserver": "kube-apiserver",
    "controllers": "kube-controller-manager",
}
"""The parts of a cluster in the order in which they start, and the program of each."""

CONTROLLERS = (
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
)
"""What objects need to come, to go and to follow each other; nothing that concerns nodes."""

MASTERS = "system:masters"
"""The group that may do everything before any role exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a cluster is: its files, addresses and ranges."""

    name: str
    directory: Path
    address: str
    api_port: int
    etcd_port: int
    peer_port: int
    service_ranges: tuple[str, ...]

    @classmethod
    def pick(cls, name: str, directory: Path, address: str, index: int) -> Place:
        """Free ports at `address`, and the Service ranges number `index` (0 to 127), IPv4 first, then IPv6."""
        return cls(
            name=name,
            directory=directory,
            address=address,
            api_port=free_port(address),
            etcd_port=free_port(address),
            peer_port=free_port(address),
            service_ranges=(f"10.{96 + index}.0.0/16", f"fd00:10:{96 + index:x}::/112"),
        )

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self.api_port}"

    @property
    def etcd(self) -> str:
        return f"http://{self.address}:{self.etcd_port}"

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.directory / "kubeconfig"


def etcd_command(place: Place, program: Path) -> list[str]:
    """One member; what was acknowledged survives the end of the process, not that of the machine (no fsync)."""
    peers = f"http://{place.address}:{place.peer_port}"
    return [
        str(program),
        f"--name={place.name}",
        f"--data-dir={place.directory / 'etcd'}",
        f"--listen-client-urls={place.etcd}",
        f"--advertise-client-urls={place.etcd}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster={place.name}={peers}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_command(place: Place, program: Path, *, controllers: bool = True) -> list[str]:
    """TLS only, RBAC, everything else as Kubernetes has it by default."""
    pki = place.pki
    return [
        str(program),
        f"--etcd-servers={place.etcd}",
        f"--bind-address={place.address}",
        f"--advertise-address={place.address}",
        f"--secure-port={place.api_port}",
        # The Service `kubernetes` may not have endpoints on loopback: it gets none.
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={pki / 'server.crt'}",
        f"--tls-private-key-file={pki / 'server.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki / 'accounts.pub'}",
        f"--service-account-signing-key-file={pki / 'accounts.key'}",
        f"--service-cluster-ip-range={','.join(place.service_ranges)}",
        "--allow-privileged=true",
        "--profiling=false",
        # Without the controller no namespace has the default account that this plugin wants for every Pod.
        *(() if controllers else ("--disable-admission-plugins=ServiceAccount",)),
    ]


def controllers_command(place: Place, program: Path) -> list[str]:
    """The controllers that are needed, as an administrator, at once: nobody else competes for the lease."""
    return [
        str(program),
        f"--kubeconfig={place.kubeconfig}",
        f"--controllers={','.join(CONTROLLERS)}",
        "--leader-elect=false",
        "--secure-port=0",
        f"--root-ca-file={place.pki / 'ca.crt'}",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--concurrent-gc-syncs=4",
        "--profiling=false",
    ]


class LocalCluster:
    """One cluster below `place.directory`: built by `start`, broken by `kill` and `pause`, ended by `stop`.

    Nothing in it is bound to an event loop: a cluster that one loop started can be used and stopped by another.
    """

    def __init__(self, place: Place, programs: Mapping[str, Path], *, controllers: bool = True) -> None:
        self.place, self.name, self.kubeconfig = place, place.name, place.kubeconfig
        commands: dict[Part, list[str]] = {
            "etcd": etcd_command(place, programs["etcd"]),
            "apiserver": apiserver_command(place, programs["kube-apiserver"], controllers=controllers),
        }
        if controllers:
            commands["controllers"] = controllers_command(place, programs["kube-controller-manager"])
        self.parts: dict[Part, Program] = {
            part: Program(f"{place.name}-{part}", command, self.log(part)) for part, command in commands.items()
        }
        self._authority: Authority | None = None
        self._broken = False

    def log(self, part: Part) -> Path:
        """Where the part writes."""
        return self.place.directory / "logs" / f"{PROGRAMS[part]}.log"

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self, *, install: Iterable[str] = ()) -> None:
        """Write keys and configuration, start every part, apply the CRDs of `install`, and wait until all is ready.

        The controllers start last: garbage collection learns of kinds that come later only within half a minute.
        Raises Unavailable when a part ends, TimedOut when it is not ready in time; what runs is then left to `stop`.
        """
        await asyncio.to_thread(self._write_files)
        for part in self.parts:
            if part == "controllers":
                async with self.connect() as client:
                    await client.install_crds(*install)
            self.parts[part].start()
            await self.wait_ready(part)
        if "controllers" not in self.parts:
            async with self.connect() as client:
                await client.install_crds(*install)

    def _write_files(self) -> None:
        place, now = self.place, dt.datetime.now(dt.UTC)
        place.pki.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = self._authority = Authority.create(f"{place.name} root", now)
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
        server = authority.server(now, names=names, addresses=(place.address,))
        accounts = new_key()
        for name, data in (
            ("ca.crt", authority.pem),
            ("server.crt", server.certificate),
            ("server.key", server.key),
            ("accounts.key", key_to_pem(accounts)),
            ("accounts.pub", public_pem(accounts)),
        ):
            write_atomic(place.pki / name, data)
        write_atomic(place.kubeconfig, self._kubeconfig(self.certificate("admin", MASTERS)).encode())

    async def restart(self, part: Part = "apiserver") -> None:
        """Start a part again that was killed, on the data that it had, and wait until it is ready."""
        self.parts[part].start()
        await self.wait_ready(part)

    async def wait_ready(self, part: Part = "apiserver", *, timeout: float = START) -> None:
        """Wait until the part does its work; raises Unavailable when it ends, TimedOut after `timeout` (s)."""
        checks: dict[Part, Callable[[], Awaitable[object]]] = {
            "etcd": lambda: self._etcd("version"),
            "apiserver": self._apiserver_ready,
            "controllers": self._controllers_ready,
        }
        program, deadline = self.parts[part], time.monotonic() + timeout
        detail = "it did not answer"
        while time.monotonic() < deadline:
            if not program.alive:
                raise Unavailable(f"{program.name} ended: {last_line(program.log)}", hint=f"see {program.log}")
            try:
                await checks[part]()
            except IsthmusError as error:
                detail = error.message
            else:
                return
            await asyncio.sleep(0.05)
        raise TimedOut(f"{program.name} is not ready after {timeout:g} s: {detail}", hint=f"see {program.log}")

    async def _apiserver_ready(self) -> None:
        async with self.connect() as client:
            await client.request("GET", "/readyz", timeout=1)

    async def _controllers_ready(self) -> None:
        """They serve no port: they work when the first account is there that one of them makes."""
        async with self.connect() as client:
            await client.get("v1", "ServiceAccount", "default", "default")

    def stop(self, *, discard: bool = False) -> None:
        """End every part, in whatever state it is. Nothing is asked to finish: its data outlives it as it is.

        `discard` removes what etcd holds (its log alone takes 120 MB), and keeps logs and keys.
        """
        for part in reversed(self.parts):
            self.parts[part].end()
        if discard:
            shutil.rmtree(self.place.directory / "etcd", ignore_errors=True)

    # --- use ---------------------------------------------------------------------------------------------------------

    def connect(self, config: Path | None = None) -> AbstractAsyncContextManager[KubeClient]:
        """A client as the administrator, or with another kubeconfig."""
        return connect(config or self.kubeconfig)

    def certificate(self, user: str, *groups: str) -> Pair:
        """A client certificate for the user; what it may do, RBAC says."""
        assert self._authority is not None, "the cluster has not been started"  # noqa: S101
        return self._authority.client(dt.datetime.now(dt.UTC), user, groups)

    def kubeconfig_for(self, user: str, *groups: str) -> Path:
        """Writes a kubeconfig with a client certificate for the user."""
        return self._write_kubeconfig(f"user-{user}", self.certificate(user, *groups))

    async def kubeconfig_for_account(self, namespace: str, account: str, *, seconds: int = 3600) -> Path:
        """Writes a kubeconfig with a token of the service account, as a Pod would have it."""
        async with self.connect() as client:
            token = await client.token(namespace, account, seconds=seconds)
        return self._write_kubeconfig(f"account-{namespace}-{account}", token)

    def kubeconfig_at(self, port: int, config: Path | None = None) -> Path:
        """Writes the kubeconfig again, the administrator's or another, for a proxy that listens at our address."""
        source = config or self.kubeconfig
        path = source.with_name(f"{source.name}-{port}")
        text = source.read_text().replace(self.place.server, f"https://{self.place.address}:{port}")
        write_atomic(path, text.encode())
        return path

    def proxy(self) -> FaultProxy:
        """A proxy that injects faults before the API server, not started; clients use `kubeconfig_at(proxy.port)`."""
        return FaultProxy((self.place.address, self.place.api_port), listen=self.place.address)

    def _write_kubeconfig(self, name: str, credential: Pair | str) -> Path:
        path = self.place.directory / f"{name.replace(':', '-').replace('/', '-')}.kubeconfig"
        write_atomic(path, self._kubeconfig(credential).encode())
        return path

    def _kubeconfig(self, credential: Pair | str) -> str:
        root = (self.place.pki / "ca.crt").read_bytes()
        return kubeconfig(self.name, self.place.server, root, credential)

    # --- breaking and healing ----------------------------------------------------------------------------------------

    def kill(self, part: Part = "apiserver") -> float:
        """SIGKILL; returns the monotonic time of it (s)."""
        self._broken = True
        return self.parts[part].kill()

    def pause(self, part: Part = "apiserver") -> float:
        """Stop it where it stands: connections stay open, the kernel still accepts new ones, and nothing answers."""
        self._broken = True
        return self.parts[part].pause()

    def resume(self, part: Part = "apiserver") -> float:
        """Let it go on after `pause`; returns the monotonic time of it (s)."""
        return self.parts[part].resume()

    async def heal(self) -> None:
        """Undo every `kill` and `pause`, and wait until all is ready; does nothing to a cluster that was not broken."""
        if not self._broken:
            return
        for part, program in self.parts.items():
            if program.alive:
                program.resume()
            else:
                program.start()
            await self.wait_ready(part)
        self._broken = False

    async def forget_history(self) -> int:
        """Make every resourceVersion up to now too old, so that to go on from one is answered with a real 410.

        etcd is compacted at its newest revision, and the API server is killed and started again, because its watch
        cache would remember what etcd has forgotten. Returns the revision from which on the server remembers.
        """
        async with self.connect() as client:
            # Something newer than what anybody has seen, so that even the newest resourceVersion of before is too old.
            metadata = {"generateName": "forget-history-", "namespace": "default"}
            (made,) = await client.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
            await client.delete("v1", "ConfigMap", made["metadata"]["name"], "default")
        self.kill("apiserver")
        status = await self._etcd("v3/maintenance/status", {})
        revision = int(status["header"]["revision"])
        await self._etcd("v3/kv/compaction", {"revision": str(revision), "physical": True})
        await self.restart("apiserver")
        return revision

    async def _etcd(self, path: str, body: object = None) -> Any:
        """A call of etcd's JSON gateway."""
        url, timeout = f"{self.place.etcd}/{path}", aiohttp.ClientTimeout(total=10)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request("GET" if body is None else "POST", url, json=body) as reply,
            ):
                if reply.status != 200:
                    raise Unavailable(f"etcd: {reply.status} {(await reply.text())[:200]}")
                return await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"etcd does not answer: {error}") from error

    def resident(self) -> dict[Part, int]:
        """Bytes of memory that each running part holds now."""
        return {part: program.resident() for part, program in self.parts.items() if program.alive}


def local_clusters(
    directory: Path, names: Sequence[str], *, controllers: bool = True, rng: random.Random | None = None
) -> tuple[LocalCluster, ...]:
    """Clusters with places of their own below `directory`, not started; raises NotFound for a missing program."""
    wanted = [program for part, program in PROGRAMS.items() if controllers or part != "controllers"]
    programs = require(*wanted)
    addresses = loopback_addresses(rng or random.Random())
    return tuple(
        LocalCluster(Place.pick(name, directory / name, next(addresses), index), programs, controllers=controllers)
        for index, name in enumerate(names)
    )


async def start_all(clusters: Iterable[LocalCluster], *, install: Iterable[str] | None = None) -> None:
    """Start the clusters at the same time, with our CRDs unless told otherwise; when one fails, all are stopped."""
    clusters, manifests = tuple(clusters), tuple(crds.manifests() if install is None else install)
    starts = {one.name: one.start(install=manifests) for one in clusters}
    await start_together(starts, stop=lambda: stop_all(clusters))


def stop_all(clusters: Iterable[LocalCluster], *, discard: bool = False) -> None:
    """End every part of every cluster; see `LocalCluster.stop`."""
    for one in clusters:
        one.stop(discard=discard)


@asynccontextmanager
async def running(
    directory: Path, *names: str, controllers: bool = True, install: Iterable[str] | None = None
) -> AsyncIterator[tuple[LocalCluster, ...]]:
    """Clusters that run while the context is open; of what they held, logs and keys remain."""
    clusters = local_clusters(directory, names, controllers=controllers)
    await start_all(clusters, install=install)
    try:
        yield clusters
    finally:
        stop_all(clusters, discard=True)
