"""Real requests to exported services, and handshakes with gateways, for an operator: few at once, each bounded.

Arrives: what an operator asks (discovery.probe.admin), and what the agent knows. Leaves: what came of it.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from discovery.probe import attempt, dial, http
from discovery.probe.words import (
    EGRESS_UNREACHABLE,
    NO_EGRESS,
    NO_GATEWAY,
    NO_LINK,
    NOT_EXPORTED,
    NOT_IMPORTED,
    NOT_PINNED,
    OUTBOUND_ONLY,
    TIMED_OUT,
    UNHEARD,
    Outcome,
)
from discovery.view import ClusterView, Neighbour
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.envoy import names
from federation.errors import QuotaExceeded
from federation.model.address import join_address
from federation.model.cluster import Bundle, Gateway
from federation.model.ids import ServiceName
from federation.model.service import Import, Port, Protocol
from federation.policy import routes
from federation.trust.svid import Svid

T = TypeVar("T")

MOST_PORTS, MOST_GATEWAYS = 16, 8
"""What is tried of one service, and of one cluster."""
MOST_SECONDS = 30.0
BUDGET = 4
"""All attempts of one question have ended after so many times the seconds of one."""
_AT_ONCE, _WAITING = 8, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of one. `clusters`: which may have answered; `took`: seconds."""

    port: Port | None
    way: str
    gateway: str = ""
    address: str = ""
    outcome: Outcome
    took: float = 0.0
    clusters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What came of a handshake with a gateway; `not_after_ns` 0: there was none."""

    cluster: str
    gateway: Gateway
    own: bool
    outcome: Outcome
    took: float
    not_after_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Time:
    """`each`: seconds of one attempt; `end` of all of them, by the event loop's clock."""

    each: float
    end: float

    @property
    def connect(self) -> float:
        """Seconds for a connection: the rest is for the answer."""
        return self.each / 2


