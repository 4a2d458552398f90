"""Where those who have no identity yet ask this agent for one: virtual machines at one port, pods at another.

Each door is there when the settings name its address; what both sign is decided by the servers behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple

from discovery.enrolment import Door, Signer
from discovery.kube.tokens import TokenReviews
from discovery.pods.server import PodServer
from discovery.settings import AgentSettings, addresses
from discovery.sources.kubernetes import KubernetesSource
from discovery.vms.server import VmServer
from discovery.vms.table import VmTable
from federation.aio.clock import Clock
from federation.log import Logger
from federation.model.cluster import Problem
from federation.trust.authority import Authority
from federation.trust.svid import Svid


class Calls(NamedTuple):
    """How many were given an identity since the start, and how many were turned away."""

    issued: int
    refused: int


class Doors:
    """Listens from `start` to `close`."""

    def __init__(
        self,
        settings: AgentSettings,
        authority: Authority,
        *,
        vms: VmTable,
        kubernetes: KubernetesSource | None,
        agent_addresses: Callable[[], Sequence[str]],
        svid: Callable[[], Svid],
        on_problems: Callable[[Iterable[Problem]], None],
        clock: Clock,
        log: Logger,
    ) -> None:
        """`agent_addresses`: where who was let in finds the agent. `on_problems`: those of reviewing pods' tokens."""
        self._settings, self._authority, self._agent_addresses = settings, authority, agent_addresses
        self._svid, self._clock, self._log = svid, clock, log
        self.vms = self._vm_server(vms)
        self.pods = self._pod_server(kubernetes, on_problems)

    async def start(self) -> dict[str, int]:
        """The ports that are open now, by name. Raises Unavailable where an address is taken."""
        ports: dict[str, int] = {}
        if self.vms is not None:
            await self.vms.start()
            ports["vms"] = self.vms.door.port
        if self.pods is not None:
            await self.pods.start()
            ports["pods"] = self.pods.door.port
        return ports

    async def close(self) -> None:
        """End the calls in flight, too."""
        for server in (self.vms, self.pods):
            if server is not None:
                await server.close()

    @property
    def vm_calls(self) -> Calls:
        """Of virtual machines."""
        return _calls(self.vms.door if self.vms is not None else None)

    @property
    def pod_calls(self) -> Calls:
        """Of pods."""
        return _calls(self.pods.door if self.pods is not None else None)

    def vm_addresses(self) -> tuple[str, ...]:
        """host:port at which virtual machines are let in; none where they are not."""
        if self.vms is None:
            return ()
        return self.vms.door.addresses(addresses(self._settings.vms.advertise))

    def _vm_server(self, vms: VmTable) -> VmServer | None:
        if not self._settings.vms.listen:
            return None
        door = self._door(self._settings.vms.listen, setting="vms.listen", who="vm")
        return VmServer(door, vms, self._signer(self.vm_addresses), log=self._log)

    def _pod_server(
        self, kubernetes: KubernetesSource | None, on_problems: Callable[[Iterable[Problem]], None]
    ) -> PodServer | None:
        wanted = self._settings.pods
        if not wanted.listen or kubernetes is None:
            return None
        door = self._door(wanted.listen, setting="pods.listen", who="pod")
        return PodServer(
            door,
            TokenReviews(kubernetes.client),
            self._signer(lambda: door.addresses(addresses(wanted.advertise))),
            accounts=wanted.accounts,
            on_problems=on_problems,
            log=self._log,
        )

    def _door(self, listen: str, *, setting: str, who: str) -> Door:
        return Door(
            listen,
            self._authority,
            setting=setting,
            who=who,
            svid=self._svid,
            clock=self._clock,
            log=self._log,
        )

    def _signer(self, enrolment_addresses: Callable[[], Sequence[str]]) -> Signer:
        return Signer(
            authority=self._authority,
            federation=self._settings.federation,
            cluster=self._settings.cluster,
            agent_addresses=self._agent_addresses,
            enrolment_addresses=enrolment_addresses,
            ttl=timedelta(seconds=self._settings.svid_ttl),
        )


def _calls(door: Door | None) -> Calls:
    return Calls(0, 0) if door is None else Calls(door.issued, door.refused)
