"""The story that the demo tells, as steps over a running federation; every presentation is somebody else's.

Arrives: a topology and a folder. Leaves: a `Result`, and on the way calls of a `Teller` after each step. The same code
runs behind `scripts/demo`, its `--json`, and the end-to-end test.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from clusters.load import Account, HttpLoad, account
from clusters.names import lookup
from clusters.processes import HTTP_PORT, HTTP_SERVICE, NAMESPACE, TCP_PORT, TCP_SERVICE, ProcessFederation
from clusters.propagation import Propagation, measure
from clusters.waiting import ANSWER, DEADLINE, START
from federation.cli.link import link_clusters
from federation.cli.status import assess, look
from federation.errors import TimedOut, Unavailable

CALLER, NEAREST, FARTHEST = "east", "west", "edge"
"""Who calls in the story, who takes over first (same region), and who last."""

GLOBAL_NAME = f"{HTTP_SERVICE}.{NAMESPACE}.global"
CLUSTERSET_NAME = f"{HTTP_SERVICE}.{NAMESPACE}.svc.clusterset.local"
TCP_NAME = f"{TCP_SERVICE}.{NAMESPACE}.global"


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
    seconds: float = 0.0

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
            "seconds": round(self.seconds, 1),
        }


async def build(federation: ProcessFederation, teller: Teller, *, timeout: float = START) -> None:
    """Start a registry and every cluster of the topology, join them, and link them; returns when all is whole."""
    names = federation.topology.names
    teller.step("starting the registry and the workloads")
    federation.init_registry()
    federation.start_registry()
    for name in names:
        for kind in ("http", "tcp"):
            federation.start_workload(name, kind)
    await federation.ground.start()
    await asyncio.gather(*map(federation.write_manifests, names))
    await federation.wait_ready("registry", timeout=timeout)
    teller.step(f"joining {', '.join(names)}")
    for name in names:
        await federation.join(name)
        federation.start_agent(name)
    await federation.wait_ready(*(f"{name}-agent" for name in names), timeout=timeout)
    teller.step("starting a gateway and a sidecar in each cluster")
    for name in names:
        federation.start_gateway(name)
        federation.start_sidecar(name)
    for a, b in federation.topology.links:
        await link_clusters(federation.home, a, b)
    await federation.wait_ready(*federation.running, timeout=timeout)
    teller.step("waiting until every cluster has taken up the links")
    await wait_whole(federation, timeout=timeout)


async def wait_whole(federation: ProcessFederation, *, timeout: float = START) -> None:
    """Wait until `fedctl status` would say that everything is as it should be; raises TimedOut naming what is not."""
    deadline = time.monotonic() + timeout
    while findings := assess(await look(federation.home)):
        if time.monotonic() > deadline:
            raise TimedOut(f"not whole: {findings[0].subject}: {findings[0].detail} [{findings[0].code}]")
        await asyncio.sleep(0.05)


async def tell(federation: ProcessFederation, teller: Teller, *, changes: int = 40, hold: float = 1.5) -> Result:
    """Run the whole story on a federation that `build` made; `hold`: seconds that each phase lasts after its switch."""
    result = Result(
        clusters=federation.topology.names,
        links=[list(link) for link in federation.topology.links],
    )
    result.names = await _look_up(federation)
    teller.names(result.names)
    story = _Story(federation, teller, hold, virtual=result.names[GLOBAL_NAME][0])
    try:
        await story.run()
    finally:
        await asyncio.to_thread(story.load.stop)
    story.account_for_rest()
    result.phases = story.accounts
    teller.step(f"measuring {changes} endpoint changes from {NEAREST} to the Envoy of {CALLER}")
    result.propagation = await measure(federation, origin=NEAREST, consumer=CALLER, changes=changes)
    return result


async def _look_up(federation: ProcessFederation) -> dict[str, list[str]]:
    place = federation.places[CALLER]
    names: dict[str, list[str]] = {}
    for name in (GLOBAL_NAME, CLUSTERSET_NAME, TCP_NAME):
        by_udp = await asyncio.to_thread(lookup, place.address, place.dns_port, name)
        by_tcp = await asyncio.to_thread(lookup, place.address, place.dns_port, name, tcp=True)
        if not by_udp or by_udp != by_tcp:
            raise Unavailable(f"{name} is {by_udp} on UDP and {by_tcp} on TCP")
        names[name] = by_udp
    return names


def greeting(address: str, port: int, *, timeout: float = ANSWER) -> str:
    """The cluster whose TCP workload answers at `address`:`port`; raises Unavailable."""
    try:
        with socket.create_connection((address, port), timeout=timeout) as connection:
            line = connection.makefile("rb").readline().decode().strip()
    except OSError as error:
        raise Unavailable(f"{address}:{port} did not answer: {error}") from error
    if not line:
        raise Unavailable(f"{address}:{port} closed the connection without a word")
    return line


class _Story:
    """The five phases under one constant load."""

    def __init__(self, federation: ProcessFederation, teller: Teller, hold: float, *, virtual: str) -> None:
        self.federation, self.teller, self.hold = federation, teller, hold
        self.load = HttpLoad(virtual, HTTP_PORT, GLOBAL_NAME)
        self.accounts: list[Account] = []
        self._cut = 0
        self._open: tuple[str, float, str | None, str] | None = None

    async def run(self) -> None:
        caller = self.federation.places[CALLER]
        self.load.start()
        await self._phase("steady", lambda: time.monotonic(), CALLER, f"{CALLER}'s own copy answers")
        await self._phase(
            "workload_killed",
            lambda: self.federation.kill(f"{CALLER}-http"),
            NEAREST,
            f"{CALLER}'s workload was killed: {NEAREST}, in the same region, took over",
        )
        await self._phase(
            "gateway_killed",
            lambda: self.federation.kill(f"{NEAREST}-gateway"),
            FARTHEST,
            f"{NEAREST}'s gateway was killed with -9: {FARTHEST} took over",
        )
        await self._phase(
            "registry_down",
            lambda: self.federation.kill("registry"),
            FARTHEST,
            "the registry is gone: everybody serves on from what they hold",
        )
        # A name of another cluster only, first looked up while the registry is away.
        pinned = f"{TCP_SERVICE}.{NAMESPACE}.{FARTHEST}.global"
        answers = await asyncio.to_thread(lookup, caller.address, caller.dns_port, pinned)
        who = await asyncio.to_thread(greeting, answers[0], TCP_PORT)
        if who != FARTHEST:
            raise Unavailable(f"{pinned} was answered by {who}")
        await self._phase("healed", self._heal, CALLER, f"everything is back: {CALLER} answers itself again")
        await self.federation.wait_ready("registry", f"{NEAREST}-gateway")
        await wait_whole(self.federation)

    def _heal(self) -> float:
        moment = time.monotonic()
        for name in ("registry", f"{NEAREST}-gateway", f"{CALLER}-http"):
            self.federation.restart(name)
        return moment

    async def _phase(self, name: str, begin: Callable[[], float], expect: str, told: str) -> None:
        """End the phase before, begin this one, and hold it once the expected cluster answers."""
        self._close()
        began = await asyncio.to_thread(begin)
        self._open = (name, began, None if name in ("steady", "registry_down") else expect, told)
        deadline = time.monotonic() + DEADLINE
        settled: float | None = None
        while settled is None or time.monotonic() < settled + self.hold:
            outcomes = self.load.outcomes(self._cut)
            if settled is None and any(o.cluster == expect and o.begin >= began for o in outcomes):
                settled = time.monotonic()
            if settled is None and time.monotonic() > deadline:
                raise TimedOut(f"phase {name}: {expect} has not answered within {DEADLINE:g} s: {self._last_error()}")
            self.teller.live(name, len(outcomes), sum(1 for o in outcomes if o.error))
            await asyncio.sleep(0.05)

    def account_for_rest(self) -> None:
        """Account for the last phase, after the load has stopped."""
        self._close()

    def _close(self) -> None:
        if self._open is None:
            return
        name, began, expect, told = self._open
        outcomes = self.load.outcomes(self._cut)
        self._cut += len(outcomes)
        closed = account(name, outcomes, began=began, expect=expect)
        self.accounts.append(closed)
        self.teller.phase(closed, told)
        self._open = None

    def _last_error(self) -> str:
        return next((o.error for o in reversed(self.load.outcomes(self._cut)) if o.error), "no error")
