"""Who is connected to this agent: its gateways, which make themselves known to the federation here, and its sidecars.

Arrives: streams that open and close, and their Presence. Leaves: the cluster's gateways (for the report), the names
that sidecars lead through the gateways, and what `fedctl status` shows of each consumer. No I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from discovery.gateways import Reach, located
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.catalog.leases import Leases
from federation.errors import CorruptState, Denied, QuotaExceeded
from federation.log import Logger
from federation.model.cluster import Gateway, Problem
from federation.model.service import Locality
from federation.model.wire import gateway_from_pb, problem_from_pb
from federation.proto.v1 import catalog_pb2 as pb

MAX_PROBLEMS = 50
MAX_NAMES = 250_000
"""Names that one stream may follow: above what a sidecar's settings allow."""
_NAME_LENGTH = 127  # two labels and what parts them
MAX_LOST = 16
"""Broken streams of one identity that are remembered: who connects and breaks off in a loop fills no memory."""


class Role(enum.StrEnum):
    """What a consumer is, by its proven identity."""

    GATEWAY = "gateway"
    SIDECAR = "sidecar"


@dataclass(slots=True, kw_only=True)
class Consumer:
    """One stream of Watch, open or lately broken."""

    role: Role
    identity: str
    address: str
    name: str = ""
    version: str = ""
    connected: bool = True
    opened_at: float = 0.0  # monotonic
    lost_at: float = 0.0  # monotonic, when not connected
    applied: int = 0
    vm: str = ""
    """The virtual machine whose certificate the stream has shown; empty: none."""
    names: set[str] = field(default_factory=set)
    problems: tuple[Problem, ...] = ()
    via: frozenset[str] = frozenset()
    gateway: str = ""

    @property
    def shown(self) -> str:
        return self.name or self.identity.rpartition("/sa/")[2]


class _Saved(msgspec.Struct, frozen=True):
    """A gateway as it is kept on disk."""

    name: str
    address: str
    port: int
    region: str
    zone: str
    weight: int
    egress: str = ""
    elsewhere: bool = False


class Announced(NamedTuple):
    """A gateway of this agent's own streams, and the stream on which it made itself known (None: before the start)."""

    gateway: Gateway
    by: Consumer | None


