"""Keeps the names in use: carries the plans of `demand` out, and brings holdings into the DNS table and to Envoy.

Arrive: look-ups that the table could not answer, clusters that Envoy asks for, the agent's answers. Leave:
subscriptions, records, uses. A name gets its records when Envoy has acknowledged its listener, so that the first
connection finds it; in the redirect way the one listener of all names will do, and Envoy asks for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from federation.aio.clock import Clock
from federation.dns import names
from federation.dns.table import Table
from federation.envoy.names import parse_vip_cluster
from federation.envoy.outbound import tcp_ports
from federation.errors import QuotaExceeded
from federation.log import Logger
from federation.model.ids import ServiceName
from federation.model.service import Import
from sidecar.build.outbound import Use
from sidecar.demand import Demand, Plan, State
from sidecar.holding import NOTHING, Holding, hold, is_http
from sidecar.vip import Range, VirtualAddresses

ACKNOWLEDGE_LIMIT = 0.5
"""Seconds for which an answer waits for Envoy: without Envoy, the address alone is still better than an error."""

FIRST = 1
"""The ticket of the first push of all: with it the listener of the redirect way stands."""

START_LIMIT = 1.5
"""The same for what is held from before a start, when Envoy starts as well; below the time that a look-up may take."""

RECHECK = 2.0
"""Seconds between two looks at whether a clash has ended."""


class Outside(Protocol):
    """What the keeper asks of the process around it."""

    def find(self, service: ServiceName) -> Import | None: ...
    def clusters(self) -> Collection[str]: ...
    def subscribe(self, services: Iterable[ServiceName]) -> None: ...
    def unsubscribe(self, services: Iterable[ServiceName]) -> None: ...
    def publish(self, *, urgent: bool = False) -> int: ...
    async def acknowledged(self, ticket: int, limit: float) -> bool: ...
    def clash(self, address: str, ports: Sequence[int]) -> str: ...
    def rejected(self, address: str, ports: Sequence[int]) -> str: ...
    def told(self, clashes: dict[str, str]) -> None: ...


@dataclass(frozen=True, slots=True)
class KeeperConfig:
    """`redirect`: whether one listener catches everything, so that no address can clash."""

    suffix: str
    redirect: bool


Pin = tuple[ServiceName, str | None]


class Keeper:
    """All names of one sidecar."""

    def __init__(
        self,
        *,
        demand: Demand,
        vips: VirtualAddresses,
        table: Table,
        outside: Outside,
        config: KeeperConfig,
        clock: Clock,
        log: Logger,
    ) -> None:
        self._demand, self._vips, self._table = demand, vips, table
        self._outside, self._config, self._clock, self._log = outside, config, clock, log
        self._holdings: dict[ServiceName, Holding] = {}
        self._in_use: dict[ServiceName, tuple[Use, ...]] = {}
        self._changed: set[ServiceName] = set()
        self._pins: dict[ServiceName, set[str]] = {}
        self._clashes: dict[Pin, str] = {}
        self._listening: dict[str, frozenset[int]] = {}  # what Envoy was told to listen on
        self._answers: dict[ServiceName, asyncio.Future[None]] = {}
        self._introductions: dict[ServiceName, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._running = asyncio.Event()

    # --- what others read

    def uses(self) -> list[Use]:
        """Everything that Envoy has to serve, sorted by name."""
        return [use for _, holding in sorted(self._holdings.items()) for use in holding.uses]

    @property
    def in_use(self) -> Mapping[ServiceName, tuple[Use, ...]]:
        """The same by service."""
        return self._in_use

    def take_changed(self) -> set[ServiceName]:
        """The services whose uses may have changed since this was last called."""
        changed, self._changed = self._changed, set()
        return changed

    def via_gateway(self) -> list[ServiceName]:
        """The services that are led through the gateway, sorted."""
        return [service for service, h in sorted(self._holdings.items()) if h.via]

    def count(self, state: State) -> int:
        return sum(self._demand.state(name) is state for name in self._demand.held())

    # --- what comes in

    def restore(self) -> None:
        """Hold again what was in use when the process ended."""
        now = self._clock.monotonic()
        for lease in sorted(self._vips.in_use(), key=lambda x: x.address):
            if lease.cluster is not None:
                self._pins.setdefault(lease.service, set()).add(lease.cluster)
            self._carry(self._demand.ask(lease.service, now))
        for service in list(self._demand.held()):
            if self._outside.find(service) is not None:
                self._carry(self._demand.present(service, now))
                if self._demand.state(service) is State.PRESENT:
                    self._refresh(service)

    async def look_up(self, text: str) -> bool | str:
        """A name of ours that the table has not: True when it is there now, otherwise why it does not exist."""
        wanted = names.parse(text, suffix=self._config.suffix)
        if wanted is None:
            return "no service can have such a name"
        service, cluster = wanted.use
        self._carry(self._demand.ask(service, self._clock.monotonic()))
        while self._demand.state(service) is State.ASKED:
            await self._answer(service)
        state = self._demand.state(service)
        if state is None:
            return "too many names are in use at this sidecar (names_limit)"
        if state is State.ABSENT:
            return names.absent(wanted, known_clusters=self._outside.clusters())
        self._pin(service, cluster)
        await self._running.wait()  # a name of the last run is not denied while this one begins
        while service in self._introductions:
            await asyncio.wait([self._introductions[service]])
        if self._table.get(text) is not None:
            return True
        return names.absent(wanted, known_clusters=self._outside.clusters(), imp=self._outside.find(service))

    def demanded(self, clusters: Iterable[str]) -> list[str]:
        """Envoy asks for clusters of redirected connections; returns those that nothing is known of."""
        unknown: list[str] = []
        for cluster in clusters:
            destination = parse_vip_cluster(cluster)
            lease = self._vips.find(destination[0]) if destination else None
            if lease is None:
                unknown.append(cluster)
                continue
            self._carry(self._demand.ask(lease.service, self._clock.monotonic()))
            if lease.cluster is not None:
                self._pins.setdefault(lease.service, set()).add(lease.cluster)
            if self._demand.state(lease.service) is State.PRESENT:
                self._refresh(lease.service)
            elif self._demand.state(lease.service) is State.ABSENT:
                unknown.append(cluster)
        return unknown

    def changed(self, services: Iterable[ServiceName], absent: Iterable[str]) -> None:
        """The agent told something of these imports, or that these subscribed names do not exist."""
        now = self._clock.monotonic()
        for service in services:
            if self._outside.find(service) is None:
                self._gone(service, now)
                continue
            self._carry(self._demand.present(service, now))
            if self._demand.state(service) is State.PRESENT:
                self._refresh(service)
            self._settle(service)
        for text in absent:
            self._gone(ServiceName.parse(text), now)

    async def run(self) -> None:
        """Introduce names, release idle ones and follow clashes, for ever."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._follow_clashes(), name="keeper-clashes")
            for service in list(self._holdings):
                self._introduce(service, self._outside.publish(), limit=START_LIMIT)
            self._running.set()
            await asyncio.get_running_loop().create_future()  # until it is cancelled

    def sweep(self, carried: Collection[ServiceName]) -> None:
        """Release what has not been used for long; `carried` are the services that Envoy had something to do for."""
        now = self._clock.monotonic()
        for service in list(self._demand.present_names()):
            holding = self._holdings.get(service, NOTHING)
            looked_up = [self._table.looked_up(name) for name in holding.records]  # each must be asked
            if any(looked_up):
                self._demand.touch(service, now)
        self._demand.carrying(carried, now)
        self._carry(self._demand.expire(now))

    # --- how it is carried out

    def _carry(self, plan: Plan) -> None:
        if plan.subscribe:
            self._outside.subscribe(plan.subscribe)
        for service in plan.release:
            self._drop(service)
            self._pins.pop(service, None)
            self._settle(service)
        if plan.release:
            self._outside.unsubscribe(plan.release)
        for service in plan.refused:
            self._log.warning("too many names in use", service=str(service))

    def _answer(self, service: ServiceName) -> Awaitable[None]:
        """Done when the state of `service` has changed."""
        waiter = self._answers.get(service)
        if waiter is None:
            waiter = self._answers[service] = asyncio.get_running_loop().create_future()
        return asyncio.shield(waiter)

    def _settle(self, service: ServiceName) -> None:
        waiter = self._answers.pop(service, None)
        if waiter is not None:
            waiter.set_result(None)

    def _gone(self, service: ServiceName, now: float) -> None:
        self._carry(self._demand.absent(service, now))
        self._drop(service)
        self._settle(service)

    def _drop(self, service: ServiceName) -> None:
        holding = self._holdings.pop(service, None)
        if holding is None:
            return
        self._in_use.pop(service, None)
        self._changed.add(service)
        for name in holding.records:
            self._table.remove(name)
        for cluster in (None, *self._pins.get(service, ())):
            self._vips.release(service, cluster)
            self._clashes.pop((service, cluster), None)
        for use in holding.uses:
            self._listening.pop(use.vip, None)
        self._tell()
        self._outside.publish()

    def _pin(self, service: ServiceName, cluster: str | None) -> None:
        pins = self._pins.setdefault(service, set())
        if cluster is not None and cluster not in pins:
            imp = self._outside.find(service)
            if imp is not None and any(b.cluster == cluster for b in imp.backends):
                pins.add(cluster)
                self._refresh(service)

    def _refresh(self, service: ServiceName) -> None:
        """Make the holding of a present name anew."""
        imp = self._outside.find(service)
        if imp is None:
            return
        addresses: dict[str | None, str] = {}
        for cluster in (None, *sorted(self._pins.get(service, ()))):
            addresses[cluster] = self._address(imp, cluster)
        clashes = {c: text for c in addresses if (text := self._clashes.get((service, c), ""))}
        old = self._holdings.get(service, NOTHING)
        new = hold(imp, addresses, suffix=self._config.suffix, clashes=clashes)
        self._holdings[service] = new
        self._in_use[service] = new.uses
        self._changed.add(service)
        for name in old.records.keys() - new.records.keys():
            self._table.remove(name)
        added = bool(set(new.uses) - set(old.uses))
        ticket = self._outside.publish(urgent=added)  # a look-up waits behind it
        if added:
            self._introduce(service, ticket if self._prepared(imp) else FIRST)
        elif service not in self._introductions:
            self._put(new)
        if (new.clash, new.via) != (old.clash, old.via):
            self._tell()

    def _prepared(self, imp: Import) -> bool:
        """Whether Envoy has to be ready for the service before anybody connects.

        In the redirect way it asks for what it lacks when a connection arrives; but whether a port is opaque, where
        others are HTTP, the listener has to know.
        """
        return not self._config.redirect or (is_http(imp) and any(not p.app.is_http for p in tcp_ports(imp)))

    def _address(self, imp: Import, cluster: str | None) -> str:
        """The virtual address, checked for clashes on the ports that are new."""
        kind = Range.of(redirect=self._config.redirect, http=is_http(imp))
        pin = (imp.name, cluster)
        try:
            address = self._vips.allocate(imp.name, cluster, kind=kind)
        except QuotaExceeded as error:
            self._clashes[pin] = str(error)
            return ""
        if self._config.redirect:
            return address
        ports = frozenset(p.port for p in tcp_ports(imp))
        fresh = ports - self._listening.get(address, frozenset())
        text = self._outside.clash(address, sorted(fresh)) if fresh else ""
        if text:
            self._clashes[pin] = text
            self._listening.pop(address, None)
        elif pin not in self._clashes:
            self._listening[address] = ports
        return address

    def _introduce(self, service: ServiceName, ticket: int, *, limit: float = ACKNOWLEDGE_LIMIT) -> None:
        """Put the records once Envoy has what they lead to. Before `run` nothing is put: nobody asks yet."""
        if self._group is None:
            return
        task = self._group.create_task(self._introduction(service, ticket, limit), name=f"introduce-{service}")
        self._introductions[service] = task

    async def _introduction(self, service: ServiceName, ticket: int, limit: float) -> None:
        me = asyncio.current_task()
        try:
            await self._outside.acknowledged(ticket, limit)
        finally:
            if self._introductions.get(service) is me:
                del self._introductions[service]
        if service in self._introductions:
            await asyncio.wait([self._introductions[service]])  # a newer one knows better
        elif service in self._holdings and not self._fell_back(service):
            self._put(self._holdings[service])

    def _put(self, holding: Holding) -> None:
        for name, records in holding.records.items():
            self._table.put(name, records)

    def _fell_back(self, service: ServiceName) -> bool:
        """Whether Envoy could not listen for `service`; it is then led through the gateway."""
        found = False
        for use in self._holdings[service].uses:
            ports = self._listening.get(use.vip, frozenset())
            text = self._outside.rejected(use.vip, sorted(ports)) if ports else ""
            if text:
                self._clashes[service, use.pinned] = text
                self._listening.pop(use.vip, None)
                found = True
        if found:
            self._refresh(service)
            self._put(self._holdings[service])
        return found

    def _tell(self) -> None:
        self._outside.told({str(service): h.clash for service, h in sorted(self._holdings.items()) if h.clash})

    async def _follow_clashes(self) -> None:
        while True:
            await self._clock.sleep(RECHECK)
            self.recheck()

    def recheck(self) -> None:
        """See whether clashes have ended, and whether Envoy lost a listener."""
        for service, cluster in list(self._clashes):
            imp = self._outside.find(service)
            if imp is None or service not in self._holdings:
                continue
            del self._clashes[service, cluster]
            self._address(imp, cluster)
            if (service, cluster) not in self._clashes:
                self._log.info("clash ended", service=str(service))
                self._refresh(service)
        for service in list(self._holdings):
            if service not in self._introductions:
                self._fell_back(service)
