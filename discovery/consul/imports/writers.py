"""All datacenters of an agent: imports are written where it leads, and withdrawn where they are not wanted any more.

They are not wanted when writing is switched off, and when the registry says that this cluster is no member: an agent
that runs on after its cluster has left would otherwise write again what `fedctl cluster leave` has removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from discovery.consul.client import ConsulClient
from discovery.consul.imports.catalog import Catalog, Fence, Lost
from discovery.consul.imports.retire import retire
from discovery.consul.imports.settings import WriteSettings
from discovery.consul.imports.transport import DatacenterTransport
from discovery.consul.imports.writer import Writer
from discovery.sources.base import SourceState
from discovery.view import ClusterView
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.aio.tasks import cancel
from federation.errors import Denied, IsthmusError
from federation.log import Logger
from federation.model.cluster import Gateway, Problem


@dataclass(slots=True, kw_only=True)
class _Place:
    """One datacenter. `gate`: the lock, while this agent holds it and is to write."""

    datacenter: str
    catalog: Catalog
    leader: Latest[Fence | None]
    gate: Latest[Fence | None]
    writer: Writer
    problems: list[Problem] = field(default_factory=list)


class Writers:
    """`run` until cancelled. `datacenters`: name → namespace; `leaders`: the lock of each, while it is this agent's."""

    def __init__(
        self,
        settings: WriteSettings,
        client: ConsulClient,
        view: ClusterView,
        *,
        datacenters: Mapping[str, str],
        leaders: Mapping[str, Latest[Fence | None]],
        cluster: str,
        single_machine: bool,
        gateways: Latest[Mapping[str, Gateway]],
        source: Latest[SourceState],
        wait: float,
        on_problems: Callable[[list[Problem]], None],
        clock: Clock,
        log: Logger,
    ) -> None:
        self._settings, self._source, self._on_problems = settings, source, on_problems
        self._clock, self._log = clock, log
        self._member: Latest[bool] = Latest(True)
        self._known = asyncio.Event()
        self._places: list[_Place] = []
        for datacenter, namespace in datacenters.items():
            gate: Latest[Fence | None] = Latest(None)
            catalog = Catalog(DatacenterTransport(client, datacenter), node=settings.node_of(cluster), cluster=cluster)
            writer = Writer(
                settings,
                catalog,
                view,
                datacenter=datacenter,
                namespace=namespace,
                cluster=cluster,
                single_machine=single_machine,
                gateways=gateways,
                leader=gate,
                wait=wait,
                on_problems=lambda found, datacenter=datacenter: self._told(datacenter, found),  # type: ignore[misc]
                clock=clock,
                log=log,
            )
            self._places.append(
                _Place(datacenter=datacenter, catalog=catalog, leader=leaders[datacenter], gate=gate, writer=writer)
            )

    @property
    def addressed(self) -> bool:
        """Whether gateways are to have a way to every import."""
        return self._settings.enabled

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
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._wait_for_source(), name="consul-writers-source")
            for place in self._places:
                if self._settings.enabled:
                    tasks.create_task(place.writer.run(), name=f"consul-writer-{place.datacenter}")
                tasks.create_task(self._follow(place), name=f"consul-writers-{place.datacenter}")

    async def _wait_for_source(self) -> None:
        """What this cluster exports itself is part of its imports."""
        await self._known.wait()
        version = -1
        while True:
            version, state = await self._source.newer(version)
            if state.complete:
                break
        for place in self._places:
            place.writer.known()

    async def _follow(self, place: _Place) -> None:
        """Open the gate, or withdraw, as the lock and the membership have it."""
        withdrawing: asyncio.Task[None] | None = None
        try:
            while True:
                versions = place.leader.version, self._member.version
                fence = place.leader.value
                await cancel(withdrawing)
                withdrawing = None
                wanted = self._settings.enabled and self._member.value
                place.gate.set(fence if wanted else None)
                if fence is not None and not wanted:
                    withdrawing = asyncio.create_task(
                        self._withdraw(place, fence), name=f"consul-withdraw-{place.datacenter}"
                    )
                await _newer(place.leader, versions[0], self._member, versions[1])
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
        for place in self._places:
            if place.datacenter == datacenter:
                place.problems = found
        self._on_problems([problem for place in self._places for problem in place.problems])


async def _newer(first: Latest[Fence | None], seen: int, second: Latest[bool], seen_too: int) -> None:
    """Either of them is newer."""
    waits = [
        asyncio.ensure_future(first.newer(seen)),
        asyncio.ensure_future(second.newer(seen_too)),
    ]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
