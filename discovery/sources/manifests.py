"""The Kubernetes objects that the agent understands, as typed structs: only the fields that it uses.

`discovery.sources.parse` makes them from files; `check` proves what the types cannot say; `discovery.sources.convert`
turns them into services. They are msgspec structs, so that the agent's cache of parsed files costs no YAML.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime
from socket import AF_INET, AF_INET6, inet_pton
from typing import TypeAlias

from msgspec import Struct, field

from federation.errors import IsthmusError
from federation.lines import Step
from federation.model.consumers import consumers as consumers
from federation.model.consumers import grants as grants
from federation.model.ids import ServiceName, parse_label, parse_port

CONSUMERS = "isthmus.io/consumers"
"""Annotation of a ServiceExport: who may see and call it, e.g. "west, edge:80"."""
MANAGED_BY = "app.kubernetes.io/managed-by"
SERVICE_NAME = "kubernetes.io/service-name"
REGION, ZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"


class Metadata(Struct, frozen=True, rename="camel", omit_defaults=True):
    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: datetime | None = None


class ServicePort(Struct, frozen=True, rename="camel", omit_defaults=True):
    port: int
    name: str | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class ClientIp(Struct, frozen=True, rename="camel", omit_defaults=True):
    timeout_seconds: int | None = None


class AffinityConfig(Struct, frozen=True, omit_defaults=True):
    client_ip: ClientIp | None = field(default=None, name="clientIP")


class ServiceSpec(Struct, frozen=True, rename="camel", omit_defaults=True):
    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    ports: list[ServicePort] | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None
    internal_traffic_policy: str | None = None
    traffic_distribution: str | None = None
    ip_families: list[str] | None = None
    publish_not_ready_addresses: bool | None = None


class Service(Struct, frozen=True, tag="Service", tag_field="kind", omit_defaults=True):
    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()


class Conditions(Struct, frozen=True, omit_defaults=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class SliceEndpoint(Struct, frozen=True, omit_defaults=True):
    addresses: list[str]
    conditions: Conditions | None = None
    hostname: str | None = None
    zone: str | None = None
    node: str | None = field(default=None, name="nodeName")


class SlicePort(Struct, frozen=True, omit_defaults=True):
    port: int | None = None
    name: str | None = None
    protocol: str | None = None


class EndpointSlice(Struct, frozen=True, tag="EndpointSlice", tag_field="kind", omit_defaults=True):
    metadata: Metadata
    address_type: str = field(name="addressType")
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class ExportSpec(Struct, frozen=True, rename="camel", omit_defaults=True):
    exported_labels: dict[str, str] | None = None
    exported_annotations: dict[str, str] | None = None


class ServiceExport(Struct, frozen=True, tag="ServiceExport", tag_field="kind", omit_defaults=True):
    metadata: Metadata
    spec: ExportSpec | None = None


Manifest: TypeAlias = Service | EndpointSlice | ServiceExport

VERSIONS: dict[str, tuple[type[Manifest], frozenset[str]]] = {
    "Service": (Service, frozenset({"v1"})),
    "EndpointSlice": (EndpointSlice, frozenset({"discovery.k8s.io/v1"})),
    "ServiceExport": (
        ServiceExport,
        frozenset({"multicluster.x-k8s.io/v1alpha1", "multicluster.x-k8s.io/v1beta1"}),
    ),
}
"""kind → its type and the apiVersions that are read."""


class Placed(Struct, frozen=True):
    """A manifest and the line of its file on which it begins."""

    line: int
    manifest: Manifest


class Invalid(Exception):
    """A value that is wrong; `path` leads to it from the object's root."""

    def __init__(self, path: tuple[Step, ...], detail: str, code: str = "invalid_value") -> None:
        super().__init__(detail)
        self.path, self.detail, self.code = path, detail, code


def service_of(manifest: Manifest) -> ServiceName | None:
    """The service that a manifest belongs to; None for a slice that belongs to none."""
    meta = manifest.metadata
    namespace = meta.namespace or "default"
    if isinstance(manifest, EndpointSlice):
        name = (meta.labels or {}).get(SERVICE_NAME, "")
        return ServiceName(namespace, name) if name else None
    return ServiceName(namespace, meta.name)


def identity(manifest: Manifest) -> tuple[str, str, str]:
    """(kind, namespace, name): what must not be given twice."""
    return (type(manifest).__name__, manifest.metadata.namespace or "default", manifest.metadata.name)


