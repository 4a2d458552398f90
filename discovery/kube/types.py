"""Kubernetes objects as an API server gives them: only the fields that are used, decoded from JSON by msgspec.

They are the structs of discovery.sources.manifests and what only a server knows: uid, resourceVersion, generation,
deletionTimestamp, owners. So discovery.sources.convert takes either.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, field

from discovery.sources import manifests

MANAGER = "isthmus"
"""Value of the label app.kubernetes.io/managed-by on what we write."""
SLICE_MANAGER = "isthmus.io/agent"
"""Value of the label endpointslice.kubernetes.io/managed-by on the EndpointSlices that we write."""
SLICE_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MCS_SERVICE_NAME = "multicluster.kubernetes.io/service-name"
MCS_SOURCE_CLUSTER = "multicluster.kubernetes.io/source-cluster"


class OwnerReference(Struct, frozen=True, rename="camel", omit_defaults=True):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""


class ObjectMeta(manifests.Metadata, frozen=True, rename="camel", omit_defaults=True):
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deletion_timestamp: datetime | None = None
    owner_references: list[OwnerReference] | None = None


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


class ServicePort(manifests.ServicePort, frozen=True, rename="camel", omit_defaults=True):
    target_port: int | str | None = None


class ServiceSpec(manifests.ServiceSpec, frozen=True, rename="camel", omit_defaults=True):
    ports: list[ServicePort] | None = None  # type: ignore[assignment]
    cluster_ips: list[str] | None = field(default=None, name="clusterIPs")
    ip_family_policy: str | None = None


class Service(manifests.Service, _Keyed, frozen=True, tag="Service", tag_field="kind", omit_defaults=True):
    metadata: ObjectMeta
    spec: ServiceSpec = ServiceSpec()


class ServiceExport(
    manifests.ServiceExport, _Keyed, frozen=True, tag="ServiceExport", tag_field="kind", omit_defaults=True
):
    metadata: ObjectMeta


class EndpointSlice(
    manifests.EndpointSlice, _Keyed, frozen=True, tag="EndpointSlice", tag_field="kind", omit_defaults=True
):
    metadata: ObjectMeta


class Namespace(Struct, _Keyed, frozen=True, omit_defaults=True):
    metadata: ObjectMeta


class Node(Struct, _Keyed, frozen=True, omit_defaults=True):
    metadata: ObjectMeta


class Other(Struct, frozen=True):
    """An object of a kind that is not understood yet: who it is, and its JSON."""

    namespace: str
    name: str
    resource_version: str
    data: bytes