class Prober:
    """`led`: whether gateways have ports for an import. `svid`: the agent's identity now. What operators ask at once
    waits in turn; too much of it is refused."""

    def __init__(
        self,
        view: ClusterView,
        *,
        cluster: str,
        suffix: str,
        bundle: Bundle,
        gateways: Latest[Mapping[str, Gateway]],
        led: Callable[[ServiceName], bool],
        svid: Callable[[], Svid],
        clock: Clock,
    ) -> None:
        self._view, self._cluster, self._suffix = view, cluster, suffix
        self._bundle, self._gateways, self._led, self._svid, self._clock = bundle, gateways, led, svid, clock
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._asked = 0

    async def probe(
        self, service: ServiceName, cluster: str, *, seconds: float, ports: Iterable[Port] = ()
    ) -> list[Attempt]:
        """Ask `service` for each of its ports: of another `cluster` by each of its gateways; "" by each own gateway.

        `seconds` for each attempt. `ports`: what is asked for where this cluster is shown no such service. Raises
        QuotaExceeded (probe_busy).
        """
        if self._asked >= _WAITING:
            raise QuotaExceeded("too many probes wait", hint="try again when they are done", code="probe_busy")
        self._asked += 1
        try:
            if cluster:
                return await self._remote(service, cluster, self._time(seconds), ports)
            return await self._egress(service, self._time(seconds))
        finally:
            self._asked -= 1

    async def reach(self, *, seconds: float) -> list[Reach]:
        """Shake hands with every gateway: the own ones, and those of linked clusters that are trusted."""
        wanted = [(self._cluster, gateway, self._bundle) for gateway in _first(self._gateways.value)]
        for peer in self._view.linked:
            if peer.bundle is not None:
                wanted += [(peer.name, gateway, peer.bundle) for gateway in _first(peer.gateways)]
        time = self._time(seconds)
        return await _all(self._shake(name, gateway, bundle, time) for name, gateway, bundle in wanted)

    def _time(self, seconds: float) -> _Time:
        seconds = min(max(seconds, 0.1), MOST_SECONDS)
        return _Time(seconds, asyncio.get_running_loop().time() + BUDGET * seconds)

    # --- by the gateways of another cluster --------------------------------------------------------------------------

    async def _remote(self, service: ServiceName, cluster: str, time: _Time, known: Iterable[Port]) -> list[Attempt]:
        neighbour = self._view.neighbours.get(cluster)
        missing = unreachable(cluster, neighbour)
        if missing is not None or neighbour is None or (bundle := neighbour.bundle) is None:
            outcome = missing or Outcome(NO_LINK, f"{cluster} is not linked")
            return [Attempt(port=None, way="remote", outcome=outcome, clusters=(cluster,))]
        claimed = neighbour.services.get(service)
        # What this cluster is not shown is asked for all the same: the gateway has the last word.
        if not (tried := _tcp(claimed.ports if claimed is not None else known)):
            outcome = Outcome(NOT_EXPORTED, f"{cluster} shows this cluster no {service} with a TCP port")
            return [Attempt(port=None, way="remote", outcome=outcome, clusters=(cluster,))]
        ready = claimed.ready if claimed is not None else None

        async def one(port: Port, gateway: Gateway) -> Attempt:
            host = f"{routes.names(service, suffix=self._suffix, pinned=cluster)[0]}:{port.port}"
            where = join_address(gateway.address, gateway.port)

            async def ask() -> Outcome:
                return await attempt.remote(
                    gateway,
                    service,
                    port,
                    host=host,
                    bundle=bundle,
                    svid=self._svid(),
                    patience=time.connect,
                    clock=self._clock,
                )

            outcome, took = await self._timed(ask, time, where)
            return Attempt(
                port=port,
                way="remote",
                gateway=gateway.name,
                address=where,
                outcome=attempt.explained(outcome, port, ready),
                took=took,
                clusters=(cluster,),
            )

        return await _all(one(port, gateway) for port in tried for gateway in _first(neighbour.gateways))

    # --- by the own gateways -----------------------------------------------------------------------------------------

    async def _egress(self, service: ServiceName, time: _Time) -> list[Attempt]:
        imported = self._view.imports.get(service)
        if imported is None:
            return [Attempt(port=None, way="egress", outcome=Outcome(NOT_IMPORTED, f"{service} is not imported here"))]
        ports = [port for port in _tcp(imported.ports) if port.port in imported.gateway_ports]
        gateways = _first(self._gateways.value)
        if why := self._no_egress(service, gateways, ports):
            return [Attempt(port=None, way="egress", outcome=Outcome(NO_EGRESS, why))]
        answering, ready = may_answer(imported), sum(backend.ready for backend in imported.backends)

        async def one(port: Port, gateway: Gateway) -> Attempt:
            address, at = gateway.egress or gateway.address, imported.gateway_ports[port.port]
            host = f"{routes.names(service, suffix=self._suffix, pinned=None)[-1]}:{port.port}"

            async def ask() -> Outcome:
                return await attempt.egress(address, at, port, host=host, patience=time.connect)

            outcome, took = await self._timed(ask, time, join_address(address, at))
            return Attempt(
                port=port,
                way="egress",
                gateway=gateway.name,
                address=join_address(address, at),
                outcome=apart(attempt.explained(outcome, port, ready), address),
                took=took,
                clusters=answering,
            )

        return await _all(one(port, gateway) for port in ports for gateway in gateways)

    def _no_egress(self, service: ServiceName, gateways: Sequence[Gateway], ports: Sequence[Port]) -> str:
        """Why nobody could call `service` through the own gateways; empty where somebody could."""
        if not gateways:
            return "this cluster has no gateway"
        if not ports:
            return "the import has no TCP port at the gateways"
        if not self._led(service):
            return "no workload without a sidecar is led here: its imports are written to no API server and no Consul"
        return ""

    # --- what both do ------------------------------------------------------------------------------------------------

    async def _shake(self, cluster: str, gateway: Gateway, bundle: Bundle, time: _Time) -> Reach:
        own = cluster == self._cluster
        if not gateway.address:  # behind NAT: nobody dials it
            outcome = Outcome(OUTBOUND_ONLY, "it has no address from outside: it calls, and is not called")
            return Reach(cluster=cluster, gateway=gateway, own=own, outcome=outcome, took=0.0, not_after_ns=0)
        ended, where = 0, join_address(gateway.address, gateway.port)

        async def shake() -> Outcome:
            nonlocal ended
            async with dial.line(
                gateway,
                bundle=bundle,
                svid=self._svid(),
                alpn=names.ALPN_HEALTH,
                # No service has this name: the handshake is all that is wanted.
                server_name=names.server_name(ServiceName("isthmus", "handshake"), 1, bundle.trust_domain),
                patience=time.connect,
                clock=self._clock,
            ) as line:
                ended = line.not_after_ns
                # TLS 1.3: whether the other end takes this certificate shows with what it says next. No service has
                # this Host, so that the gateway answers at once, by itself.
                line.writer.write(http.ask_1("handshake.isthmus"))
                if not await dial.read_some(line.reader, where):
                    return Outcome(dial.REFUSED, f"{where} closes the connection when it has seen this certificate")
            return Outcome("", "TCP and TLS are good")

        outcome, took = await self._timed(shake, time, where)
        return Reach(cluster=cluster, gateway=gateway, own=own, outcome=outcome, took=took, not_after_ns=ended)

    async def _timed(self, work: Callable[[], Awaitable[Outcome]], time: _Time, where: str) -> tuple[Outcome, float]:
        try:
            async with asyncio.timeout_at(time.end), self._turns:
                began = self._clock.monotonic()
                outcome = await attempt.bounded(work, seconds=time.each, where=where)
                return outcome, self._clock.monotonic() - began
        except TimeoutError:
            return Outcome(TIMED_OUT, f"{where} was not tried to the end: too much else was to be tried"), 0.0