class Consumers:
    """All consumers of one agent. `gateways` and `via_gateway` are set when they differ.

    `gateways` are those of the cluster: who made themselves known here (`announced`), and `elsewhere`, at another
    replica of the agent; each where peers reach it (discovery.gateways).
    """

    def __init__(self, *, lease: float, memory: float, clock: Clock, log: Logger) -> None:
        """A gateway whose stream broke is kept for `lease` s; any consumer is shown as lost for `memory` s."""
        self.gateways: Latest[Mapping[str, Gateway]] = Latest({})
        self.announced: Latest[Mapping[str, Announced]] = Latest({})
        """Set at each announcement, also of what is known."""
        self.via_gateway: Latest[frozenset[str]] = Latest(frozenset())
        self._lease, self._memory, self._clock, self._log = lease, memory, clock, log
        self._consumers: list[Consumer] = []
        self._leases = Leases()
        self._elsewhere: Mapping[str, Gateway] = {}
        self._reach: Reach | None = None

    @property
    def all(self) -> list[Consumer]:
        """Gateways first, by name."""
        return sorted(self._consumers, key=lambda c: (c.role, c.shown, not c.connected))

    def opened(self, *, role: Role, identity: str, address: str, vm: str = "") -> Consumer:
        """A stream has begun; `vm` as proven by its certificate."""
        consumer = Consumer(role=role, identity=identity, address=address, vm=vm, opened_at=self._clock.monotonic())
        self._consumers.append(consumer)
        return consumer

    def present(self, consumer: Consumer, presence: pb.Presence) -> None:
        """What a consumer says of itself.

        Raises InvalidInput for a gateway that cannot be, Denied (vm_name_mismatch) for a virtual machine that calls
        itself or its gateway by another name, QuotaExceeded.
        """
        _check_vm(consumer.vm, presence)
        _check_names(presence.via_gateway, len(presence.via_gateway))
        consumer.name, consumer.version = presence.name[:80], presence.version[:80]
        consumer.problems = tuple(problem_from_pb(p) for p in presence.problems[:MAX_PROBLEMS])
        # The same process on a new stream: what is shown of the broken one is history.
        self._consumers = [
            c
            for c in self._consumers
            if c is consumer
            or c.connected
            or (c.role, c.identity, c.name) != (consumer.role, consumer.identity, consumer.name)
        ]
        if consumer.role is Role.GATEWAY and presence.HasField("gateway"):
            self._announce(consumer, gateway_from_pb(presence.gateway))
        via = frozenset(presence.via_gateway) if consumer.role is Role.SIDECAR else frozenset()
        if via != consumer.via:
            consumer.via = via
        self._update_via()

    def elsewhere(self, gateways: Mapping[str, Gateway]) -> None:
        """What other replicas of the agent say of the cluster's gateways. Who is connected here is known better."""
        self._elsewhere = gateways
        self._merge()

    @property
    def said(self) -> Mapping[str, Gateway]:
        """The cluster's gateways as they describe themselves."""
        return {**self._elsewhere, **{name: a.gateway for name, a in self.announced.value.items()}}

    def before(self, reach: Reach | None) -> None:
        """What stands before the gateways that say so."""
        self._reach = reach
        self._merge()

    def named(self, consumer: Consumer, added: frozenset[str], dropped: frozenset[str]) -> None:
        """The names that a consumer follows have changed; raises QuotaExceeded (too_many_names)."""
        names = (consumer.names - dropped) | added
        _check_names(added, len(names))
        consumer.names = names

    def closed(self, consumer: Consumer, *, clean: bool) -> None:
        """A stream has ended, by a goodbye (`clean`) or unexpectedly. Who was draining has said enough."""
        now = self._clock.monotonic()
        known = self.announced.value.get(consumer.gateway)
        clean = clean or (known is not None and known.gateway.draining and known.by is consumer)
        consumer.connected, consumer.lost_at = False, now
        name = consumer.gateway
        if known is not None and known.by is consumer:
            if clean:
                self._withdraw(name)
            else:
                self._log.warning("gateway lost", gateway=name, withdrawn_in=self._lease)
                self._leases.renew(name, self._lease, now)
        if clean:
            self._consumers = [c for c in self._consumers if c is not consumer]
            self._update_via()
            return
        lost = [c for c in self._consumers if not c.connected and c.identity == consumer.identity]
        if len(lost) > MAX_LOST:
            oldest = min(lost, key=lambda c: c.lost_at)
            self._consumers = [c for c in self._consumers if c is not oldest]
            self._update_via()

    def expire(self) -> None:
        """Withdraw gateways whose lease has run out, forget consumers that are long gone."""
        now = self._clock.monotonic()
        for name in self._leases.expired(now):
            self._log.warning("gateway withdrawn", gateway=name)
            self._withdraw(name)
        kept = [c for c in self._consumers if c.connected or now - c.lost_at < self._memory]
        if len(kept) != len(self._consumers):
            self._consumers = kept
            self._update_via()

    def next_deadline(self) -> float | None:
        """Monotonic time at which `expire` has something to do."""
        deadlines = [c.lost_at + self._memory for c in self._consumers if not c.connected]
        lease = self._leases.next_deadline()
        if lease is not None:
            deadlines.append(lease)
        return min(deadlines, default=None)

    def dump(self) -> bytes:
        """The gateways, for the next start."""
        return msgspec.json.encode(
            [
                _Saved(
                    g.name,
                    g.address,
                    g.port,
                    g.locality.region,
                    g.locality.zone,
                    g.weight,
                    g.egress,
                    name not in self.announced.value,
                )
                for name, g in sorted(self.gateways.value.items())
            ]
        )

    def load(self, data: bytes, *, grace: float) -> None:
        """Keep the gateways known before the start for `grace` s, until they come back. Raises CorruptState."""
        try:
            saved = msgspec.json.decode(data, type=list[_Saved])
        except msgspec.MsgspecError as error:
            raise CorruptState(f"the known gateways are of another version: {error}") from error
        now = self._clock.monotonic()
        here, elsewhere = {}, {}
        for one in saved:
            gateway = Gateway(
                name=one.name,
                address=one.address,
                port=one.port,
                locality=Locality(one.region, one.zone),
                weight=one.weight,
                egress=one.egress,
            )
            if one.elsewhere:
                elsewhere[one.name] = gateway
            else:
                here[one.name] = Announced(gateway, None)
                self._leases.renew(one.name, grace, now)
        self._elsewhere = elsewhere
        self.announced.set(here)
        self._merge()

    def _announce(self, consumer: Consumer, gateway: Gateway) -> None:
        before = self.announced.value.get(consumer.gateway)
        if consumer.gateway != gateway.name and before is not None and before.by is consumer:
            self._withdraw(consumer.gateway)
        other = self.announced.value.get(gateway.name)
        if other is not None and other.by is not None and other.by is not consumer and other.by.connected:
            self._log.warning("two gateways of one name; the newer counts", gateway=gateway.name)
        consumer.gateway = gateway.name
        self._leases.drop(gateway.name)
        if self.said.get(gateway.name) != gateway:
            self._log.info("gateway", gateway=gateway.name, address=gateway.address, draining=gateway.draining)
        self.announced.set({**self.announced.value, gateway.name: Announced(gateway, consumer)})
        self._merge()

    def _withdraw(self, name: str) -> None:
        self._leases.drop(name)
        if name in self.announced.value:
            self.announced.set({n: a for n, a in self.announced.value.items() if n != name})
            self._merge()

    def _merge(self) -> None:
        merged = located(self.said, self._reach, self.gateways.value)
        if merged != self.gateways.value:
            self.gateways.set(merged)

    def _update_via(self) -> None:
        wanted = frozenset().union(*(c.via for c in self._consumers))
        if wanted != self.via_gateway.value:
            self.via_gateway.set(wanted)


def _check_vm(vm: str, presence: pb.Presence) -> None:
    said = [presence.name, *([presence.gateway.name] if presence.HasField("gateway") else [])]
    for name in said:
        if vm and name != vm:
            raise Denied(
                f"VM {vm} calls itself {name[:80]!r}",
                hint=f"set `name: {vm}` in its settings",
                code="vm_name_mismatch",
            )


def _check_names(names: Iterable[str], count: int) -> None:
    if count > MAX_NAMES or any(len(name) > _NAME_LENGTH for name in names):
        raise QuotaExceeded(
            f"a stream follows at most {MAX_NAMES} names of {_NAME_LENGTH} characters", code="too_many_names"
        )
