"""Gives every import its ClusterSetIP and its ports at the local gateway: stable, never twice, kept over restarts.

Where a free value is looked for is derived from the name, so that even an agent that lost its state mostly gives the
same again. What an import had is kept for it for a while after its end. No I/O: discovery.state writes `dump`.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

import msgspec

from federation.errors import CorruptState
from federation.model.ids import ServiceName

K = TypeVar("K", bound=str)


class Allocator(Protocol):
    """What gives imports their addresses. `changed`: `dump` would give something new; `exhausted`: see Allocations."""

    @property
    def changed(self) -> bool: ...
    @property
    def exhausted(self) -> set[str]: ...
    def take(
        self, name: ServiceName, *, families: Iterable[str], ports: Iterable[int], headless: bool, now_ns: int
    ) -> tuple[tuple[str, ...], tuple[str, ...], dict[int, int]]:
        """(ips, their families in the same order, service port → gateway port) of an import."""
        ...

    def release(self, name: ServiceName, *, now_ns: int) -> None:
        """The import has ended."""
        ...

    def expire(self, *, now_ns: int) -> None:
        """Free what was released long enough ago."""
        ...

    def end_unused(self, used: Iterable[ServiceName], *, now_ns: int) -> None:
        """After a start: what was saved for imports that are no longer there ends."""
        ...

    def dump(self) -> bytes:
        """For the disk."""
        ...

    def load(self, data: bytes) -> None:
        """Take over what `dump` wrote. Raises CorruptState."""
        ...


class Saved(msgspec.Struct, frozen=True):
    """What is on disk: values by key, and when those that are no longer used were given back (wall ns)."""

    v4: dict[str, int] = {}
    v6: dict[str, int] = {}
    ports: dict[str, int] = {}
    released: dict[str, int] = {}


class Pool(Generic[K]):
    """Numbers of [0, size), each held by at most one key."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._by_key: dict[K, int] = {}
        self._used: set[int] = set()

    @property
    def held(self) -> Mapping[K, int]:
        return self._by_key

    def take(self, key: K) -> int | None:
        """The number of `key`, a free one for a new key, None when all are in use."""
        number = self._by_key.get(key)
        if number is not None:
            return number
        if len(self._used) >= self.size:
            return None
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % self.size
        while number in self._used:
            number = (number + 1) % self.size
        self.put(key, number)
        return number

    def put(self, key: K, number: int) -> bool:
        """Restore a saved assignment; False where it does not fit (another range now, or taken)."""
        if not 0 <= number < self.size or number in self._used or key in self._by_key:
            return False
        self._by_key[key] = number
        self._used.add(number)
        return True

    def drop(self, key: K) -> None:
        number = self._by_key.pop(key, None)
        if number is not None:
            self._used.discard(number)


