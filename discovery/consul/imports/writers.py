"""All datacenters of an agent: imports are written where it leads, and withdrawn where they are not wanted any more.

They are not wanted when writing is switched off, and when the registry says that this cluster is no member: an agent
that runs on after its cluster has left would otherwise write again what `fedctl cluster leave` has removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from discovery.consul.client import ConsulClient
from discovery.consul.imports.catalog import Catalog, Fence, Lost
from discovery.consul.imports.names import hosts
from discovery.consul.imports.retire import retire
from discovery.consul.imports.transport import DatacenterTransport
from discovery.consul.imports.writer import Writer
from discovery.consul.settings import ConsulSettings
from discovery.settings import AgentSettings
from discovery.sources.base import SourceState
from discovery.view import ClusterView
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel, first_of
from federation.errors import Denied, IsthmusError
from federation.log import Logger
from federation.model.cluster import Gateway, Problem
from federation.model.service import Import


class Leading(Protocol):
    """The lock of a datacenter: `leader` is an epoch while this agent holds `key` with `session`."""

    @property
    def leader(self) -> Latest[int | None]: ...
    @property
    def key(self) -> str: ...
    @property
    def session(self) -> str: ...


class Fenced:
    """A lock as the fence of what is written under it."""

    def __init__(self, lock: Leading) -> None:
        self._lock = lock
        self.leader: Latest[Fence | None] = Latest(None)

    async def run(self) -> None:
        """Follow the lock until cancelled."""
        version = -1
        while True:
            version, _ = await self._lock.leader.newer(version)
            held = self._lock.leader.value is not None and self._lock.session
            fence = Fence(self._lock.key, self._lock.session) if held else None
            if fence != self.leader.value:
                self.leader.set(fence)


@dataclass(slots=True, kw_only=True)
class _Place:
    """One datacenter. `gate`: the lock, while this agent holds it and is to write."""

    datacenter: str
    catalog: Catalog
    lock: Fenced
    gate: Latest[Fence | None]
    writer: Writer
    problems: list[Problem] = field(default_factory=list)


class Writers:
    """`run` until cancelled, which also closes `client`. `locks`: of each datacenter."""

    def __init__(
        self,
        settings: ConsulSettings,
        client: ConsulClient,
        view: ClusterView,
        locks: Mapping[str, Leading],
        *,
        cluster: str,
        single_machine: bool,
        gateways: Latest[Mapping[str, Gateway]],
        source: Latest[SourceState],
        on_problems: Callable[[list[Problem]], None],
        clock: Clock,
        log: Logger,
    ) -> None:
        write = settings.write
        self._settings, self._client, self._source, self._on_problems = write, client, source, on_problems
        self._clock, self._log = clock, log
        self._member: Latest[bool] = Latest(True)
        self._known = asyncio.Event()
        self._places: dict[str, _Place] = {}
        for datacenter, namespace in settings.datacenters.items():
            gate: Latest[Fence | None] = Latest(None)
            catalog = Catalog(DatacenterTransport(client, datacenter), node=write.node_of(cluster), cluster=cluster)
            writer = Writer(
                write,
                catalog,
                view,
                datacenter=datacenter,
                namespace=namespace,
                cluster=cluster,
                single_machine=single_machine,
                gateways=gateways,
                leader=gate,
                wait=settings.wait,
                on_problems=partial(self._told, datacenter),
                clock=clock,
                log=log,
            )
            self._places[datacenter] = _Place(
                catalog=catalog, lock=Fenced(locks[datacenter]), gate=gate, writer=writer, datacenter=datacenter
            )

    @property
    def addressed(self) -> bool:
        """Whether gateways are to have a way to every import."""
        return self._settings.enabled

    def leads(self, datacenter: str) -> bool:
        """Whether this agent is the one that writes there."""
        return self._places[datacenter].lock.leader.value is not None

    def view_known(self) -> None:
        """The view says what there is: the registry has told all of it, or it was on disk."""
        self._known.set()

    def acknowledged(self) -> None:
        """What the registry has taken is nothing to Consul."""

    def membership(self, member: bool) -> None:
        """Whether the registry has this cluster for a member."""
        if member != self._member.value:
            self._member.set(member)

    async def run(self) -> None:
        """Follow the locks, and write or withdraw, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._wait_for_source(), name="consul-writers-source")
                tasks.create_task(self._client.follow_token(), name="consul-writers-token")
                for name, place in self._places.items():
                    tasks.create_task(place.lock.run(), name=f"consul-lock-{name}")
                    if self._settings.enabled:
                        tasks.create_task(place.writer.run(), name=f"consul-writer-{name}")
                    tasks.create_task(self._follow(place), name=f"consul-writers-{name}")
        finally:
            await self._client.close()

    async def _wait_for_source(self) -> None:
        """What this cluster exports itself is part of its imports."""
        await self._known.wait()
        version = -1
        while True:
            version, state = await self._source.newer(version)
            if state.complete:
                break
        for place in self._places.values():
            place.writer.known()

    async def _follow(self, place: _Place) -> None:
        """Open the gate, or withdraw, as the lock and the membership have it."""
        withdrawing: asyncio.Task[None] | None = None
        try:
            while True:
                versions = place.lock.leader.version, self._member.version
                fence = place.lock.leader.value
                await cancel(withdrawing)
                withdrawing = None
                wanted = self._settings.enabled and self._member.value
                place.gate.set(fence if wanted else None)
                if fence is not None and not wanted:
                    withdrawing = asyncio.create_task(
                        self._withdraw(place, fence), name=f"consul-withdraw-{place.datacenter}"
                    )
                await first_of(place.lock.leader.newer(versions[0]), self._member.newer(versions[1]))
        finally:
            await cancel(withdrawing)

    async def _withdraw(self, place: _Place, fence: Fence) -> None:
        backoff = Backoff(base=0.5, cap=30.0)
        while True:
            try:
                removed = await retire(place.catalog, fence)
            except (Denied, Lost) as error:
                # Without the rights to write nothing can have been written lately; this is no place to ask for them.
                self._log.debug("not withdrawn", datacenter=place.datacenter, error=error.message)
                return
            except IsthmusError as error:
                self._log.info("not withdrawn yet", datacenter=place.datacenter, error=error.message)
                await self._clock.sleep(backoff.next())
                continue
            if not removed:
                return
            self._log.info("withdrawn from Consul", datacenter=place.datacenter, removed=len(removed))
            await self._clock.sleep(backoff.next())  # a last transaction of ours may still have been on its way

    def _told(self, datacenter: str, found: list[Problem]) -> None:
        self._places[datacenter].problems = found
        self._on_problems([problem for place in self._places.values() for problem in place.problems])


