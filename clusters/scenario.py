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

from clusters.consulground import WithConsul
from clusters.load import Account, HttpLoad, account
from clusters.names import lookup
from clusters.processes import HTTP_PORT, HTTP_SERVICE, NAMESPACE, TCP_PORT, TCP_SERVICE, ProcessFederation
from clusters.propagation import Propagation, measure
from clusters.topology import STOCK
from clusters.waiting import ANSWER, DEADLINE, START
from federation.cli.link import link_clusters
from federation.cli.status import assess, look
from federation.errors import TimedOut, Unavailable

CALLER, NEAREST, FARTHEST = "east", "west", "edge"
"""Who calls in the story, who takes over first (same region), and who last."""

GLOBAL_NAME = f"{HTTP_SERVICE}.{NAMESPACE}.global"
CLUSTERSET_NAME = f"{HTTP_SERVICE}.{NAMESPACE}.svc.clusterset.local"
TCP_NAME = f"{TCP_SERVICE}.{NAMESPACE}.global"
STOCK_NAME = f"{STOCK.name}.{NAMESPACE}.global"


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
            "seconds": round(self.seconds, 1),
            "left_out": self.left_out,
        }


async def build(federation: ProcessFederation, teller: Teller, *, timeout: float = START) -> None:
    """Start a registry and every cluster of the topology, join them, and link them; returns when all is whole."""
    names = federation.topology.names
    teller.step("starting the registry and the workloads")
    federation.init_registry()
    federation.start_registry()
    for spec in federation.topology.clusters:
        for kind in dict.fromkeys(offer.app for offer in spec.offers):
            federation.start_workload(spec.name, kind)
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
    datacenters = federation.topology.datacenters
    result.names = await _look_up(federation, (STOCK_NAME,) if datacenters else ())
    teller.names(result.names)
    for name, story in ((GLOBAL_NAME, _failures), *((STOCK_NAME, _checks) for _ in datacenters)):
        phases = _Phases(HttpLoad(result.names[name][0], HTTP_PORT, name), teller, hold)
        phases.load.start()
        try:
            await story(federation, phases)
        finally:
            await asyncio.to_thread(phases.load.stop)
        phases.close()
        result.phases += phases.accounts
    teller.step(f"measuring {changes} endpoint changes from {NEAREST} to the Envoy of {CALLER}")
    result.propagation = await measure(federation, origin=NEAREST, consumer=CALLER, changes=changes)
    return result


async def _look_up(federation: ProcessFederation, more: tuple[str, ...]) -> dict[str, list[str]]:
    place = federation.places[CALLER]
    names: dict[str, list[str]] = {}
    for name in (GLOBAL_NAME, CLUSTERSET_NAME, TCP_NAME, *more):
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


async def _failures(federation: ProcessFederation, phases: _Phases) -> None:
    """Five phases: what is killed, who takes over, and back."""
    caller = federation.places[CALLER]
    await phases.begin("steady", CALLER, f"{CALLER}'s own copy answers")
    await phases.begin(
        "workload_killed",
        NEAREST,
        f"{CALLER}'s workload was killed: {NEAREST}, in the same region, took over",
        by=lambda: federation.kill(f"{CALLER}-http"),
    )
    await phases.begin(
        "gateway_killed",
        FARTHEST,
        f"{NEAREST}'s gateway was killed with -9: {FARTHEST} took over",
        by=lambda: federation.kill(f"{NEAREST}-gateway"),
    )
    await phases.begin(
        "registry_down",
        FARTHEST,
        "the registry is gone: everybody serves on from what they hold",
        by=lambda: federation.kill("registry"),
        switches=False,
    )
    # A name of another cluster only, first looked up while the registry is away.
    pinned = f"{TCP_SERVICE}.{NAMESPACE}.{FARTHEST}.global"
    answers = await asyncio.to_thread(lookup, caller.address, caller.dns_port, pinned)
    who = await asyncio.to_thread(greeting, answers[0], TCP_PORT)
    if who != FARTHEST:
        raise Unavailable(f"{pinned} was answered by {who}")

    def heal() -> float:
        moment = time.monotonic()
        for name in ("registry", f"{NEAREST}-gateway", f"{CALLER}-http"):
            federation.restart(name)
        return moment

    await phases.begin("healed", CALLER, f"everything is back: {CALLER} answers itself again", by=heal)
    await federation.wait_ready("registry", f"{NEAREST}-gateway")
    await wait_whole(federation)


async def _checks(federation: ProcessFederation, phases: _Phases) -> None:
    """Three phases: a service of Consul is called, its check turns critical, and passes again."""
    ground, (name, *_) = federation.ground, federation.topology.datacenters
    assert isinstance(ground, WithConsul)  # noqa: S101 - what the topology of a demo with Consul is built on

    def turned(status: str) -> Callable[[], float]:
        # In a thread with a loop of its own: what begins a phase may wait.
        return lambda: asyncio.run(ground.turn(name, STOCK.name, status))

    await phases.begin("consul", name, f"{name} answers, whose copy Consul knows; {FARTHEST}, far away, has one, too")
    await phases.begin(
        "consul_critical",
        FARTHEST,
        f"its check in Consul turned critical: {FARTHEST} took over",
        by=turned("critical"),
    )
    await phases.begin("consul_passing", name, f"the check passes: {name} answers again", by=turned("passing"))


class _Phases:
    """Phases under one constant load, accounted for one by one."""

    def __init__(self, load: HttpLoad, teller: Teller, hold: float) -> None:
        self.load, self.teller, self.hold = load, teller, hold
        self.accounts: list[Account] = []
        self._cut = 0
        self._open: tuple[str, float, str | None, str] | None = None

    async def begin(
        self,
        name: str,
        expect: str,
        told: str,
        *,
        by: Callable[[], float] | None = None,
        switches: bool = True,
    ) -> None:
        """End the phase before, begin this one, and hold it once the expected cluster answers.

        `by` makes it begin, in a thread, and says when that was (monotonic, s); `switches`: somebody else answers then.
        """
        self.close()
        began = await asyncio.to_thread(by or time.monotonic)
        self._open = (name, began, expect if by and switches else None, told)
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

    def close(self) -> None:
        """Account for the phase that is open, if one is; the last one after the load has stopped."""
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
