"""The demo's stage on this machine alone: a federation of processes, on folders or API servers, beside them Consul."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from clusters.building import build, wait_whole
from clusters.consulground import WithConsul
from clusters.faults import Faults
from clusters.ground import ApiServers
from clusters.load import HttpLoad, Outcome
from clusters.names import lookup
from clusters.namespace import in_own_network
from clusters.processes import HTTP_PORT, NAMESPACE, TCP_PORT, ProcessFederation
from clusters.processfaults import ProcessFaults
from clusters.progress import Say
from clusters.propagation import Propagation, measure
from clusters.stage import CALLER, GLOBAL_NAME, NEAREST, STOCK_NAME
from clusters.topology import DC1, STOCK, Topology
from clusters.waiting import ANSWER
from federation.errors import NotFound, Unavailable


class ProcessCalls:
    """Threads of this process, beside the sidecar of CALLER."""

    def __init__(self, load: HttpLoad) -> None:
        self._load = load
        load.start()

    async def outcomes(self, since: int = 0) -> Sequence[Outcome]:
        return self._load.outcomes(since)

    async def stop(self) -> None:
        await asyncio.to_thread(self._load.stop)


class ProcessStage:
    """A federation that does not run yet."""

    def __init__(self, federation: ProcessFederation, *, left_out: Sequence[str] = ()) -> None:
        """`left_out`: see Stage."""
        self.federation, self.left_out = federation, left_out
        self.faults: Faults = ProcessFaults(federation)

    @property
    def topology(self) -> Topology:
        return self.federation.topology

    async def build(self, say: Say) -> None:
        await build(self.federation, say)

    # --- calls -------------------------------------------------------------------------------------------------------

    async def look_up(self, name: str) -> list[str]:
        """By UDP and by TCP, which have to agree."""
        place = self.federation.places[CALLER]
        by_udp = await asyncio.to_thread(lookup, place.address, place.dns_port, name)
        by_tcp = await asyncio.to_thread(lookup, place.address, place.dns_port, name, tcp=True)
        if not by_udp or by_udp != by_tcp:
            raise Unavailable(f"{name} is {by_udp} on UDP and {by_tcp} on TCP")
        return by_udp

    async def calling(self, name: str) -> ProcessCalls:
        (address, *_) = await self.look_up(name)
        return ProcessCalls(HttpLoad(address, HTTP_PORT, name))

    async def greeting(self, name: str) -> str:
        (address, *_) = await self.look_up(name)
        return await asyncio.to_thread(greeting, address, TCP_PORT)

    # --- what goes wrong ---------------------------------------------------------------------------------------------

    async def end_copy(self, cluster: str) -> float:
        return await self.faults.kill(cluster, "http")

    async def start_copy(self, cluster: str) -> float:
        moment = time.monotonic()
        self.federation.restart(f"{cluster}-http")
        return moment

    async def end_registry(self) -> float:
        return await asyncio.to_thread(self.federation.kill, "registry")

    async def thaw(self, cluster: str) -> float:
        return self.federation.resume(cluster)

    async def turn(self, cluster: str, service: str, status: str) -> float:
        ground = self.federation.ground
        if not isinstance(ground, WithConsul):
            raise NotFound(f"{cluster} is no datacenter", code="no_cluster")
        return await ground.turn(cluster, service, status)

    async def heal(self) -> float:
        moment = time.monotonic()
        await self.faults.heal()
        return moment

    async def whole(self) -> None:
        await wait_whole(self.federation)

    async def measure(self, changes: int, say: Say) -> Propagation:
        say(f"measuring {changes} endpoint changes from {NEAREST} to the Envoy of {CALLER}")
        return await measure(self.federation, origin=NEAREST, consumer=CALLER, changes=changes)

    # --- the end, and what can be tried before it --------------------------------------------------------------------

    async def report(self) -> None:
        """All of it is written there anyway."""

    async def close(self) -> None:
        await asyncio.to_thread(self.federation.stop)

    def kill(self) -> None:
        self.federation.kill_all()

    @property
    def logs(self) -> Path:
        return self.federation.directory

    def commands(self) -> Sequence[str]:
        place = self.federation.places[CALLER]
        fedctl = Path(sys.executable).with_name("fedctl")
        ground, kubectl, consul = self.federation.ground, [], []
        if isinstance(ground, WithConsul):
            datacenter, ground = ground.datacenters[DC1.name], ground.base
            consul = [
                f"export CONSUL_HTTP_ADDR={datacenter.url()}",
                f"{datacenter.program} maint -enable -service={STOCK.name}-0",
                f"{fedctl} resolve {STOCK_NAME} --from {CALLER}",
            ]
        if isinstance(ground, ApiServers):
            config = ground.clusters[CALLER].kubeconfig
            kubectl = [f"kubectl --kubeconfig {config} get serviceimports,services,endpointslices -n {NAMESPACE}"]
        return (
            *([f"nsenter --target {os.getpid()} --user --net --preserve-credentials bash"] if in_own_network() else []),
            f"export ISTHMUS_HOME={self.federation.home.directory}",
            f"{fedctl} status",
            f"{fedctl} get services",
            f"{fedctl} resolve {GLOBAL_NAME} --from {CALLER}",
            f"dig @{place.address} -p {place.dns_port} {GLOBAL_NAME}",
            f"curl -s http://{GLOBAL_NAME}:{HTTP_PORT}/ --resolve {GLOBAL_NAME}:{HTTP_PORT}:"
            f"$(dig +short @{place.address} -p {place.dns_port} {GLOBAL_NAME})",
            *kubectl,
            *consul,
            f"{fedctl} unlink {CALLER} {NEAREST}",
            f"ls {self.federation.directory}/logs",
        )


def greeting(address: str, port: int, *, timeout: float = ANSWER) -> str:
    """The cluster whose TCP workload answers at `address`:`port`; raises Unavailable."""
    try:
        with socket.create_connection((address, port), timeout=timeout) as connection:
            line = connection.makefile("rb").readline().decode().strip()
    except OSError as error:
        raise Unavailable(f"{address}:{port} did not answer: {error}") from error
    if not line:
        raise Unavailable(f"{address}:{port} closed the connection without a word")
    return line
