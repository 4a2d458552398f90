"""Services as one cluster exports them, and as a consumer sees them merged."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.model.ids import ServiceName


class Protocol(enum.StrEnum):
    """Transport protocol of a port (Service.spec.ports[].protocol).

    Gateways and sidecars carry TCP. A port of another one is seen by consumers, in its import and by DNS; it is of use
    where endpoints are reached directly.
    """

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class AppProtocol(enum.StrEnum):
    """How a port's bytes are understood."""

    OPAQUE = "tcp"
    HTTP = "http"
    H2C = "h2c"
    GRPC = "grpc"

    @property
    def is_http(self) -> bool:
        """Whether requests, not connections, are what is balanced and retried."""
        return self is not AppProtocol.OPAQUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port of a service; `name` is empty when the Service has one unnamed port. `declared`: its appProtocol."""

    name: str = ""
    port: int
    protocol: Protocol = Protocol.TCP
    app: AppProtocol = AppProtocol.OPAQUE
    declared: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Locality:
    """Where something runs; empty strings where that is not known."""

    region: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Number of ready endpoints in one zone. `weight`: what they weigh together; 0: 1 each, as of who does not say."""

    locality: Locality
    ready: int
    weight: int = 0


MAX_WEIGHT = 65_535
"""Of an endpoint: that of Consul. Envoy adds the weights of a set up in 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One copy of a service. `ports`: service port → port at this address.

    `identity`: the SPIFFE ID that it proves itself with, in its own cluster's trust domain; such an endpoint is reached
    by mutual TLS alone (docs/trust.md). Empty: plain text. `weight`: its share of the calls among the endpoints of its
    own cluster, 1 to MAX_WEIGHT; other clusters are told the sum (Readiness).
    """

    address: str
    ready: bool = True
    terminating: bool = False
    locality: Locality = Locality()
    hostname: str = ""
    ports: Mapping[int, int] = field(default_factory=dict)
    identity: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Grant:
    """Who may see and call something: a cluster name or "*"; `ports` empty means all."""

    consumer: str
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One exported service, as its origin claims it (payload of SERVICE)."""

    name: ServiceName
    exported_at_ns: int
    ports: tuple[Port, ...] = ()
    headless: bool = False
    session_affinity: str = "None"
    session_affinity_seconds: int = 0
    internal_traffic_policy: str = ""
    traffic_distribution: str = ""
    ip_families: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    readiness: tuple[Readiness, ...] = ()
    grants: tuple[Grant, ...] = ()  # empty: every linked cluster, all ports
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def ready(self) -> int:
        return sum(r.ready for r in self.readiness)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a headless service is reached directly by clusters on `network` (payload of ENDPOINTS).

    `grants` are those of the Service: who may not see it does not see where it is.
    """

    name: ServiceName
    network: str
    endpoints: tuple[Endpoint, ...] = ()
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True)
class FieldConflict:
    """Exporting clusters disagree on a field; `reason` is the MCS condition reason, e.g. "PortConflict"."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One cluster's part in an import; `endpoints` only where they can be reached directly."""

    cluster: str
    local: bool = False
    stale: bool = False
    ports: tuple[int, ...] = ()
    readiness: tuple[Readiness, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def ready(self) -> int:
        return sum(r.ready for r in self.readiness)

    @property
    def weight(self) -> int:
        """Of all that is ready: its share of the calls among clusters that are equally near."""
        return sum(r.weight or r.ready for r in self.readiness)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """The merged service that a consumer sees (payload of IMPORT; MCS ServiceImport). Backends sorted by cluster.

    `gateway_ports`: service port → port of the local gateway, for callers without a sidecar; `aliases`: further host
    names by which those know it.
    """

    name: ServiceName
    ips: tuple[str, ...] = ()
    ip_families: tuple[str, ...] = ()
    headless: bool = False
    ports: tuple[Port, ...] = ()
    session_affinity: str = "None"
    session_affinity_seconds: int = 0
    internal_traffic_policy: str = ""
    traffic_distribution: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    backends: tuple[Backend, ...] = ()
    conflicts: tuple[FieldConflict, ...] = ()
    gateway_ports: Mapping[int, int] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One exported service for the gateways of its own cluster (payload of EXPORT). No grants: nobody is admitted."""

    name: ServiceName
    ports: tuple[Port, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    grants: tuple[Grant, ...] = ()
