"""What a VM says of one of its services, checked: a message in, a registration out, or an error with its code.

The VM is who its stream's certificate says (discovery.serve); what it says of itself is claimed, and every part of it
is judged here. Pure.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from discovery.names import check_callable
from federation.errors import Denied, InvalidInput, QuotaExceeded
from federation.model.ids import ServiceName, SpiffeId
from federation.model.service import Endpoint, Service
from federation.model.wire import service_from_pb
from federation.proto.v1 import catalog_pb2 as pb
from federation.proto.v1 import records_pb2
from federation.registry.addresses import check_gateway_address

MAX_SERVICES = 64
"""Services of one VM."""
MAX_PORTS = 32
MAX_GRANTS = 256
MAX_LABELS_BYTES = 16 * 1024
_MAX_PLACE = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What registrations are judged by: the cluster's own settings."""

    trust_domain: str
    single_machine: bool = False
    any_address: bool = False
    """Plain-text endpoints may have other addresses than the one that the VM connects from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A service with the VM as its one endpoint; `service.exported_at_ns` is 0, the agent knows since when."""

    service: Service
    exported: bool

    @property
    def name(self) -> ServiceName:
        return self.service.name


def parse(data: bytes) -> pb.Workload:
    """Raises InvalidInput (malformed_workload)."""
    try:
        return pb.Workload.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"no Workload message: {error}", code="malformed_workload") from error


def check(message: pb.Workload, *, identity: SpiffeId, host: str, site: Site) -> Registration:
    """The registration in `message`, which came on a stream of `identity` from the IP address `host`.

    Raises InvalidName, InvalidInput, Denied (address_not_its_own), QuotaExceeded.
    """
    _check_size(message)
    claimed = records_pb2.Service(
        namespace=message.namespace,
        name=message.name,
        ports=message.ports,
        labels=message.labels,
        grants=message.grants,
        endpoints=[
            records_pb2.Endpoint(
                address=message.address,
                ready=message.ready and not message.draining,
                terminating=message.ready and message.draining,
                locality=message.locality,
                ports=message.targets,
                identity=str(identity) if message.secure else "",
            )
        ],
    )
    service = service_from_pb(claimed)
    check_callable(service.name, site.trust_domain)
    _check_ports(service)
    (endpoint,) = service.endpoints
    address = _address(endpoint, host, site)
    return Registration(
        service=replace(
            service,
            ip_families=("IPv6" if ":" in address else "IPv4",),
            endpoints=(replace(endpoint, address=address),),
        ),
        exported=message.exported,
    )


def _check_size(message: pb.Workload) -> None:
    if len(message.ports) > MAX_PORTS:
        raise QuotaExceeded(f"{len(message.ports)} ports; at most {MAX_PORTS} are taken", code="too_many_ports")
    if len(message.grants) > MAX_GRANTS:
        raise QuotaExceeded(f"{len(message.grants)} grants; at most {MAX_GRANTS} are taken", code="too_many_grants")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in message.labels.items())
    if size > MAX_LABELS_BYTES:
        raise QuotaExceeded(f"labels of {size} bytes; at most {MAX_LABELS_BYTES} are taken", code="metadata_too_large")
    place = message.locality
    if len(place.region) > _MAX_PLACE or len(place.zone) > _MAX_PLACE:
        raise InvalidInput(f"a region or zone of more than {_MAX_PLACE} characters", code="invalid_value")


def _check_ports(service: Service) -> None:
    ports, targets = service.ports, service.endpoints[0].ports
    if not ports:
        raise InvalidInput("it has no port", code="invalid_port")
    if len(ports) > 1 and any(not port.name for port in ports):
        raise InvalidInput("a port without a name among several", code="port_unnamed")
    if len({(p.port, p.protocol) for p in ports}) < len(ports) or len({p.name for p in ports}) < len(ports):
        raise InvalidInput("a port or the name of a port is given twice", code="duplicate_port")
    if {port.port for port in ports} != targets.keys():
        raise InvalidInput("not every port has a target, or there are targets without a port", code="invalid_port")


def _address(endpoint: Endpoint, host: str, site: Site) -> str:
    """In canonical form."""
    what = "the address"
    address = check_gateway_address(endpoint.address, single_machine=site.single_machine, what=what)
    if endpoint.identity or site.any_address or _same(address, host, site):
        return address
    raise Denied(
        f"the address {address} is not the one that the VM connects from ({host or 'unknown'})",
        hint="offer it by mutual TLS (inbound), or set vms.services.any_address in the agent's settings",
        code="address_not_its_own",
    )


def _same(address: str, host: str, site: Site) -> bool:
    try:
        seen = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(seen, ipaddress.IPv6Address) and seen.ipv4_mapped is not None:
        seen = seen.ipv4_mapped
    given = ipaddress.ip_address(address)
    return seen == given or (site.single_machine and seen.is_loopback and given.is_loopback)
