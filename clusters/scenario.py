"""The story that the demo tells, step by step on a running federation; what that is made of is `clusters.stage`'s.

Arrives: a `Stage`. Leaves: a `Result`, and on the way calls of a `Teller` after each step. The same story runs on
processes, on API servers and on clusters of containers, with the parts that the topology has the clusters for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from clusters.load import Account, Outcome, account
from clusters.processes import NAMESPACE, TCP_SERVICE
from clusters.propagation import Propagation
from clusters.stage import (
    CALLER,
    CLUSTERSET_NAME,
    FARTHEST,
    GLOBAL_NAME,
    NEAREST,
    STOCK_NAME,
    TCP_NAME,
    Calls,
    Stage,
)
from clusters.together import finish_together
from clusters.topology import STOCK, Topology
from clusters.waiting import DEADLINE
from federation.errors import TimedOut, Unavailable

_LOOK = 0.05
"""Seconds between looks at what has ended."""


class Teller(Protocol):
    """Who shows what happens."""

    def step(self, text: str) -> None: ...
    def names(self, names: dict[str, list[str]]) -> None: ...
    def phase(self, phase: Account, told: str) -> None: ...
    def live(self, name: str, requests: int, failed: int) -> None: ...


@dataclass(slots=True, kw_only=True)
class Result:
    """What the demo found."""

    clusters: list[str] = field(default_factory=list)
    links: list[list[str]] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)
    phases: list[Account] = field(default_factory=list)
    propagation: Propagation | None = None
    built: float = 0.0
    """Seconds until the federation was whole."""
    seconds: float = 0.0
    left_out: list[str] = field(default_factory=list)
    """What is not shown on this machine, each with what would bring it."""

    @property
    def failed(self) -> int:
        return sum(phase.failed for phase in self.phases)

    def as_dict(self) -> dict[str, object]:
        """The object that `--json` prints."""
        return {
            "clusters": self.clusters,
            "links": self.links,
            "names": self.names,
            "phases": [phase.as_dict() for phase in self.phases],
            "propagation_ms": self.propagation.as_dict() if self.propagation else None,
            "built_seconds": round(self.built, 1),
            "seconds": round(self.seconds, 1),
            "left_out": self.left_out,
        }


@dataclass(frozen=True, slots=True)
class Phase:
    """What happens, and who then answers the requests that are sent all the while."""

    name: str
    expect: str
    """The cluster that answers once the phase has settled."""
    told: str
    """One line for a person."""
    by: Callable[[Stage], Awaitable[float]] | None = None
    """What makes it begin; returns when that was (monotonic, s)."""
    switches: bool = True
    """Whether somebody else answers than before."""
    then: Callable[[Stage], Awaitable[None]] | None = None
    """What is looked at before it ends."""


def story(topology: Topology) -> list[Phase]:
    """The phases under calls of GLOBAL_NAME: with a third cluster, or with NEAREST alone to take over."""
    begin = [
        Phase("steady", CALLER, f"{CALLER}'s own copy answers"),
        Phase(
            "workload_killed",
            NEAREST,
            f"{CALLER}'s workload was killed: {NEAREST}, in the same region, took over",
            by=lambda stage: stage.end_copy(CALLER),
        ),
    ]
    third = FARTHEST in topology.names
    healed = Phase(
        "healed",
        CALLER,
        f"everything is back: {CALLER} answers itself{' again' if third else ''}",
        by=lambda stage: stage.heal(),
        switches=third,
        then=lambda stage: stage.whole(),
    )
    return [*begin, *(_with_a_third() if third else _with_a_pair()), healed]


def _with_a_third() -> list[Phase]:
    return [
        Phase(
            "cluster_paused",
            FARTHEST,
            f"all of {NEAREST} stands still, with requests under way: {FARTHEST} took over",
            by=lambda stage: stage.faults.pause(NEAREST),
        ),
        Phase("cluster_back", NEAREST, f"{NEAREST} goes on where it stood", by=lambda stage: stage.thaw(NEAREST)),
        Phase(
            "gateway_killed",
            FARTHEST,
            f"{NEAREST}'s gateway was killed with -9: {FARTHEST} took over",
            by=lambda stage: stage.faults.kill(NEAREST, "gateway"),
        ),
        _without_registry(FARTHEST),
    ]


def _with_a_pair() -> list[Phase]:
    return [
        _without_registry(NEAREST),
        Phase(
            "cluster_paused",
            CALLER,
            f"all of {NEAREST} stands still, in the midst of requests: a copy that {CALLER} had just started answers",
            by=_pause_beside_a_new_copy,
        ),
    ]


def checks(datacenter: str) -> list[Phase]:
    """The phases under calls of STOCK_NAME: a service of Consul is called, its check turns critical, and passes."""
    return [
        Phase(
            "consul", datacenter, f"{datacenter} answers, whose copy Consul knows; {FARTHEST}, far away, has one, too"
        ),
        Phase(
            "consul_critical",
            FARTHEST,
            f"its check in Consul turned critical: {FARTHEST} took over",
            by=lambda stage: stage.turn(datacenter, STOCK.name, "critical"),
        ),
        Phase(
            "consul_passing",
            datacenter,
            f"the check passes: {datacenter} answers again",
            by=lambda stage: stage.turn(datacenter, STOCK.name, "passing"),
        ),
    ]


def _without_registry(cluster: str) -> Phase:
    """Nothing changes, and a name of `cluster` alone is looked up for the first time, and called."""
    pinned = f"{TCP_SERVICE}.{NAMESPACE}.{cluster}.global"

    async def call(stage: Stage) -> None:
        if (who := await stage.greeting(pinned)) != cluster:
            raise Unavailable(f"{pinned} was answered by {who}")

    return Phase(
        "registry_down",
        cluster,
        "the registry is gone: everybody serves on from what they hold",
        by=lambda stage: stage.end_registry(),
        switches=False,
        then=call,
    )


async def _pause_beside_a_new_copy(stage: Stage) -> float:
    await stage.start_copy(CALLER)
    return await stage.faults.pause(NEAREST)


async def tell(stage: Stage, teller: Teller, *, changes: int = 40, hold: float = 1.5) -> Result:
    """Run the whole story on a stage that is built; `hold`: seconds that each phase lasts after its switch."""
    topology = stage.topology
    result = Result(clusters=topology.names, links=[list(link) for link in topology.links])
    for name in (GLOBAL_NAME, CLUSTERSET_NAME, TCP_NAME, *(STOCK_NAME for _ in topology.datacenters)):
        result.names[name] = await stage.look_up(name)
    teller.names(result.names)
    parts = [(GLOBAL_NAME, story(topology)), *((STOCK_NAME, checks(name)) for name in topology.datacenters)]
    for name, phases in parts:
        result.phases += await play(stage, teller, name, phases, hold=hold)
    result.propagation = await stage.measure(changes, teller.step)
    result.left_out += stage.left_out
    return result


async def play(stage: Stage, teller: Teller, name: str, phases: Sequence[Phase], *, hold: float) -> list[Account]:
    """The phases, one after the other, under one constant load; every request is in the account of one of them."""
    calls = await stage.calling(name)
    log = _Log(calls, teller)
    try:
        for phase in phases:
            await log.close()
            await log.hold(phase, stage, hold)
        await calls.stop()
        await log.close()
    finally:
        await calls.stop()
    return log.accounts


class _Log:
    """The account of each phase, from what has ended since the one before."""

    def __init__(self, calls: Calls, teller: Teller) -> None:
        self._calls, self._teller = calls, teller
        self.accounts: list[Account] = []
        self._cut = 0
        self._open: tuple[Phase, float] | None = None
        self._began = time.monotonic()
        """When the open phase is seen to begin: its `by` takes time, too."""

    async def hold(self, phase: Phase, stage: Stage, seconds: float) -> None:
        """Begin the phase, and hold it once the expected cluster answers. Raises TimedOut."""
        self._began = time.monotonic()
        began = await self._begin(phase, stage)
        self._open = (phase, began)
        deadline = time.monotonic() + DEADLINE
        settled: float | None = None
        while settled is None or time.monotonic() < settled + seconds:
            outcomes = await self._show(phase)
            if settled is None and any(o.cluster == phase.expect and o.begin >= began for o in outcomes):
                settled = time.monotonic()
            if settled is None and time.monotonic() > deadline:
                last = next((o.error for o in reversed(outcomes) if o.error), "no error")
                raise TimedOut(
                    f"phase {phase.name}: {phase.expect} has not answered within {DEADLINE:g} s: {last}",
                )
            await asyncio.sleep(_LOOK)
        if phase.then is not None:
            await phase.then(stage)

    async def _begin(self, phase: Phase, stage: Stage) -> float:
        """Make it begin; whoever watches sees meanwhile that requests go on."""
        began: list[float] = []
        ended = asyncio.Event()

        async def begin() -> None:
            try:
                began.append(time.monotonic() if phase.by is None else await phase.by(stage))
            finally:
                ended.set()

        async def show() -> None:
            while not ended.is_set():
                await self._show(phase)
                await asyncio.sleep(_LOOK)

        await finish_together({f"begin-{phase.name}": begin(), f"show-{phase.name}": show()})
        return began[0]

    async def _show(self, phase: Phase) -> Sequence[Outcome]:
        outcomes = await self._calls.outcomes(self._cut)
        self._teller.live(phase.name, len(outcomes), sum(1 for o in outcomes if o.error))
        return outcomes

    async def close(self) -> None:
        """Account for the phase that is open, if one is; the last one after the load has stopped."""
        if self._open is None:
            return
        (phase, began), self._open = self._open, None
        outcomes = await self._calls.outcomes(self._cut)
        self._cut += len(outcomes)
        expect = phase.expect if phase.by is not None and phase.switches else None
        seconds = time.monotonic() - self._began
        closed = account(phase.name, outcomes, began=began, expect=expect, seconds=seconds)
        self.accounts.append(closed)
        self._teller.phase(closed, phase.told)
