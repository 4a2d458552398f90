"""What every source of services offers the agent: its newest state, and a loop that keeps it so.

A source translates what it reads into `federation.model.service.Service` values; nothing behind it knows where a
service came from. Several of them are one by discovery.sources.combined.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from federation.aio.latest import Latest
from federation.errors import Conflict, IsthmusError, NotFound, Unavailable
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Grant, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """All that a source knows at one moment.

    `exports` are the exported services with their local endpoints; unchanged services are the same objects from state
    to state, so that a change is found by identity. `services` names every service, exported or not. `complete` is
    False until the source has read everything once: nothing may be deleted on the word of an incomplete state. What was
    never read here, so that nothing of it was ever reported, is not waited for: `unread` has the namespaces in which it
    may have services, and of a name there nobody may say that it does not exist.
    `changed` holds every name whose export, or entry in `unexported`, may differ from the state numbered one less;
    None: any may. The mappings never change; federation.model.shared makes the next ones for what the change costs.
    """

    exports: Mapping[ServiceName, Service] = field(default_factory=dict)
    unexported: Mapping[ServiceName, Service] = field(default_factory=dict)
    services: Collection[ServiceName] = frozenset()
    problems: tuple[Problem, ...] = ()
    complete: bool = False
    unread: frozenset[str] = frozenset()
    number: int = 0
    changed: frozenset[ServiceName] | None = None


def successor(
    last: SourceState,
    *,
    exports: Mapping[ServiceName, Service],
    services: Collection[ServiceName],
    problems: tuple[Problem, ...],
    complete: bool,
    changed: frozenset[ServiceName],
    unread: frozenset[str] = frozenset(),
) -> SourceState | None:
    """The state after `last`, None where it would say the same. `changed`: the names that were built anew.

    What was complete stays so: a place that is away has not lost what was read.
    """
    complete = last.complete or complete
    same = all(exports.get(name) is last.exports.get(name) for name in changed)
    told = (problems, complete, unread) == (last.problems, last.complete, last.unread)
    if same and services is last.services and told:
        return None
    return SourceState(
        exports=exports,
        services=services,
        problems=problems,
        complete=complete,
        unread=unread,
        number=last.number + 1,
        changed=changed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What `export` or `unexport` would do, and what of the service would be offered then.

    `where` is what would be written or removed. `claim`: the service as it would be offered, None where it would not be
    any more. `uncarried`: (port, protocol) of its ports that gateways and sidecars do not carry.
    """

    where: str
    changed: bool
    claim: Service | None = None
    uncarried: tuple[tuple[int, str], ...] = ()


class Source(Protocol):
    """One place that services come from."""

    state: Latest[SourceState]

    @property
    def what(self) -> str:
        """The place, in words: "the manifests in …", "the API server …"."""
        ...

    async def run(self) -> None:
        """Follow the place until cancelled; failures are Problems in the state, not exceptions."""
        ...

    async def export(self, name: ServiceName, grants: tuple[Grant, ...]) -> tuple[str, bool]:
        """Export a service there; what was written, and whether it changed anything.

        Raises NotFound for a service that does not exist, Conflict for one that cannot be exported and for an export
        that something else wrote, Unavailable before the place has been read.
        """
        ...

    async def unexport(self, name: ServiceName) -> tuple[str, bool]:
        """Take an export back; what was removed, and whether there was one. Raises NotFound, Conflict."""
        ...

    async def preview(self, name: ServiceName, grants: tuple[Grant, ...] | None) -> Preview:
        """What `export` with these grants would do, or `unexport` (None). Writes nothing; raises as they do."""
        ...

    def has_namespace(self, namespace: str) -> bool | None:
        """Whether what others export in `namespace` has a place here; None while that is not known."""
        ...


def no_service(name: ServiceName, state: SourceState, *, what: str) -> IsthmusError:
    """Why a service that was not found cannot be exported: before everything was read, nobody knows that it is not
    there."""
    if not state.complete or name.namespace in state.unread:
        return Unavailable(
            f"it is not known yet whether there is a Service {name}: {what} could not be read",
            hint=next((f"{p.subject}: {p.detail}" for p in state.problems), "try again in a moment"),
            code="source_not_read",
        )
    known = ", ".join(map(str, sorted(state.services)[:5]))
    return NotFound(f"there is no Service {name} in {what}", hint=f"known: {known or 'none'}", code="no_service")


def not_offered(name: ServiceName, problem: Problem) -> Conflict:
    """An export of `name` would be written and nobody could see the service, for what `problem` says."""
    return Conflict(f"{name} cannot be exported: {problem.detail.removeprefix(f'{name}: ')}", code=problem.code)
