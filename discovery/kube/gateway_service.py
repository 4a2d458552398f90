"""Follows the Service of the gateways: the address and the port at which a load balancer takes what others send.

    Service (watch) ─ before → addresses, names ─ resolve → Reach → discovery.consumers

An address counts as it is told. A name (some clouds tell no other) is resolved here, now and then: peers are told
addresses alone. IPv6 is told only where there is no IPv4, for not every peer has it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from discovery.gateways import Reach
from discovery.kube.client import KubeClient
from discovery.kube.resources import SERVICES
from discovery.kube.types import GatewayService
from discovery.kube.watch import Key, Reflector, Store
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.aio.tasks import first_of
from federation.log import Logger
from federation.model.cluster import Problem

RESOLVE_SECONDS = 30.0
"""Between two look-ups of a load balancer's name."""
_LOOK_UP_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What a Service says: addresses, names that stand for more of them, and ports as in Reach."""

    addresses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    only_port: int = 0
    reason: str = ""

    def reach(self, resolved: Collection[str] = ()) -> Reach:
        """`resolved`: the addresses of the names."""
        addresses = preferred({*self.addresses, *resolved})
        reason = self.reason or (f"{', '.join(self.names)} has no address" if not addresses else "")
        return Reach(addresses=addresses, ports=dict(self.ports), only_port=self.only_port, reason=reason)


def front(service: GatewayService | None) -> Front:
    """What stands before the gateways, by their Service."""
    if service is None:
        return Front(reason="there is no such Service")
    ports: dict[int, int] = {}
    only_port = 0
    tcp = [p for p in service.spec.ports or () if p.protocol == "TCP"]
    for port in tcp:
        if isinstance(port.target_port, str):  # a name that only the Pods know
            only_port = port.port if len(tcp) == 1 else 0
        ports.setdefault(port.target_port if isinstance(port.target_port, int) else port.port, port.port)
    for port in tcp:
        ports.setdefault(port.port, port.port)  # a gateway may also say the port of the Service itself
    ingress = service.status.load_balancer.ingress or () if service.spec.type == "LoadBalancer" else ()
    addresses = [*(i.ip for i in ingress if i.ip), *(service.spec.external_ips or ())]
    names = tuple(sorted({i.hostname for i in ingress if i.hostname and not i.ip}))
    reason = ""
    if not addresses and not names:
        reason = "its load balancer has no address yet"
        if service.spec.type != "LoadBalancer":
            reason = (
                f"it is of type {service.spec.type}, which tells no address: give each gateway the `address` of its "
                "node and the `port` that is open there, or make it a LoadBalancer"
            )
    return Front(
        addresses=tuple(sorted(set(addresses))),
        names=names,
        ports=tuple(sorted(ports.items())),
        only_port=only_port,
        reason=reason,
    )


def preferred(addresses: Collection[str]) -> tuple[str, ...]:
    """Those of IPv4, sorted; those of IPv6 where there are no others. What is no address is left out."""
    parsed = []
    for text in addresses:
        try:
            parsed.append(ipaddress.ip_address(text))
        except ValueError:
            continue
    smallest = min((a.version for a in parsed), default=4)
    return tuple(map(str, sorted(a for a in parsed if a.version == smallest)))


async def look_up(name: str) -> list[str]:
    """The addresses of a name. Raises OSError."""
    async with asyncio.timeout(_LOOK_UP_SECONDS):
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return sorted({str(sockaddr[0]) for *_, sockaddr in found})


class ServiceFront:
    """`run` until cancelled; `reach` is set once the Service was read, and whenever it says something else."""

    def __init__(
        self,
        client: KubeClient,
        name: str,
        *,
        namespace: str,
        lists: asyncio.Semaphore,
        watch_seconds: float,
        confirm_seconds: float,
        clock: Clock,
        log: Logger,
        rng: random.Random | None = None,
    ) -> None:
        self.reach: Latest[Reach | None] = Latest(None)
        self.name = f"{namespace}/{name}"
        self._key: Key = (namespace, name)
        self._wake = asyncio.Event()
        self._store: Store[GatewayService] = Store(lambda keys: self._wake.set() if self._key in keys else None)
        self._clock, self._log = clock, log
        self._resolved: dict[str, list[str]] = {}
        self._reflector: Reflector[GatewayService] = Reflector(
            client,
            SERVICES,
            msgspec.json.Decoder(GatewayService),
            self._store,
            clock=clock,
            rng=rng or random.Random(),
            log=log,
            lists=lists,
            namespace=namespace,
            watch_seconds=watch_seconds,
            confirm_seconds=confirm_seconds,
        )

    @property
    def problem(self) -> Latest[Problem | None]:
        """Why the Service cannot be read."""
        return self._reflector.problem

    async def run(self) -> None:
        """Follow the Service, and the addresses of its names."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reflector.run(), name="kube-gateway-service")
            synced = self._reflector.synced
            while not synced.value:
                await synced.newer(synced.version)
            while True:
                self._wake.clear()
                found = front(self._store.objects.get(self._key))
                reach = found.reach([a for name in found.names for a in await self._addresses(name)])
                if reach != self.reach.value:
                    self._log.info("gateways before", service=self.name, addresses=reach.addresses, reason=reach.reason)
                    self.reach.set(reach)
                await first_of(self._wake.wait(), self._clock.sleep(RESOLVE_SECONDS))

    async def _addresses(self, name: str) -> list[str]:
        """What was known last where nobody can say now."""
        try:
            found = await look_up(name)
        except (OSError, TimeoutError) as error:
            self._log.warning("load balancer not resolved", name=name, error=str(error))
        else:
            self._resolved[name] = found or self._resolved.get(name, [])
        return self._resolved.get(name, [])
