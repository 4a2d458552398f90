"""Virtual addresses: a stable one for each (service, pinned cluster or none) that the workload uses.

Addresses follow from a hash of what they stand for, so that even a lost state file mostly brings the same ones back;
the file makes it certain. An address that was given up goes to no other service while somebody may still have it.
"""

from __future__ import annotations

import enum
import hashlib
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from federation.aio.clock import Clock, SystemClock
from federation.aio.files import read_state, write_state
from federation.errors import CorruptState, InvalidInput, QuotaExceeded
from federation.model.ids import ServiceName


class Range(enum.StrEnum):
    """What kind of address is needed: for a listener per service, or for the one listener that redirection leads to."""

    LOOPBACK = "loopback"
    REDIRECT_OPAQUE = "redirect-opaque"
    REDIRECT_HTTP = "redirect-http"

    @classmethod
    def of(cls, *, redirect: bool, http: bool) -> Range:
        """The range for a way of interception and a service, `http` if any of its ports is HTTP."""
        if not redirect:
            return cls.LOOPBACK
        return cls.REDIRECT_HTTP if http else cls.REDIRECT_OPAQUE


REDIRECT_NETWORK = "240.64.0.0/12"
NETWORKS: Mapping[Range, str] = {
    Range.LOOPBACK: "127.128.0.0/9",
    Range.REDIRECT_OPAQUE: "240.64.0.0/13",
    Range.REDIRECT_HTTP: "240.72.0.0/13",
}
FRESH_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """An address and what it stands for; `released_ns` (wall) is 0 while it is in use."""

    address: str
    service: ServiceName
    cluster: str | None
    range: Range
    released_ns: int = 0


class _Row(msgspec.Struct, array_like=True, frozen=True):
    address: str
    namespace: str
    name: str
    cluster: str | None
    range: str
    released_ns: int


_Key = tuple[ServiceName, str | None]


class VirtualAddresses:
    """The addresses of one sidecar. `fresh` seconds pass before a released address may stand for something else."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        networks: Mapping[Range, str] = NETWORKS,
        fresh: float = FRESH_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self._path, self._fresh_ns, self._clock = path, int(fresh * 1e9), clock or SystemClock()
        self._networks = {r: ipaddress.IPv4Network(n) for r, n in networks.items()}
        self._by_address: dict[str, Lease] = {}
        self._by_key: dict[_Key, Lease] = {}
        self._dirty = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        networks: Mapping[Range, str] = NETWORKS,
        fresh: float = FRESH_SECONDS,
        clock: Clock | None = None,
    ) -> VirtualAddresses:
        """With what `save` left at `path`; raises CorruptState for a damaged file, StorageFailed."""
        pool = cls(path, networks=networks, fresh=fresh, clock=clock)
        raw = read_state(path)
        if raw is not None:
            pool._load(raw)
        return pool

    def allocate(self, service: ServiceName, cluster: str | None = None, *, kind: Range) -> str:
        """The address of `service` (pinned to `cluster`), the same as last time if it had one of this kind.

        Raises QuotaExceeded (code vip_exhausted) when every address of the range is in use or still fresh.
        """
        key = (service, cluster)
        lease = self._by_key.get(key)
        if lease is not None and lease.range is kind:
            if lease.released_ns:
                self._set(replace(lease, released_ns=0))
            return lease.address
        address = self._free_address(key, kind)
        if lease is not None:  # it changed its kind: whoever has the old address may keep it for a while
            self._by_address[lease.address] = replace(lease, released_ns=lease.released_ns or self._clock.wall_ns())
        self._set(Lease(address=address, service=service, cluster=cluster, range=kind))
        return address

    def release(self, service: ServiceName, cluster: str | None = None) -> None:
        """The service is no longer in use; the address stays its own at least for `fresh` seconds."""
        lease = self._by_key.get((service, cluster))
        if lease is not None and not lease.released_ns:
            self._set(replace(lease, released_ns=self._clock.wall_ns()))

    def find(self, address: str) -> Lease | None:
        """What `address` stands for, also while it is released but not given to another service."""
        return self._by_address.get(address)

    def in_use(self) -> Iterator[Lease]:
        """The leases that are not released."""
        return (lease for lease in list(self._by_key.values()) if not lease.released_ns)

    @property
    def dirty(self) -> bool:
        """Whether there is something to save."""
        return self._dirty

    def dump(self) -> bytes:
        """The state to be written; the table counts as saved from here on. Leases no longer fresh are forgotten."""
        now = self._clock.wall_ns()
        for lease in [x for x in self._by_address.values() if self._stale(x, now)]:
            self._drop(lease)
        self._dirty = False
        return msgspec.json.encode(
            [
                _Row(x.address, x.service.namespace, x.service.name, x.cluster, x.range.value, x.released_ns)
                for x in self._by_address.values()
            ]
        )

    def save(self) -> None:
        """Write the state if it changed; raises StorageFailed, and then it is still to be saved.

        It waits for the disk: a process that must not wait calls `dump` and writes in a thread.
        """
        if self._path is None or not self._dirty:
            return
        try:
            write_state(self._path, self.dump())
        except Exception:
            self._dirty = True
            raise

    def _stale(self, lease: Lease, now: int) -> bool:
        """Whether its address may go to another service. A clock that was set back keeps it."""
        return lease.released_ns != 0 and now - lease.released_ns >= self._fresh_ns

    def _drop(self, lease: Lease) -> None:
        del self._by_address[lease.address]
        if self._by_key.get((lease.service, lease.cluster)) is lease:
            del self._by_key[(lease.service, lease.cluster)]

    def _set(self, lease: Lease) -> None:
        self._by_address[lease.address] = lease
        self._by_key[(lease.service, lease.cluster)] = lease
        self._dirty = True

    def _free_address(self, key: _Key, kind: Range) -> str:
        network = self._networks.get(kind)
        if network is None:
            raise InvalidInput(f"no virtual addresses are set aside for {kind}")
        first = int(network.network_address) + 1  # neither the first address nor the broadcast
        size = network.num_addresses - 2
        text = f"{kind.value}/{key[0]}/{key[1] or ''}"
        start = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % size
        now = self._clock.wall_ns()
        for step in range(min(size, len(self._by_address) + 1)):
            address = str(ipaddress.IPv4Address(first + (start + step) % size))
            lease = self._by_address.get(address)
            if lease is None:
                return address
            if self._stale(lease, now):
                self._drop(lease)
                return address
        raise QuotaExceeded(
            f"all {size} virtual addresses of {network} are in use",
            hint="use a larger range, or fewer services from one workload",
            code="vip_exhausted",
        )

    def _load(self, raw: bytes) -> None:
        try:
            rows = msgspec.json.decode(raw, type=list[_Row])
            for row in rows:
                lease = Lease(
                    address=row.address,
                    service=ServiceName(row.namespace, row.name),
                    cluster=row.cluster,
                    range=Range(row.range),
                    released_ns=row.released_ns,
                )
                network = self._networks.get(lease.range)
                if network is None or ipaddress.IPv4Address(lease.address) not in network:
                    continue  # the range was changed in the settings
                self._by_address[lease.address] = lease
                held = self._by_key.get((lease.service, lease.cluster))
                if held is None or held.released_ns:
                    self._by_key[(lease.service, lease.cluster)] = lease
        except (ValueError, msgspec.DecodeError) as error:
            raise CorruptState(f"{self._path} holds no virtual addresses", hint="move it away") from error
