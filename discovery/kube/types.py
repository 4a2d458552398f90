"""Kubernetes objects as an API server gives them: only the fields that are used, decoded from JSON by msgspec.

They are the structs of discovery.sources.manifests and what only a server knows: uid, resourceVersion, generation,
deletionTimestamp. So discovery.sources.convert takes either.
"""

from __future__ import annotations

import sys
from datetime import datetime

import msgspec
from msgspec import Struct

from discovery.sources import manifests
from federation.model.service import Locality

MANAGER = "isthmus"
"""Value of the label app.kubernetes.io/managed-by on what we write."""
SLICE_MANAGER = "agent.isthmus.io"
"""Value of the label endpointslice.kubernetes.io/managed-by on the EndpointSlices that we write."""
SLICE_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MCS_SERVICE_NAME = "multicluster.kubernetes.io/service-name"
MCS_SOURCE_CLUSTER = "multicluster.kubernetes.io/source-cluster"


class ObjectMeta(manifests.Metadata, frozen=True, rename="camel", omit_defaults=True):
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deletion_timestamp: datetime | None = None


class _Keyed:
    """Where an object stands, and in which version."""

    __slots__ = ()
    metadata: ObjectMeta

    @property
    def namespace(self) -> str:
        """Empty for what has none."""
        return self.metadata.namespace or ""

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def resource_version(self) -> str:
        return self.metadata.resource_version

    @property
    def deleting(self) -> bool:
        """Somebody has deleted it; a finalizer keeps it for a while."""
        return self.metadata.deletion_timestamp is not None

    @property
    def ours(self) -> bool:
        """We wrote it."""
        return (self.metadata.labels or {}).get(manifests.MANAGED_BY) == MANAGER


class Service(manifests.Service, _Keyed, frozen=True, tag="Service", tag_field="kind", omit_defaults=True):
    metadata: ObjectMeta


