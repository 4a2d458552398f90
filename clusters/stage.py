"""What the story of the demo is played on: a federation, whatever its clusters are made of.

`clusters.processstage` is one of processes, on folders or on API servers; `clusters.kind.stage` one of containers.
What goes wrong in the story is said in the words of `clusters.faults`; what takes other means on each is named here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from clusters.faults import Faults
from clusters.load import Outcome
from clusters.processes import HTTP_SERVICE, NAMESPACE, TCP_SERVICE
from clusters.progress import Say
from clusters.propagation import Propagation
from clusters.topology import STOCK, Topology

CALLER, NEAREST, FARTHEST = "east", "west", "edge"
"""Who calls in the story, who takes over first (same region), and who last, where there is such a cluster."""

GLOBAL_NAME = f"{HTTP_SERVICE}.{NAMESPACE}.global"
CLUSTERSET_NAME = f"{HTTP_SERVICE}.{NAMESPACE}.svc.clusterset.local"
TCP_NAME = f"{TCP_SERVICE}.{NAMESPACE}.global"
STOCK_NAME = f"{STOCK.name}.{NAMESPACE}.global"


class Calls(Protocol):
    """Requests that somebody in CALLER sends all the while."""

    async def outcomes(self, since: int = 0) -> Sequence[Outcome]:
        """The outcomes from index `since` on, in the order in which they ended."""
        ...

    async def stop(self) -> None:
        """Stop sending; what `outcomes` then tells is all of them. Once more does nothing."""
        ...


class Stage(Protocol):
    """A federation with copies of the services in every cluster. Moments are monotonic (s)."""

    @property
    def topology(self) -> Topology: ...

    @property
    def faults(self) -> Faults:
        """What can be done to its clusters; the components of one are "agent" and "gateway"."""
        ...

    @property
    def left_out(self) -> Sequence[str]:
        """What the story does not show here, each with what would bring it."""
        ...

    async def build(self, say: Say) -> None:
        """Make all of it, joined and linked, with the services exported; returns when it is whole."""
        ...

    async def look_up(self, name: str) -> list[str]:
        """The addresses of the name, as a workload in CALLER sees them; raises Unavailable."""
        ...

    async def calling(self, name: str) -> Calls:
        """Begin to call the HTTP service of that name from CALLER."""
        ...

    async def greeting(self, name: str) -> str:
        """The cluster whose TCP service answers somebody in CALLER who calls that name; raises Unavailable."""
        ...

    async def end_copy(self, cluster: str) -> float:
        """End the cluster's copy of the HTTP service, without a word to anybody; the moment of it."""
        ...

    async def start_copy(self, cluster: str) -> float:
        """Start it again: it runs when this returns, and is about to be ready."""
        ...

    async def end_registry(self) -> float:
        """Have the registry do nothing any more."""
        ...

    async def thaw(self, cluster: str) -> float:
        """Let a cluster go on that `faults.pause` has stopped."""
        ...

    async def turn(self, cluster: str, service: str, status: str) -> float:
        """Set the checks of a service in a datacenter to "passing" or "critical"."""
        ...

    async def heal(self) -> float:
        """Undo all of this; the moment at which that began. Returns when everything runs."""
        ...

    async def whole(self) -> None:
        """Wait until `fedctl status` has nothing to complain of; raises TimedOut naming what it has."""
        ...

    async def measure(self, changes: int, say: Say) -> Propagation | None:
        """From so many changes of an endpoint in NEAREST to the Envoy of CALLER; None where that is not told."""
        ...

    async def report(self) -> None:
        """The story did not go well: put what is known of its clusters into `logs`, unless it is there."""
        ...

    async def close(self) -> None:
        """End and remove everything, in whatever state it is."""
        ...

    def kill(self) -> None:
        """Somebody is impatient while `close` is at work: end at once what can be."""
        ...

    @property
    def logs(self) -> Path:
        """The folder with state and logs."""
        ...

    def commands(self) -> Sequence[str]:
        """What to try in a shell while everything runs."""
        ...
