"""The gateways of a cluster whose agent has replicas: each makes itself known to one of them, and all have to know.

    own streams → Leases isthmus-gateway-<name> → watch → the gateways of the other replicas

A Lease is renewed by the replica that has the gateway's stream, and believed until this replica has seen no change of
it for its duration: so a gateway whose replica has died is known until it has found another one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from discovery.consumers import Announced, Consumer
from discovery.kube.client import KubeClient
from discovery.kube.errors import Conflict, NotFound
from discovery.kube.lease import micro_time
from discovery.kube.resources import LEASES
from discovery.kube.types import MANAGER, LeaseObject
from discovery.kube.watch import Key, Store
from discovery.sources.manifests import MANAGED_BY
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.aio.tasks import first_of
from federation.errors import AlreadyExists, IsthmusError
from federation.log import Logger
from federation.model.cluster import Gateway
from federation.model.ids import parse_label, parse_port
from federation.model.service import Locality

PREFIX = "isthmus-gateway-"
"""Of the names of the Leases."""
GATEWAY = "isthmus.io/gateway"
"""Annotation of a Lease: the gateway as JSON."""
DURATION, RENEW = 15, 5.0
"""Seconds: that a gateway is known without news of it, and between two renewals."""
_SLOWEST = 1.0


class _Gateway(msgspec.Struct, frozen=True, omit_defaults=True):
    address: str
    port: int
    region: str = ""
    zone: str = ""
    weight: int = 1
    draining: bool = False
    egress: str = ""


@dataclass(slots=True)
class _Sight:
    """A Lease as it was seen: when it last changed (monotonic), who holds it, and what of."""

    lease: LeaseObject
    since: float
    gateway: Gateway | None

    @property
    def holder(self) -> str:
        return self.lease.spec.holder_identity or ""

    @property
    def until(self) -> float:
        return self.since + (self.lease.spec.lease_duration_seconds or 0)


class Roster:
    """`run` until cancelled. `announced` are the own streams' gateways; `on_elsewhere` gets those of the others."""

    def __init__(
        self,
        client: KubeClient,
        leases: Store[LeaseObject],
        *,
        namespace: str,
        identity: str,
        announced: Latest[Mapping[str, Announced]],
        on_elsewhere: Callable[[Mapping[str, Gateway]], None],
        clock: Clock,
        log: Logger,
        rng: random.Random,
    ) -> None:
        self._client, self._namespace, self._identity = client, namespace, identity
        self._announced, self._on_elsewhere = announced, on_elsewhere
        self._clock, self._log = clock, log
        self._backoff = Backoff(base=0.2, cap=RENEW, uniform=rng.uniform)
        self._sights: dict[str, _Sight] = {}
        self._written: dict[str, float] = {}  # gateway -> when we last renewed it
        self._claimed: dict[str, Consumer | None] = {}  # gateway -> the stream for which we took it
        self._withdrawn: set[str] = set()
        self._leases = leases
        self._wake = asyncio.Event()
        leases.listen(self._told)

    async def run(self) -> None:
        """Keep the Leases of the own gateways, and tell of the others', until cancelled."""
        following = asyncio.create_task(self._follow(), name="kube-roster-own")
        try:
            while True:
                self._wake.clear()
                delay = await self._turn()
                await first_of(self._wake.wait(), self._clock.sleep(delay))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self) -> None:
        version = self._announced.version
        before = self._announced.value
        while True:
            version, now = await self._announced.newer(version)
            self._withdrawn = (self._withdrawn | (before.keys() - now.keys())) - now.keys()
            before = now
            self._tell()
            self._wake.set()

    async def _turn(self) -> float:
        """Write what is due; the seconds until the next look."""
        self._tell()
        try:
            for name, announced in self._announced.value.items():
                if self._due(name, announced):
                    await self._renew(name, announced)
            for name, sight in list(self._sights.items()):
                ended = sight.until < self._clock.monotonic() or (
                    name in self._withdrawn and sight.holder == self._identity
                )
                if ended and name not in self._announced.value:
                    await self._remove(name, sight)
        except IsthmusError as error:
            self._log.warning("gateway not shared", code=error.error_code, error=error.message)
            return self._backoff.next()
        self._backoff.reset()
        return _SLOWEST

    # --- the own gateways --------------------------------------------------------------------------------------------

    def _due(self, name: str, announced: Announced) -> bool:
        """A stream that has begun takes the Lease; after that it is renewed as long as no other replica took it."""
        sight = self._sights.get(name)
        if announced.by is not None and self._claimed.get(name) is not announced.by:
            return True
        now = self._clock.monotonic()
        if sight is None or sight.until <= now:
            return announced.by is not None
        if sight.holder != self._identity:
            return False
        return sight.gateway != announced.gateway or now >= self._written.get(name, 0.0) + RENEW

    async def _renew(self, name: str, announced: Announced) -> None:
        held = self._leases.objects.get((self._namespace, PREFIX + name))
        body = msgspec.json.encode(self._render(announced.gateway, held))
        try:
            if held is None:
                data = await self._client.create(LEASES, self._namespace, body)
            else:
                data = await self._client.update(LEASES, self._namespace, PREFIX + name, body)
        except (Conflict, AlreadyExists, NotFound) as error:
            if isinstance(error, NotFound) and held is None:
                raise
            await self._refresh(name)
            self._wake.set()
            return
        self._written[name], self._claimed[name] = self._clock.monotonic(), announced.by
        self._leases.put(msgspec.json.decode(data, type=LeaseObject))

    async def _remove(self, name: str, sight: _Sight) -> None:
        meta = sight.lease.metadata
        try:
            await self._client.delete(
                LEASES, self._namespace, meta.name, uid=meta.uid, resource_version=meta.resource_version
            )
        except Conflict:
            await self._refresh(name)  # another replica has it
            return
        except NotFound:
            pass
        self._leases.delete(self._namespace, meta.name)

    async def _refresh(self, name: str) -> None:
        """What the API server has, for the watch may be behind."""
        try:
            data = await self._client.get(LEASES, self._namespace, PREFIX + name)
        except NotFound:
            self._leases.delete(self._namespace, PREFIX + name)
        else:
            self._leases.put(msgspec.json.decode(data, type=LeaseObject))

    def _render(self, gateway: Gateway, held: LeaseObject | None) -> dict[str, Any]:
        shown = _Gateway(
            gateway.address,
            gateway.port,
            gateway.locality.region,
            gateway.locality.zone,
            gateway.weight,
            gateway.draining,
            gateway.egress,
        )
        metadata: dict[str, Any] = {
            "name": PREFIX + gateway.name,
            "namespace": self._namespace,
            "labels": {MANAGED_BY: MANAGER},
            "annotations": {GATEWAY: msgspec.json.encode(shown).decode()},
        }
        if held is not None:
            metadata |= {"resourceVersion": held.metadata.resource_version, "uid": held.metadata.uid}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": DURATION,
                "renewTime": micro_time(self._clock.wall_ns()),
            },
        }

    # --- the others' -------------------------------------------------------------------------------------------------

    def _told(self, keys: Collection[Key]) -> None:
        names = [name.removeprefix(PREFIX) for space, name in keys if space == self._namespace and PREFIX in name]
        for name in names:
            lease = self._leases.objects.get((self._namespace, PREFIX + name))
            if lease is None:
                self._sights.pop(name, None)
                self._withdrawn.discard(name)
            else:
                self._sights[name] = _Sight(lease, self._clock.monotonic(), self._read(name, lease))
        if names:
            self._tell()
            self._wake.set()

    def _read(self, name: str, lease: LeaseObject) -> Gateway | None:
        try:
            found = msgspec.json.decode((lease.metadata.annotations or {}).get(GATEWAY, ""), type=_Gateway)
            return Gateway(
                name=parse_label(name, what="gateway"),
                address=found.address,
                port=parse_port(found.port, what="gateway port"),
                locality=Locality(found.region, found.zone),
                weight=max(1, found.weight),
                draining=found.draining,
                egress=found.egress,
            )
        except (msgspec.MsgspecError, IsthmusError) as error:
            self._log.warning("no gateway in a Lease", lease=lease.name, error=str(error))
            return None

    def _tell(self) -> None:
        self._on_elsewhere({g.name: g for g in self._elsewhere()})

    def _elsewhere(self) -> Iterable[Gateway]:
        now = self._clock.monotonic()
        for name, sight in self._sights.items():
            ours = sight.holder == self._identity and name in self._withdrawn
            if sight.gateway is not None and now < sight.until and not ours:
                yield sight.gateway
