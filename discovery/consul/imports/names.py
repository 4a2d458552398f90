"""What an import is called in Consul, and which import has a name that several would have. No I/O.

An import with several ports is several services, because all instances of a Consul service are alike to who looks it
up: the plain name is that of one port, the others have `-<port name>` behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from federation.errors import InvalidName
from federation.model.ids import ServiceName, parse_label
from federation.model.service import Import, Port, Protocol


@dataclass(frozen=True, slots=True)
class NameRule:
    """`template` of {service} and {namespace}; empty: the service, and behind it a namespace that is not `namespace`,
    the one that was given to the datacenter."""

    namespace: str
    template: str = ""

    def plain(self, name: ServiceName) -> str:
        """The name of the import's main port."""
        if self.template:
            return self.template.format(service=name.name, namespace=name.namespace)
        return name.name if name.namespace == self.namespace else f"{name.name}-{name.namespace}"


def ports(imported: Import) -> tuple[Port, ...]:
    """The ports that a gateway of this cluster has a listener for."""
    if imported.headless:
        return ()
    return tuple(p for p in imported.ports if p.protocol is Protocol.TCP and p.port in imported.gateway_ports)


def claims(imported: Import, rule: NameRule, main: int | None) -> dict[str, Port]:
    """Name in Consul → port. `main` keeps the plain name as long as the import has that port; else the lowest.

    Raises InvalidName where a name is no DNS label.
    """
    offered = ports(imported)
    if not offered:
        return {}
    plain = rule.plain(imported.name)
    first = next((p for p in offered if p.port == main), offered[0])
    made: dict[str, Port] = {}
    for port in offered:
        name = plain if port is first else f"{plain}-{port.name or port.port}"
        made[parse_label(name, what=f"{imported.name}: its name in Consul")] = port
    if len(made) < len(offered):
        raise InvalidName(f"{imported.name}: two of its ports would have one name in Consul")
    return made


def hosts(imported: Import, rule: NameRule, *, datacenter: str, domain: str) -> tuple[str, ...]:
    """Host names under which who asks Consul knows the import, whichever of its ports has the plain name."""
    plain = rule.plain(imported.name)
    offered = ports(imported)
    services = [plain, *(f"{plain}-{p.name or p.port}" for p in offered)] if len(offered) > 1 else [plain]
    if not offered or any(len(service) > 63 for service in services):
        return ()
    return tuple(f"{s}.service.{zone}" for s in services for zone in (domain, f"{datacenter}.{domain}"))


class Book:
    """Who claims which name, and who has it: a plain name goes before one with a port, the datacenter's own namespace
    before others, then the order of names decides."""

    def __init__(self, rule: NameRule) -> None:
        self._rule = rule
        self._by_import: dict[ServiceName, Mapping[str, Port]] = {}
        self._claimants: dict[str, set[ServiceName]] = {}

    def claim(self, name: ServiceName, wanted: Mapping[str, Port]) -> set[ServiceName]:
        """`name` claims these from now on; the other imports that are concerned."""
        before = self._by_import.get(name, {})
        if before == wanted:
            return set()
        changed = before.keys() ^ wanted.keys()
        concerned: set[ServiceName] = set()
        for key in changed:
            claimants = self._claimants.setdefault(key, set())
            claimants.symmetric_difference_update((name,))
            concerned |= claimants
            if not claimants:
                del self._claimants[key]
        if wanted:
            self._by_import[name] = wanted
        else:
            self._by_import.pop(name, None)
        return concerned - {name}

    def holder(self, key: str) -> ServiceName | None:
        """Who has the name; None where nobody claims it."""
        return min(self._claimants.get(key, ()), key=lambda name: self._rank(name, key), default=None)

    def claimed(self, name: ServiceName) -> Mapping[str, Port]:
        """What `name` claims."""
        return self._by_import.get(name, {})

    def claimants(self, key: str) -> frozenset[ServiceName]:
        """All that claim the name."""
        return frozenset(self._claimants.get(key, ()))

    def _rank(self, name: ServiceName, key: str) -> tuple[bool, bool, ServiceName]:
        return self._rule.plain(name) != key, name.namespace != self._rule.namespace, name
