"""What this cluster claims, as records of its own origin in a Log that is published to the registry.

Arrives: services from the sources, gateways from their streams, the cluster's own description. Leaves: records, only
for what really changed: an endpoint that moves within its zone is no news for other clusters.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from pathlib import Path

from discovery.state import read_or_none
from federation.aio.clock import Clock
from federation.aio.files import write_state
from federation.catalog.log import Log
from federation.log import Logger
from federation.model.cluster import Cluster, Gateway
from federation.model.ids import ServiceName
from federation.model.record import MAX_FLOOR, Key, Kind, Origin, OriginState, Record, Version
from federation.model.service import Endpoints, Service
from federation.model.wire import encode_cluster, encode_endpoints, encode_gateway, encode_service


def next_epoch(path: Path, *, clock: Clock, log: Logger) -> int:
    """An epoch above every one before, stored at `path`.

    It is at least the time of day in seconds, so that it rises even when the file was lost or comes from a backup.
    Raises StorageFailed: an epoch that is not stored must not be used.
    """
    data = read_or_none(path, log)
    last = int(data) if data is not None and data.isdigit() else 0
    epoch = max(last + 1, clock.wall_ns() // 1_000_000_000)
    write_state(path, str(epoch).encode())
    return epoch


def keep_floor(path: Path, epoch: int) -> None:
    """Let the first `next_epoch` of a cluster that has just joined be above `epoch`. Raises StorageFailed."""
    if epoch:
        write_state(path, str(min(epoch, MAX_FLOOR)).encode())


class Records:
    """A Log with the records of one origin; `claim` and `withdraw` write only what differs."""

    def __init__(self, *, origin: str, epoch: int, history: str = "") -> None:
        self.log = Log(history=history or uuid.uuid4().hex)
        self.origin, self.epoch, self.sequence = origin, epoch, 0
        self.log.reset_origin(origin, self.version, ())

    @property
    def version(self) -> Version:
        return Version(self.epoch, self.sequence)

    def claim(self, kind: Kind, name: str, payload: bytes) -> Record | None:
        """The record to put, None when it is there already."""
        held = self.log.get(Key(self.origin, kind, name))
        if held is not None and held.payload == payload:
            return None
        return self._record(kind, name, payload)

    def withdraw(self, kind: Kind, name: str) -> Record | None:
        """The tombstone to put, None when there is nothing to delete."""
        if self.log.get(Key(self.origin, kind, name)) is None:
            return None
        return self._record(kind, name, None)

    def put(self, records: Iterable[Record | None]) -> bool:
        """Write what `claim` and `withdraw` gave, at once."""
        return self.log.put([r for r in records if r is not None])

    def names(self, kind: Kind) -> set[str]:
        return {r.key.name for r in self.log.records(kind=kind, origin=self.origin)}

    def live(self) -> None:
        self.log.set_origin(Origin(self.origin, self.version, OriginState.LIVE))

    def _record(self, kind: Kind, name: str, payload: bytes | None) -> Record:
        self.sequence += 1
        return Record(Key(self.origin, kind, name), self.version, payload)


class Report:
    """The cluster's claims."""

    def __init__(self, *, cluster: str, epoch: int, network: str = "") -> None:
        """`network`: as in the settings; with it, where headless services are reached directly is reported, too."""
        self.records = Records(origin=cluster, epoch=epoch)
        self._cluster, self._network = cluster, network
        self._services: Mapping[ServiceName, Service] = {}

    def begin(self, epoch: int) -> None:
        """Claim the same again with another epoch: this replica reports from now on, or is to be heard before another
        one. The log is a new one."""
        claims = [(r.key, r.payload) for r in self.records.log.records(origin=self._cluster)]
        self.records = Records(origin=self._cluster, epoch=epoch)
        self.records.put([self.records.claim(key.kind, key.name, payload or b"") for key, payload in claims])

    def describe(self, cluster: Cluster) -> None:
        """CLUSTER: the cluster's bundle, locality and problems."""
        self.records.put([self.records.claim(Kind.CLUSTER, self._cluster, encode_cluster(cluster))])

    def gateways(self, gateways: Mapping[str, Gateway]) -> None:
        """GATEWAY: exactly these, as peers see them; those that they do not reach are none."""
        gateways = {name: replace(gateway, egress="") for name, gateway in gateways.items() if gateway.address}
        gone = self.records.names(Kind.GATEWAY) - gateways.keys()
        self.records.put(
            [
                *(self.records.claim(Kind.GATEWAY, name, encode_gateway(g)) for name, g in sorted(gateways.items())),
                *(self.records.withdraw(Kind.GATEWAY, name) for name in sorted(gone)),
            ]
        )

    def services(self, services: Mapping[ServiceName, Service], changed: Set[ServiceName] | None = None) -> None:
        """SERVICE: exactly these. Endpoints stay here; what peers get is the readiness. On a flat network
        ENDPOINTS, too: those of the headless ones.

        `changed`: names that differ from the last call, if the caller knows them.
        """
        old, self._services = self._services, services
        changed = changed_names(old, services) if changed is None else changed
        records: list[Record | None] = []
        for name in sorted(changed):
            service = services.get(name)
            if service is None:
                records.append(self.records.withdraw(Kind.SERVICE, str(name)))
                records.append(self.records.withdraw(Kind.ENDPOINTS, str(name)))
            else:
                payload = encode_service(service, endpoints=False)
                records.append(self.records.claim(Kind.SERVICE, str(name), payload))
                records.append(self._endpoints(service))
        self.records.put(records)

    def _endpoints(self, service: Service) -> Record | None:
        if not self._network or not service.headless:
            return self.records.withdraw(Kind.ENDPOINTS, str(service.name))
        found = Endpoints(name=service.name, network=self._network, endpoints=service.endpoints, grants=service.grants)
        return self.records.claim(Kind.ENDPOINTS, str(service.name), encode_endpoints(found))


def changed_names(
    old: Mapping[ServiceName, Service], new: Mapping[ServiceName, Service], *, among: Set[ServiceName] | None = None
) -> set[ServiceName]:
    """Names whose service is another object, is new, or is gone; `among` holds all that can be, if that is known."""
    if among is not None:
        return {name for name in among if old.get(name) is not new.get(name)}
    changed = {name for name, service in new.items() if old.get(name) is not service}
    return changed | (old.keys() - new.keys())