class Allocations:
    """ClusterSetIPs and gateway ports of all imports of one cluster."""

    def __init__(self, *, v4: str, v6: str, gateway_ports: tuple[int, int], release_seconds: float) -> None:
        """Ranges in CIDR form; an empty one gives no addresses of that family. Settings have been checked."""
        self._networks: dict[str, tuple[int, int]] = {}
        self._pools: dict[str, Pool[str]] = {}
        for family, text in (("IPv4", v4), ("IPv6", v6)):
            if text:
                network = ipaddress.ip_network(text)
                # Neither the network's address nor the broadcast address; a vast IPv6 range is used in part.
                self._networks[family] = (int(network.network_address) + 1, network.version)
                self._pools[family] = Pool(min(network.num_addresses - 2, 1 << 32))
        self._first_port = gateway_ports[0]
        self._ports: Pool[str] = Pool(gateway_ports[1] - gateway_ports[0] + 1)
        self._release = int(release_seconds * 1e9)
        self._released: dict[str, int] = {}
        self._ports_of: dict[str, set[str]] = {}
        self.changed = False
        """Something is to be saved; cleared by `dump`."""
        self.exhausted: set[str] = set()
        """Imports ("<namespace>/<service>") that did not get all they should have."""

    def take(
        self, name: ServiceName, *, families: Iterable[str], ports: Iterable[int], headless: bool, now_ns: int
    ) -> tuple[tuple[str, ...], tuple[str, ...], dict[int, int]]:
        """(ips, their families in the same order, service port → gateway port) of an import.

        Of `families` those that have a range; if none of them has, the first that has. Headless imports have no IPs.
        """
        key = str(name)
        if self._released.pop(key, None) is not None:
            self.changed = True
        usable = [f for f in families if f in self._pools] or list(self._pools)[:1]
        ips, given, missing = [], [], False
        for family in () if headless else usable:
            ip = self._ip(family, key, now_ns)
            if ip is None:
                missing = True
            else:
                ips.append(ip)
                given.append(family)
        gateway_ports = {}
        for port in ports:
            number = self._port(key, port, now_ns)
            if number is None:
                missing = True
            else:
                gateway_ports[port] = number
        (self.exhausted.add if missing else self.exhausted.discard)(key)
        return tuple(ips), tuple(usable if headless else given), gateway_ports

    def adopt(self, name: ServiceName, port: int, gateway_port: int) -> bool:
        """The port has that gateway port already; False where that cannot be: out of range, or another import's."""
        key, slot = str(name), f"{name}:{port}"
        before, number = self._ports.held.get(slot), gateway_port - self._first_port
        if before == number:
            return True
        self._ports.drop(slot)
        adopted = self._ports.put(slot, number)
        if not adopted and before is not None:
            self._ports.put(slot, before)
        if adopted:
            self._ports_of.setdefault(key, set()).add(slot)
            self.changed = True
        return adopted

    def release(self, name: ServiceName, *, now_ns: int) -> None:
        """The import has ended; what it had is free after the delay."""
        self.exhausted.discard(str(name))
        if str(name) not in self._released:
            self._released[str(name)] = now_ns
            self.changed = True

    def expire(self, *, now_ns: int) -> None:
        """Free what was released long enough ago."""
        for key, since in list(self._released.items()):
            if now_ns - since >= self._release:
                self._free(key)

    def dump(self) -> bytes:
        """For the disk."""
        self.changed = False
        empty: Pool[str] = Pool(0)
        return msgspec.json.encode(
            Saved(
                v4=dict(self._pools.get("IPv4", empty).held),
                v6=dict(self._pools.get("IPv6", empty).held),
                ports=dict(self._ports.held),
                released=self._released,
            )
        )

    def load(self, data: bytes) -> None:
        """Take over what `dump` wrote, as far as it fits today's ranges. Raises CorruptState."""
        try:
            saved = msgspec.json.decode(data, type=Saved)
        except msgspec.MsgspecError as error:
            raise CorruptState(f"the allocations are of another version: {error}") from error
        for family, values in (("IPv4", saved.v4), ("IPv6", saved.v6)):
            if family in self._pools:
                for key, number in values.items():
                    self._pools[family].put(key, number)
        for key, number in saved.ports.items():
            if self._ports.put(key, number):
                self._ports_of.setdefault(key.rpartition(":")[0], set()).add(key)
        self._released.update(saved.released)

    def end_unused(self, used: Iterable[ServiceName], *, now_ns: int) -> None:
        """After a start: what was saved for imports that are no longer there begins its delay."""
        wanted = set(map(str, used))
        known = set(self._ports_of).union(*(pool.held for pool in self._pools.values()))
        for key in known - wanted - self._released.keys():
            self._released[key] = now_ns
            self.changed = True

    def _ip(self, family: str, key: str, now_ns: int) -> str | None:
        pool = self._pools[family]
        if key not in pool.held:
            self.changed = True
        number = pool.take(key)
        if number is None and self._reclaim(now_ns, lambda released: released in pool.held):
            number = pool.take(key)
        if number is None:
            return None
        base, version = self._networks[family]
        return str(ipaddress.IPv4Address(base + number) if version == 4 else ipaddress.IPv6Address(base + number))

    def _port(self, key: str, port: int, now_ns: int) -> int | None:
        slot = f"{key}:{port}"
        if slot not in self._ports.held:
            self.changed = True
        number = self._ports.take(slot)
        if number is None and self._reclaim(now_ns, lambda released: bool(self._ports_of.get(released))):
            number = self._ports.take(slot)
        if number is None:
            return None
        self._ports_of.setdefault(key, set()).add(slot)
        return self._first_port + number

    def _reclaim(self, now_ns: int, useful: Callable[[str], bool]) -> bool:
        """All are in use: the one that was released first goes early."""
        self.expire(now_ns=now_ns)
        for key in sorted(self._released, key=self._released.__getitem__):
            if useful(key):
                self._free(key)
                return True
        return False

    def _free(self, key: str) -> None:
        for pool in self._pools.values():
            pool.drop(key)
        for slot in self._ports_of.pop(key, ()):
            self._ports.drop(slot)
        self._released.pop(key, None)
        self.changed = True