def unreachable(cluster: str, neighbour: Neighbour | None) -> Outcome | None:
    """Why nothing of `cluster` can be called from here, as far as that is known without a packet; None: nothing."""
    if neighbour is None or neighbour.link is None:
        return Outcome(NO_LINK, f"there is no link to {cluster}")
    if neighbour.bundle is None:
        if neighbour.cluster is None:
            return Outcome(UNHEARD, f"{cluster} has not reported to the registry yet")
        detail = neighbour.problem.detail if neighbour.problem is not None else f"the root of {cluster} is not pinned"
        return Outcome(NOT_PINNED, detail)
    if not neighbour.gateways:
        return Outcome(NO_GATEWAY, f"no gateway of {cluster} is known")
    return None


def may_answer(imported: Import) -> tuple[str, ...]:
    """The clusters that have a ready copy, the own one first: one of them answers a call through the own gateways."""
    ready = [b for b in imported.backends if b.ready]
    return tuple(b.cluster for b in sorted(ready, key=lambda b: (not b.local, b.cluster)))


def apart(outcome: Outcome, address: str) -> Outcome:
    """A gateway on loopback that cannot be connected to may well be open, in a network namespace of its own."""
    if outcome.code == dial.NOBODY_LISTENS and ipaddress.ip_address(address).is_loopback:
        detail = (
            f"{address} is loopback: the agent reaches the gateway's ports for workloads only in the same network "
            "namespace; set egress_bind (and egress_address) of the gateway to an address of its host or pod"
        )
        return Outcome(EGRESS_UNREACHABLE, detail)
    if outcome.code in (dial.NOBODY_LISTENS, dial.NO_ROUTE):
        return replace(outcome, code=EGRESS_UNREACHABLE)
    return outcome


def _tcp(ports: Iterable[Port]) -> list[Port]:
    return [port for port in ports if port.protocol is Protocol.TCP][:MOST_PORTS]


def _first(gateways: Mapping[str, Gateway]) -> list[Gateway]:
    """Those that take calls: draining ones only where there are no others."""
    able = [gateway for _, gateway in sorted(gateways.items())]
    return ([gateway for gateway in able if not gateway.draining] or able)[:MOST_GATEWAYS]


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work, name="probe") for work in works]
    return [task.result() for task in tasks]
