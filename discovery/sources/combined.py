"""Several sources as one: a cluster with pods, Consul services, manifests and VMs has one set of services.

Arrives: the states of the parts, each whenever it changes. Leaves: one SourceState. A change of one part costs what
changed in it. What only one part knows is that part's own object; what several know is united
(discovery.sources.unite). A part that is away serves from its disk, or is not complete yet: then nothing is concluded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from discovery.report import changed_names
from discovery.sources.base import Preview, Source, SourceState, no_service
from discovery.sources.unite import Offer, unite
from federation.aio.latest import Latest
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Grant, Service
from federation.model.shared import SharedMap


class Part(NamedTuple):
    """A source and what its endpoints are said to come from: "kubernetes", "files", "consul".

    `whence`: what a source can say beyond that, by address ("vm db-1").
    """

    kind: str
    source: Source
    whence: Callable[[ServiceName], Mapping[str, str]] | None = None


def combine(parts: Sequence[Part]) -> Source:
    """The only one itself, or all as one; the earlier ones decide."""
    return parts[0].source if len(parts) == 1 else Combined(parts)


def whence(parts: Sequence[Part], name: ServiceName) -> dict[str, str]:
    """Address → source of the endpoints that this cluster offers of `name`; as `unite`, the earlier part counts."""
    found: dict[str, str] = {}
    for part in parts:
        state = part.source.state.value
        service = state.exports.get(name) or state.unexported.get(name)
        if service is not None:
            told = part.whence(name) if part.whence is not None else {}
            found = {e.address: told.get(e.address, part.kind) for e in service.endpoints} | found
    return found


class _Names(Collection[ServiceName]):
    """The names of several collections, each once; putting it together costs nothing."""

    def __init__(self, parts: Iterable[Collection[ServiceName]]) -> None:
        self.parts = tuple(parts)

    def __contains__(self, name: object) -> bool:
        return any(name in part for part in self.parts)

    def __iter__(self) -> Iterator[ServiceName]:
        for number, part in enumerate(self.parts):
            yield from (n for n in part if not any(n in before for before in self.parts[:number]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Combined:
    """Source over `parts`, in the order in which they decide."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.state: Latest[SourceState] = Latest(SourceState())
        self._parts = tuple(parts)
        self._seen = [SourceState() for _ in parts]
        self._exports: SharedMap[ServiceName, Service] = SharedMap()
        self._conflicts: dict[ServiceName, tuple[Problem, ...]] = {}
        self._shown: tuple[Problem, ...] | None = ()
        self._alone = True
        """Only the first part has ever said anything: its states are the states of all."""

    async def run(self) -> None:
        """Run all parts and follow them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number, part in enumerate(self._parts):
                tasks.create_task(part.source.run(), name=f"source-{part.kind}")
                tasks.create_task(self._follow(number, part), name=f"follow-{part.kind}")

    async def _follow(self, number: int, part: Part) -> None:
        version = -1
        while True:
            version, state = await part.source.state.newer(version)
            self.take(number, state)

    def take(self, number: int, state: SourceState) -> None:
        """The state of part `number` is this now."""
        last, self._seen[number] = self._seen[number], state
        if state is last:
            return
        if self._alone:
            if number == 0 or not (state.exports or state.unexported or state.services or state.problems):
                self._hand_on()
                return
            self._alone, self._exports = False, SharedMap(self._seen[0].exports)
        put: dict[ServiceName, Service] = {}
        gone: list[ServiceName] = []
        for name in _changed(last, state):
            service, conflicts = self._unite(name)
            held = self._exports.get(name)
            if service is None:
                if held is not None:
                    gone.append(name)
            elif service is not held and (service != held or any(service is o.service for o in self._offers(name))):
                put[name] = service
            self._note(name, conflicts)
        if put or gone:
            self._exports = self._exports.with_(put, gone)
        self._publish(frozenset({*put, *gone}))

    # --- what leaves -------------------------------------------------------------------------------------------------

    def _hand_on(self) -> None:
        """The state of the first part as it is."""
        state = self._seen[0]
        unread = self._unread()
        if (state.complete and not all(other.complete for other in self._seen)) or state.unread != unread:
            state = replace(state, complete=all(other.complete for other in self._seen), unread=unread)
        last = self.state.value
        if (state.number, state.complete, state.unread) != (last.number, last.complete, last.unread):
            self.state.set(state)

    def _offers(self, name: ServiceName, *, instead: Mapping[int, Service | None] | None = None) -> list[Offer]:
        """What the parts say of `name`; `instead`: what some would export of it."""
        offers = []
        for number, (part, state) in enumerate(zip(self._parts, self._seen, strict=True)):
            exported = state.exports.get(name) if instead is None or number not in instead else instead[number]
            if exported is not None:
                offers.append(Offer(place=part.kind, service=exported))
            elif (unexported := state.unexported.get(name)) is not None:
                offers.append(Offer(place=part.kind, service=unexported, exported=False))
        return offers

    def _unite(
        self, name: ServiceName, *, instead: Mapping[int, Service | None] | None = None
    ) -> tuple[Service | None, tuple[Problem, ...]]:
        offers = self._offers(name, instead=instead)
        if not any(offer.exported for offer in offers):
            return None, ()
        return unite(name, offers)

    def _note(self, name: ServiceName, conflicts: tuple[Problem, ...]) -> None:
        if conflicts != self._conflicts.get(name, ()):
            self._shown = None
            if conflicts:
                self._conflicts[name] = conflicts
            else:
                del self._conflicts[name]

    def _publish(self, changed: frozenset[ServiceName]) -> None:
        """Set the state when it differs from the last one."""
        last = self.state.value
        if self._shown is None:
            self._shown = tuple(p for name in sorted(self._conflicts) for p in self._conflicts[name])
        problems = (*(p for state in self._seen for p in state.problems), *self._shown)
        complete = last.complete or all(state.complete for state in self._seen)
        services: Collection[ServiceName] = last.services
        given = tuple(state.services for state in self._seen)
        same = isinstance(services, _Names) and all(a is b for a, b in zip(services.parts, given, strict=True))
        unread = self._unread()
        told = (problems, complete, unread) == (last.problems, last.complete, last.unread)
        if same and not changed and told:
            return
        self.state.set(
            SourceState(
                exports=self._exports,
                services=services if same else _Names(given),
                problems=problems,
                complete=complete,
                unread=unread,
                number=last.number + 1,
                changed=changed,
            )
        )

    def _unread(self) -> frozenset[str]:
        return frozenset().union(*(state.unread for state in self._seen))

    # --- what is asked -----------------------------------------------------------------------------------------------

    @property
    def what(self) -> str:
        return " and ".join(part.source.what for part in self._parts)

    def has_namespace(self, namespace: str) -> bool | None:
        """As the part says that decides."""
        return self._parts[0].source.has_namespace(namespace)

    async def export(self, name: ServiceName, grants: tuple[Grant, ...]) -> tuple[str, bool]:
        """In the part that has the service; raises as that does."""
        return await self._parts[self._holder(name, exported=False)].source.export(name, grants)

    async def unexport(self, name: ServiceName) -> tuple[str, bool]:
        """In the first part that exports it; raises as that does."""
        return await self._parts[self._holder(name, exported=True)].source.unexport(name)

    async def preview(self, name: ServiceName, grants: tuple[Grant, ...] | None) -> Preview:
        """As `export` or `unexport`; the claim is that of all parts."""
        number = self._holder(name, exported=grants is None)
        planned = await self._parts[number].source.preview(name, grants)
        if grants is None and not planned.changed:
            return planned
        return replace(planned, claim=self._unite(name, instead={number: planned.claim})[0])

    def _holder(self, name: ServiceName, *, exported: bool) -> int:
        """The number of the first part that has, or exports, `name`. Raises NotFound, Unavailable."""
        states = [part.source.state.value for part in self._parts]
        wanted: list[Iterable[int]] = [(n for n, s in enumerate(states) if name in s.services)]
        if exported:
            wanted.insert(0, (n for n, s in enumerate(states) if name in s.exports))
        found = next((number for numbers in wanted for number in numbers), None)
        if found is None:
            raise no_service(name, self.state.value, what=self.what)
        return found


def _changed(last: SourceState, state: SourceState) -> set[ServiceName]:
    """The names whose entry in one of the mappings is another object."""
    among = state.changed if state.number == last.number + 1 else None
    return changed_names(last.exports, state.exports, among=among) | changed_names(
        last.unexported, state.unexported, among=among
    )
