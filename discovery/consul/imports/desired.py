"""The service instances that make an import callable by who asks Consul: its ports at the gateways of this cluster.

Pure. An instance is one port of an import at one gateway; its check says whether anybody behind it can serve. That the
agent lives, which keeps it true, is the check of the node (discovery.consul.imports.presence).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from federation.errors import InvalidName
from federation.model.cluster import Gateway
from federation.model.ids import ServiceName
from federation.model.service import Import, Port

MANAGER = "isthmus"
MANAGED_BY = "isthmus-managed-by"
CLUSTER = "isthmus-cluster"
IMPORT = "isthmus-import"
PORT = "isthmus-import-port"
PORT_NAME = "isthmus-import-port-name"
GATEWAY = "isthmus-import-gateway"
SOURCES = "isthmus-import-clusters"
PLAIN = "isthmus-import-plain"
"""Keys of the meta of what we write. MANAGED_BY and CLUSTER together say whose it is."""
PASSING, CRITICAL = "passing", "critical"
_VALUE_BYTES = 512  # of one meta value in Consul
EVERYBODY = "*"

_json = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class LocalGateway:
    """A gateway of this cluster as workloads without a sidecar reach it."""

    name: str
    address: str
    weight: int = 1
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What is the same for all imports. `absent`: gateways that went away a short while ago."""

    cluster: str
    gateways: tuple[LocalGateway, ...] = ()
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A service instance as it should be, with its check."""

    id: str
    service: str
    address: str
    port: int
    weight: int
    tags: tuple[str, ...]
    meta: Mapping[str, str]
    status: str
    output: str

    @property
    def says(self) -> bytes:
        """A digest of all but the check."""
        return digest(self.service, self.address, self.port, self.weight, self.tags, self.meta)


def digest(service: str, address: str, port: int, weight: int, tags: Iterable[str], meta: Mapping[str, str]) -> bytes:
    """What an instance says, in 16 bytes; the order of tags and meta is none of it."""
    said = _json.encode((service, address, port, weight, sorted(tags), meta))
    return hashlib.blake2b(said, digest_size=16).digest()


def local_gateways(gateways: Iterable[Gateway], *, single_machine: bool) -> tuple[LocalGateway, ...]:
    """Those that VMs of this cluster can reach; loopback only where all is one machine."""
    made = []
    for gateway in gateways:
        address = gateway.egress or gateway.address
        if reachable(address, single_machine=single_machine):
            made.append(
                LocalGateway(name=gateway.name, address=address, weight=gateway.weight, draining=gateway.draining)
            )
    return tuple(sorted(made))


def reachable(address: str, *, single_machine: bool) -> bool:
    """Whether another machine could call there."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if ip.is_loopback:
        return single_machine
    return not (ip.is_unspecified or ip.is_multicast or ip.is_link_local)


def written_by_us(meta: Mapping[str, str]) -> bool:
    """Whether an agent of ours, of whatever cluster, registered what has this meta: no source may export it again."""
    return meta.get(MANAGED_BY) == MANAGER


def instance_id(name: ServiceName, port: int, gateway: str) -> str:
    """Unique under the node: names are DNS labels, so nothing in them looks like what parts them."""
    return f"{MANAGER}:{name.namespace}:{name.name}:{port}:{gateway}"


def parse_id(text: str) -> tuple[ServiceName, int, str] | None:
    """(import, port, gateway) of an id that `instance_id` made; None for any other. It cannot be edited."""
    parts = text.split(":")
    if len(parts) != 5 or parts[0] != MANAGER or not (parts[3].isascii() and parts[3].isdigit()) or not parts[4]:
        return None
    try:
        return ServiceName.parse(f"{parts[1]}/{parts[2]}"), int(parts[3]), parts[4]
    except InvalidName:
        return None


def instances(imported: Import, named: Mapping[str, Port], plain: str, site: Site) -> dict[str, Instance]:
    """By id. `named`: the names in Consul that the import has, and the port of each; `plain`: its own."""
    made = {}
    staying = any(not gateway.draining for gateway in site.gateways)
    sources = source_clusters(b.cluster for b in imported.backends)
    for service, port in named.items():
        status, output = _readiness(imported, port)
        for gateway in site.gateways:
            leaves = gateway.draining and staying
            one = Instance(
                id=instance_id(imported.name, port.port, gateway.name),
                service=service,
                address=gateway.address,
                port=imported.gateway_ports[port.port],
                weight=gateway.weight,
                tags=(MANAGER, *((port.name,) if port.name and port.name != MANAGER else ())),
                meta={
                    MANAGED_BY: MANAGER,
                    CLUSTER: site.cluster,
                    IMPORT: str(imported.name),
                    PORT: str(port.port),
                    **({PORT_NAME: port.name} if port.name else {}),
                    GATEWAY: gateway.name,
                    SOURCES: sources,
                    **({PLAIN: "true"} if service == plain else {}),
                },
                status=CRITICAL if leaves else status,
                output=f"the gateway {gateway.name} is about to end" if leaves else output,
            )
            made[one.id] = one
    return made


def source_clusters(clusters: Iterable[str]) -> str:
    """As meta has them; more than fit are "*"."""
    text = ",".join(sorted(set(clusters)))
    return text if len(text) <= _VALUE_BYTES else EVERYBODY


def source_set(text: str) -> frozenset[str] | None:
    """What `source_clusters` made; None: any. What cannot be read is any, too."""
    return None if text in ("", EVERYBODY) else frozenset(text.split(","))


def _readiness(imported: Import, port: Port) -> tuple[str, str]:
    """Numbers of endpoints are left out: each would be a write, and they change all the time."""
    offering = [b for b in imported.backends if port.port in b.ports]
    ready = sorted(b.cluster for b in offering if b.ready)
    if ready:
        return PASSING, f"ready in {', '.join(ready)}"
    if offering:
        return CRITICAL, f"nothing is ready in {', '.join(sorted(b.cluster for b in offering))}"
    return CRITICAL, "no cluster offers this port"
