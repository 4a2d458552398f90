"""A cluster without Kubernetes beside clusters of containers: this machine, and a virtual machine in their network.

Agent and gateway are processes of this machine, at the address that it has in the network of the nodes, and join the
registry that runs in one of the clusters. What they export is in a Consul; the virtual machine is a network namespace
at the same switch, with a Consul of its own, programs, and a sidecar.
"""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import yaml

from clusters.command import call
from clusters.ground import Folders
from clusters.kind import engine
from clusters.kind.calls import Calls
from clusters.kind.harness import KindHarness
from clusters.kind.operator import Operator
from clusters.mixed import NAME, ConsulVm, GuardedDatacenter
from clusters.namespace import BridgedNamespace
from clusters.network import free_port
from clusters.processes import ProcessFederation
from clusters.program import Program
from clusters.separation import Separation
from clusters.topology import ClusterSpec, Topology
from clusters.waiting import ANSWER
from federation.cli.home import Home
from federation.model.service import Locality

_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'
DNS = "127.0.0.55"
"""Where the sidecar of the virtual machine answers names, at the usual port."""


class _Hosts(Separation):
    """Programs of plain hosts have a hosts file of their own: the registry is known by the name of its node."""

    def __init__(self, directory: Path, names: dict[str, str]) -> None:
        super().__init__((), directory)
        self._file = directory / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in names.items())]
        self._file.write_text("\n".join(lines) + "\n")

    def command(self, cluster: str, words: Sequence[str | Path], *, clock: bool = False) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", _HOSTS, str(self._file), *map(str, words)]


class _Here(Folders):
    """Everything of the cluster listens at one address."""

    def __init__(self, address: str) -> None:
        super().__init__(lambda _cluster: Path())
        self._address = address

    def addresses(self, rng: random.Random) -> Iterator[str]:
        yield self._address


class PlainHosts:
    """The cluster `NAME` of a federation that stands, with one virtual machine that has copies of `service`."""

    def __init__(
        self,
        harness: KindHarness,
        space: BridgedNamespace,
        hosts: dict[str, str],
        directory: Path,
        *,
        locality: Locality,
        namespace: str,
        service: str,
        port: int,
    ) -> None:
        self._harness, self._space, self._operator = harness, space, Operator(harness)
        self._names = _Hosts(directory, hosts)
        self._namespace = namespace
        ground = GuardedDatacenter(_Here(space.outside), directory / "consul", space, namespace=namespace)
        spec = ClusterSpec(name=NAME, locality=locality, offers=(), consul=True)
        topology = Topology(federation=harness.topology.federation, clusters=(spec,), links=())
        self.ground = ground
        self.federation = ProcessFederation(topology, directory, ground=ground, separation=self._names)
        self.logs = directory / "logs"
        self.logs.mkdir()
        self.vm = ConsulVm(space, ground, service, self.logs, port=port)
        self._programs: list[Program] = []

    async def start(self, *links: str) -> None:
        """Consul and the virtual machine run; the cluster joins, and is linked with those of `links`."""
        federation, place = self.federation, self.federation.places[NAME]
        await self.ground.start()
        await self.vm.start()
        token = (await self._operator.ok("token", "issue", NAME))["token"]
        place.manifests.mkdir(parents=True)
        words = ["--home", self._harness.folder.home, "cluster", "join", NAME, "--token", token]
        words += ["--directory", place.agent, "--manifests", place.manifests]
        words += ["--listen", f"{place.address}:{place.agent_port}", "--metrics", f"127.0.0.1:{place.metrics['agent']}"]
        words += ["--region", place.spec.locality.region, "--zone", place.spec.locality.zone]
        await call(*self._names.command(NAME, [Path(sys.executable).with_name("fedctl"), *words]))
        self.ground.tell(NAME, place.agent / "settings.yaml", dns="")
        federation.start_agent(NAME)
        await federation.wait_ready(f"{NAME}-agent")
        federation.start_gateway(NAME)
        for other in links:
            await self._operator.ok("link", other, NAME)
        await federation.wait_ready(f"{NAME}-gateway")

    async def start_sidecar(self) -> None:
        """Of the virtual machine, which from now on asks it for names."""
        place, folder = self.federation.places[NAME], self.federation.directory / "vm"
        folder.mkdir()
        settings = {
            "name": "vm",
            "state_directory": str(folder / "state"),
            "agent_directory": str(place.agent),
            "namespace": self._namespace,
            "account": "vm",
            "way": "loopback",
            "dns": {"host": DNS, "port": 53},
            "metrics": {"port": free_port()},
        }
        (folder / "sidecar.yaml").write_text(yaml.safe_dump(settings))
        self._run("vm-sidecar", "sidecar", "--settings", str(folder / "sidecar.yaml"))
        self._space.resolve_by(DNS)

    @asynccontextmanager
    async def calling(self, name: str, port: int) -> AsyncIterator[Calls]:
        """A program of the virtual machine that calls `name` until the block ends."""
        program = self._run("vm-caller", "clusters.caller", name, "--port", str(port), "--timeout", str(ANSWER))

        async def read() -> str:
            return program.log.read_text(errors="replace")

        try:
            yield Calls(read)
        finally:
            program.end()

    def _run(self, name: str, *words: str) -> Program:
        program = Program(name, [*self._space.wrap, sys.executable, "-m", *words], self.logs / f"{name}.log")
        program.start()
        self._programs.append(program)
        return program

    async def stop(self) -> None:
        """The federation is without it again, and nothing of it runs."""
        try:
            if NAME in Home.load(self._harness.folder.home).clusters:
                await self._operator.ok("cluster", "leave", NAME)
        finally:
            for program in reversed(self._programs):
                program.end()
            self.vm.stop()
            self.federation.stop()
            Home.load(self._harness.folder.home).update(lambda home: home.without_cluster(NAME))


@asynccontextmanager
async def plain_hosts(
    harness: KindHarness, directory: Path, *, locality: Locality, namespace: str, service: str, port: int
) -> AsyncIterator[PlainHosts]:
    """Made, not started; gone when the block ends. Raises Unavailable without the rights for a network namespace."""
    async with AsyncExitStack() as stack:
        switch, network, address = await engine.bridge()
        space = BridgedNamespace(switch, network, address)
        stack.callback(space.close)
        nodes = {node.name: node.address for node in await engine.nodes() if harness.mark in node.marks}
        made = PlainHosts(
            harness, space, nodes, directory, locality=locality, namespace=namespace, service=service, port=port
        )
        stack.enter_context(made.ground.network)
        stack.push_async_callback(made.stop)
        yield made
