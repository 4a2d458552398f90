"""What imports are given in a Kubernetes cluster: the ClusterIPs of their derived Services, and ports at the gateways.

The API server assigns the addresses, and the derived Service keeps both, so that they outlive the agent and are the
same for all its replicas. Until it has confirmed them an import has none: nobody is told an address that is not served.
The last that were confirmed are on disk, too, for a start while the API server is away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from discovery.mcs.imports import Allocations
from federation.errors import CorruptState
from federation.model.ids import ServiceName


class Confirmed(msgspec.Struct, frozen=True):
    """What the derived Service of an import has: ClusterIPs, and service port → gateway port."""

    ips: tuple[str, ...] = ()
    ports: dict[int, int] = {}


class _Saved(msgspec.Struct, frozen=True):
    services: dict[str, Confirmed] = {}
    ports: msgspec.Raw = msgspec.Raw(b"{}")


class DerivedAllocations:
    """An Allocator whose addresses come from the API server."""

    def __init__(self, *, gateway_ports: tuple[int, int], release_seconds: float) -> None:
        self._ports = Allocations(v4="", v6="", gateway_ports=gateway_ports, release_seconds=release_seconds)
        self._confirmed: dict[str, Confirmed] = {}
        self._wanted: dict[str, tuple[int, ...]] = {}
        self._changed = False

    @property
    def changed(self) -> bool:
        """See Allocator."""
        return self._changed or self._ports.changed

    @property
    def exhausted(self) -> set[str]:
        """See Allocator."""
        return self._ports.exhausted

    def take(
        self, name: ServiceName, *, families: Iterable[str], ports: Iterable[int], headless: bool, now_ns: int
    ) -> tuple[tuple[str, ...], tuple[str, ...], dict[int, int]]:
        """See Allocator: what is confirmed. Without an address the families are those that are wished for."""
        key = str(name)
        if headless:
            self._drop(key)
            return (), tuple(families), {}
        wanted = tuple(ports)
        self._wanted[key] = wanted
        known = self._confirmed.get(key, _NOTHING)
        found = {"IPv6" if ":" in ip else "IPv4": ip for ip in known.ips}
        gateway_ports = {port: known.ports[port] for port in wanted if port in known.ports}
        return tuple(found.values()), tuple(found) or tuple(families), gateway_ports

    def proposal(self, name: ServiceName, *, now_ns: int) -> tuple[tuple[str, ...], dict[int, int]]:
        """(addresses to ask for again, gateway ports) of the derived Service of an import that was taken."""
        key = str(name)
        wanted = self._wanted.get(key, ())
        _, _, ports = self._ports.take(name, families=(), ports=wanted, headless=True, now_ns=now_ns)
        return self._confirmed.get(key, _NOTHING).ips, ports

    def confirm(self, name: ServiceName, ips: tuple[str, ...], ports: Mapping[int, int]) -> bool:
        """The derived Service has these; whether `take` says something else from now on.

        A port that another import has is not believed: the plan will give this one another.
        """
        key = str(name)
        good = {port: at for port, at in sorted(ports.items()) if self._ports.adopt(name, port, at)}
        confirmed = Confirmed(ips, good)
        if self._confirmed.get(key) == confirmed:
            return False
        self._confirmed[key] = confirmed
        self._changed = True
        return True

    def forget_addresses(self, name: ServiceName) -> bool:
        """The API server does not give them again; whether there were any."""
        known = self._confirmed.get(str(name), _NOTHING)
        if not known.ips:
            return False
        self._confirmed[str(name)] = Confirmed((), known.ports)
        self._changed = True
        return True

    def release(self, name: ServiceName, *, now_ns: int) -> None:
        """See Allocator. The address goes with the Service; the port rests, for old EndpointSlices may lead to it."""
        self._drop(str(name))
        self._ports.release(name, now_ns=now_ns)

    def expire(self, *, now_ns: int) -> None:
        """See Allocator."""
        self._ports.expire(now_ns=now_ns)

    def end_unused(self, used: Iterable[ServiceName], *, now_ns: int) -> None:
        """See Allocator."""
        wanted = set(used)
        for key in self._confirmed.keys() - set(map(str, wanted)):
            self._drop(key)
        self._ports.end_unused(wanted, now_ns=now_ns)

    def dump(self) -> bytes:
        """See Allocator."""
        self._changed = False
        return msgspec.json.encode(_Saved(dict(self._confirmed), msgspec.Raw(self._ports.dump())))

    def load(self, data: bytes) -> None:
        """See Allocator."""
        try:
            saved = msgspec.json.decode(data, type=_Saved)
        except msgspec.MsgspecError as error:
            raise CorruptState(f"the allocations are of another version: {error}") from error
        self._ports.load(bytes(saved.ports))
        self._confirmed.update(saved.services)

    def _drop(self, key: str) -> None:
        self._wanted.pop(key, None)
        if self._confirmed.pop(key, None) is not None:
            self._changed = True


_NOTHING = Confirmed()