def check(manifest: Manifest) -> None:
    """Prove names, ports and addresses; raises Invalid with the path of the first value that is wrong."""
    meta = manifest.metadata
    _label(meta.namespace or "default", "namespace", ("metadata", "namespace"))
    if isinstance(manifest, Service):
        _label(meta.name, "service", ("metadata", "name"))
        _check_service(manifest.spec)
    elif isinstance(manifest, ServiceExport):
        _label(meta.name, "service", ("metadata", "name"))
        try:
            grants((meta.annotations or {}).get(CONSUMERS))
        except IsthmusError as error:
            path = ("metadata", "annotations", CONSUMERS)
            raise Invalid(path, f"{CONSUMERS}: {error}", "invalid_consumers") from None
    else:
        for label in meta.name.split("."):
            _label(label, "endpoint slice", ("metadata", "name"))
        if owner := (meta.labels or {}).get(SERVICE_NAME):
            _label(owner, "service", ("metadata", "labels", SERVICE_NAME))
        _check_slice(manifest)


def _check_service(spec: ServiceSpec) -> None:
    seen: set[tuple[int, str]] = set()
    names: set[str] = set()
    ports = spec.ports or []
    for index, port in enumerate(ports):
        path = ("spec", "ports", index)
        _port(port.port, "port", (*path, "port"))
        if port.name:
            _label(port.name, "port name", (*path, "name"))
        elif len(ports) > 1:
            raise Invalid(path, "a port without a name among several", "port_unnamed")
        if (key := (port.port, port.protocol or "TCP")) in seen:
            raise Invalid((*path, "port"), f"port {key[0]}/{key[1]} is given twice", "duplicate_port")
        if port.name and port.name in names:
            raise Invalid((*path, "name"), f"the port name {port.name!r} is given twice", "duplicate_port")
        seen.add(key)
        names.add(port.name or "")
    if spec.session_affinity not in (None, "", "None", "ClientIP"):
        raise Invalid(("spec", "sessionAffinity"), f"{spec.session_affinity[:80]!r} is neither None nor ClientIP")
    for index, family in enumerate(spec.ip_families or ()):
        if family not in ("IPv4", "IPv6"):
            raise Invalid(("spec", "ipFamilies", index), f"{family[:80]!r} is neither IPv4 nor IPv6")


def _check_slice(manifest: EndpointSlice) -> None:
    if manifest.address_type not in ("IPv4", "IPv6"):
        raise Invalid(("addressType",), f"{manifest.address_type[:80]!r} is neither IPv4 nor IPv6", "address_type")
    version = 4 if manifest.address_type == "IPv4" else 6
    for index, port in enumerate(manifest.ports or ()):
        if port.port is not None:
            _port(port.port, "port", ("ports", index, "port"))
        if port.name:
            _label(port.name, "port name", ("ports", index, "name"))
    for index, endpoint in enumerate(manifest.endpoints or ()):
        if not endpoint.addresses:
            raise Invalid(("endpoints", index, "addresses"), "an endpoint without an address", "invalid_address")
        for at, text in enumerate(endpoint.addresses):
            if not _is_plain(text, version):
                _address(text, version, ("endpoints", index, "addresses", at))
        if endpoint.hostname:
            _label(endpoint.hostname, "hostname", ("endpoints", index, "hostname"))


def _is_plain(text: str, version: int) -> bool:
    """An address of an endpoint without doubt. Forty times as fast as ipaddress, which says what is wrong."""
    try:
        packed = inet_pton(AF_INET if version == 4 else AF_INET6, text)
    except (OSError, ValueError):
        return False
    return any(packed) and not (packed[0] >> 4 == 14 if version == 4 else packed[0] == 255)


def _address(text: str, version: int, path: tuple[Step, ...]) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Invalid(path, f"{text[:80]!r} is no IP address", "invalid_address") from None
    if address.version != version or "%" in text:
        raise Invalid(path, f"{text[:80]!r} is no IPv{version} address", "invalid_address")
    if address.is_multicast or address.is_unspecified:
        raise Invalid(path, f"{text[:80]!r} cannot be an endpoint", "invalid_address")


def _label(text: str, what: str, path: tuple[Step, ...]) -> None:
    try:
        parse_label(text, what=what)
    except IsthmusError as error:
        raise Invalid(path, str(error), error.error_code) from None


def _port(number: int, what: str, path: tuple[Step, ...]) -> None:
    try:
        parse_port(number, what=what)
    except IsthmusError as error:
        raise Invalid(path, str(error), error.error_code) from None