class Condition(Struct, frozen=True, rename="camel"):
    """A meta/v1 Condition. `last_transition_time` stays the text that it is in the API."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: str = ""
    observed_generation: int = 0


class ExportStatus(Struct, frozen=True, omit_defaults=True):
    conditions: list[Condition] | None = None


class ServiceExport(
    manifests.ServiceExport, _Keyed, frozen=True, tag="ServiceExport", tag_field="kind", omit_defaults=True
):
    metadata: ObjectMeta
    status: ExportStatus | None = None


class EndpointSlice(
    manifests.EndpointSlice, _Keyed, frozen=True, tag="EndpointSlice", tag_field="kind", omit_defaults=True
):
    metadata: ObjectMeta


class Namespace(Struct, _Keyed, frozen=True, omit_defaults=True):
    metadata: ObjectMeta


class _NodeSpec(Struct, frozen=True):
    ranges: tuple[str, ...] | None = msgspec.field(default=None, name="podCIDRs")


class _WholeNode(Struct, frozen=True):
    metadata: ObjectMeta
    spec: _NodeSpec = _NodeSpec()


class _ServicePort(Struct, frozen=True, rename="camel"):
    port: int
    protocol: str = "TCP"
    target_port: int | str | None = None


class _Ingress(Struct, frozen=True):
    ip: str = ""
    hostname: str = ""


class _LoadBalancer(Struct, frozen=True):
    ingress: list[_Ingress] | None = None


class _ServiceStatus(Struct, frozen=True, rename="camel"):
    load_balancer: _LoadBalancer = _LoadBalancer()


class _ServiceSpec(Struct, frozen=True, rename="camel"):
    type: str = "ClusterIP"
    ports: list[_ServicePort] | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")


class GatewayService(Struct, _Keyed, frozen=True):
    """A Service as far as it says where it is reached from outside."""

    metadata: ObjectMeta
    spec: _ServiceSpec = _ServiceSpec()
    status: _ServiceStatus = _ServiceStatus()


class LeaseSpec(Struct, frozen=True, rename="camel", omit_defaults=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None


class LeaseObject(Struct, _Keyed, frozen=True, omit_defaults=True):
    """A Lease of coordination.k8s.io."""

    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()


class PropertySpec(Struct, frozen=True, omit_defaults=True):
    value: str = ""


class ClusterProperty(Struct, _Keyed, frozen=True, omit_defaults=True):
    """A ClusterProperty of about.k8s.io."""

    metadata: ObjectMeta
    spec: PropertySpec = PropertySpec()


class ConfigMap(Struct, _Keyed, frozen=True, omit_defaults=True):
    metadata: ObjectMeta
    data: dict[str, str] | None = None


class Node(Struct, frozen=True):
    """Where a node is, and the ranges from which its pods have their addresses, where the API server gives them out."""

    name: str
    resource_version: str
    locality: Locality
    pods: tuple[str, ...] = ()

    @property
    def namespace(self) -> str:
        return ""


class Other(Struct, frozen=True):
    """An object of a kind that is not understood yet: who it is, and its JSON."""

    namespace: str
    name: str
    resource_version: str
    data: bytes


class HeldSlice(Struct, frozen=True, omit_defaults=True):
    """An EndpointSlice, packed: most are of services that nobody exports. `service` is the name it belongs to, empty
    for none; `invalid` says what is wrong with it."""

    namespace: str
    name: str
    resource_version: str
    service: str
    data: bytes
    invalid: str = ""

    def unpack(self) -> manifests.EndpointSlice:
        """The slice with its endpoints; of its labels those that say where it is."""
        return _unpack.decode(self.data)


class SliceDecoder:
    """JSON of an EndpointSlice → HeldSlice."""

    def decode(self, data: bytes | msgspec.Raw, /) -> HeldSlice:
        """Raises msgspec.MsgspecError."""
        found = _slice.decode(data)
        labels = found.metadata.labels or {}
        invalid = ""
        try:
            manifests.check(found)
        except manifests.Invalid as error:
            invalid = f"{'.'.join(map(str, error.path))}: {error.detail}"
        places = {key: labels[key] for key in (manifests.REGION, manifests.ZONE) if key in labels}
        packed = manifests.EndpointSlice(
            metadata=manifests.Metadata(name="", labels=places or None),
            address_type=found.address_type,
            endpoints=None if invalid else found.endpoints,
            ports=found.ports,
        )
        return HeldSlice(
            sys.intern(found.namespace),
            found.name,
            found.resource_version,
            "" if found.deleting else sys.intern(labels.get(manifests.SERVICE_NAME, "")),
            _pack.encode(packed),
            invalid,
        )


class ServiceDecoder:
    """JSON of a Service → Service without labels and annotations: exports have their own, and some are long."""

    def decode(self, data: bytes | msgspec.Raw, /) -> Service:
        """Raises msgspec.MsgspecError."""
        found = _service.decode(data)
        meta = msgspec.structs.replace(found.metadata, labels=None, annotations=None)
        return msgspec.structs.replace(found, metadata=meta)


class NodeDecoder:
    """JSON of a Node → where it is, and its pods' ranges."""

    def decode(self, data: bytes | msgspec.Raw, /) -> Node:
        """Raises msgspec.MsgspecError."""
        found = _node.decode(data)
        meta = found.metadata
        labels = meta.labels or {}
        locality = Locality(labels.get(manifests.REGION, ""), labels.get(manifests.ZONE, ""))
        return Node(meta.name, meta.resource_version, locality, found.spec.ranges or ())


class OtherDecoder:
    """JSON of any object → Other."""

    def decode(self, data: bytes | msgspec.Raw, /) -> Other:
        """Raises msgspec.MsgspecError."""
        meta = _named.decode(data).metadata
        return Other(meta.namespace or "", meta.name, meta.resource_version, bytes(data))


_slice = msgspec.json.Decoder(EndpointSlice)
_service = msgspec.json.Decoder(Service)
_named = msgspec.json.Decoder(Namespace)
_node = msgspec.json.Decoder(_WholeNode)
_pack = msgspec.msgpack.Encoder()
_unpack = msgspec.msgpack.Decoder(manifests.EndpointSlice)
