"""What every source of services offers the agent: its newest state, and a loop that keeps it so.

A source (files, later Kubernetes and Consul) translates what it reads into `federation.model.service.Service` values;
nothing behind it knows where a service came from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from federation.aio.latest import Latest
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Grant, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """All that a source knows at one moment.

    `exports` are the exported services with their local endpoints; unchanged services are the same objects from state
    to state, so that a change is found by identity. `services` names every service, exported or not. `complete` is
    False until the source has read everything once: nothing may be deleted on the word of an incomplete state.
    `changed` holds every name whose export may differ from the state numbered one less; None: any may. Both mappings
    never change; federation.model.shared makes the next ones for what the change costs.
    """

    exports: Mapping[ServiceName, Service] = field(default_factory=dict)
    services: Collection[ServiceName] = frozenset()
    problems: tuple[Problem, ...] = ()
    complete: bool = False
    number: int = 0
    changed: frozenset[ServiceName] | None = None


class Source(Protocol):
    """One place that services come from."""

    state: Latest[SourceState]

    async def run(self) -> None:
        """Follow the place until cancelled; failures are Problems in the state, not exceptions."""
        ...

    async def export(self, name: ServiceName, grants: tuple[Grant, ...]) -> tuple[str, bool]:
        """Export a service there; what was written, and whether it changed anything.

        Raises NotFound for a service that does not exist, Conflict for an export that something else wrote.
        """
        ...

    async def unexport(self, name: ServiceName) -> tuple[str, bool]:
        """Take an export back; what was removed, and whether there was one. Raises NotFound, Conflict."""
        ...
