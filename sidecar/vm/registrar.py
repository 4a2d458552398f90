"""What this VM registers at its agent: the services file, with what its checks found, as the presence of the sidecar.

Arrives: the file (sidecar.vm.file), results of checks (sidecar.vm.checks), the address of this machine. Leaves:
Workloads for the agent, at once when something turns, and the ports that Envoy serves to callers by mutual TLS.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from federation.aio.clock import Clock
from federation.errors import IsthmusError
from federation.log import Logger
from federation.model.address import split_address
from federation.model.service import Locality, Protocol, Service
from federation.model.wire import locality_to_pb, service_to_pb
from federation.proto.v1 import catalog_pb2 as pb
from federation.registry.edge.problems import Problems
from sidecar.build.inbound import Workload
from sidecar.vm.checks.checker import Checker, Key
from sidecar.vm.definition import Definition
from sidecar.vm.file import ServicesFile

ADDRESS_SECONDS, NO_ADDRESS_SECONDS = 5.0, 0.5
"""Between two looks at the address by which this machine reaches its agent; and as long as there is none."""
LISTENING_SECONDS = 0.2
"""Between two looks at whether Envoy listens."""
CHECK_FAILED, CHECK_LATE, NO_ADDRESS = "check_failed", "check_late", "no_address"


class Registrar:
    """`run` until cancelled, after `start`. `on_change` is called when `workloads` or `served` give something else."""

    def __init__(
        self,
        path: Path,
        *,
        kept: Path,
        agent: Callable[[], str],
        inbound_port: int | None,
        listening: Callable[[], bool],
        locality: Locality,
        problems: Problems,
        on_change: Callable[[], None],
        clock: Clock,
        log: Logger,
    ) -> None:
        """`agent`: its address, host:port; `inbound_port`: where this machine takes calls by mutual TLS, if it does;
        `listening`: whether it does so now."""
        self._agent, self._inbound, self._locality = agent, inbound_port, locality
        self._problems, self._on_change, self._clock, self._log = problems, on_change, clock, log
        self._file = ServicesFile(path, kept=kept, problems=problems, on_change=self._reread, clock=clock, log=log)
        self.checker = Checker(on_change=self._turned, clock=clock, log=log)
        self._address = ""
        self._draining = False
        self._listening, self._listens = listening, inbound_port is None

    def start(self) -> None:
        """Read the file; before this nothing is known."""
        self._file.load()
        self._set_checks()

    async def run(self) -> None:
        """Follow the file and the address, and check."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._file.run(), name="services-file")
            tasks.create_task(self.checker.run(), name="checks")
            tasks.create_task(self._follow_address(), name="services-address")
            if self._inbound is not None:
                tasks.create_task(self._follow_listening(), name="services-listening")

    async def close(self) -> None:
        """Write what is to be kept."""
        await self._file.close()

    def drain(self) -> bool:
        """From now on take no new calls; whether anybody could have called."""
        self._draining = True
        self._on_change()
        return any(self.checker.ready(d.name) for d in self._definitions)

    def workloads(self) -> pb.Workloads | None:
        """What the agent is to be told; None as long as it is not known: a machine that boots takes nothing back."""
        if self._file.content is None or not (self._address or all(d.address for d in self._definitions)):
            return None
        return pb.Workloads(items=[self._workload(d) for d in self._definitions])

    def served(self) -> tuple[Workload, ...]:
        """The ports that are served by mutual TLS."""
        if self._inbound is None:
            return ()
        return tuple(
            Workload(name=d.name, port=p.port, app=p.app, address=d.host, target=d.targets[p.port])
            for d in self._definitions
            for p in d.ports
            if p.protocol is Protocol.TCP
        )

    @property
    def _definitions(self) -> tuple[Definition, ...]:
        return self._file.content or ()

    def _workload(self, definition: Definition) -> pb.Workload:
        claimed = service_to_pb(
            Service(
                name=definition.name,
                exported_at_ns=0,
                ports=definition.ports,
                labels=definition.labels,
                grants=definition.grants,
            )
        )
        targets = dict(definition.targets)
        if self._inbound is not None:
            targets |= {p.port: self._inbound for p in definition.ports if p.protocol is Protocol.TCP}
        return pb.Workload(
            namespace=claimed.namespace,
            name=claimed.name,
            ports=claimed.ports,
            targets=targets,
            address=definition.address or self._address,
            locality=locality_to_pb(self._locality),
            ready=self._listens and self.checker.ready(definition.name),
            draining=self._draining,
            exported=definition.exported,
            grants=claimed.grants,
            labels=claimed.labels,
            secure=self._inbound is not None,
        )

    # --- what changes ------------------------------------------------------------------------------------------------

    def _reread(self) -> None:
        self._set_checks()
        self._on_change()

    def _set_checks(self) -> None:
        self.checker.set([Key(d.name, check) for d in self._definitions for check in d.checks])
        self._tell()

    def _turned(self) -> None:
        self._tell()
        self._on_change()

    def _tell(self) -> None:
        self._problems.replace(CHECK_FAILED, self.checker.problems())
        self._problems.replace(CHECK_LATE, self.checker.late())

    async def _follow_listening(self) -> None:
        """As long as nobody takes calls, nothing is ready, whatever checks find."""
        while True:
            if self._listens != self._listening():
                self._listens = not self._listens
                self._on_change()
            await self._clock.sleep(LISTENING_SECONDS)

    async def _follow_address(self) -> None:
        while True:
            if await self.locate():
                self._on_change()
            await self._clock.sleep(ADDRESS_SECONDS if self._address else NO_ADDRESS_SECONDS)

    async def locate(self) -> bool:
        """Look for the own address; whether it is another one. One that cannot be found changes nothing."""
        agent = self._agent()
        try:
            found = await own_address(agent)
        except (OSError, IsthmusError) as error:
            if not self._address and any(not d.address for d in self._definitions):
                detail = f"the address by which {agent} is reached is not known ({error}): give the services an address"
                self._problems.set(NO_ADDRESS, "services", detail)
            return False
        self._problems.clear(NO_ADDRESS, "services")
        before, self._address = self._address, found
        return found != before


async def own_address(peer: str) -> str:
    """The address of this machine from which `peer` (host:port) is reached. Raises OSError, InvalidInput."""
    host, port = split_address(peer, what="the agent's address")
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # of UDP: nothing is sent
        return str(probe.getsockname()[0])