def make_writers(
    settings: AgentSettings,
    view: ClusterView,
    locks: Mapping[str, Leading] | None,
    *,
    gateways: Latest[Mapping[str, Gateway]],
    source: Latest[SourceState],
    on_problems: Callable[[list[Problem]], None],
    clock: Clock,
    log: Logger,
) -> Writers | None:
    """The writers of an agent whose services are in Consul; None for others, and without locks there."""
    if settings.consul is None or locks is None:
        return None
    log = log.bind(part="consul-writer")
    return Writers(
        settings.consul,
        ConsulClient(settings.consul, clock=clock, log=log),
        view,
        locks,
        cluster=settings.cluster,
        single_machine=settings.single_machine,
        gateways=gateways,
        source=source,
        on_problems=on_problems,
        clock=clock,
        log=log,
    )


def import_aliases(settings: AgentSettings) -> Callable[[Import], tuple[str, ...]]:
    """Import.aliases as such an agent gives them: the names that imports have in its datacenters."""
    consul = settings.consul
    if consul is None or not consul.write.enabled:
        return lambda _: ()
    write, datacenters = consul.write, consul.datacenters

    def aliases(imported: Import) -> tuple[str, ...]:
        if not write.covers(imported.name):
            return ()
        found = (
            hosts(imported, write.rule(namespace), datacenter=name, domain=write.domain)
            for name, namespace in datacenters.items()
        )
        return tuple(dict.fromkeys(host for names in found for host in names))

    return aliases
