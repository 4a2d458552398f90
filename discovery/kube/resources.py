"""The kinds of objects that the agent reads or writes, and where an API server serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

MCS = "multicluster.x-k8s.io"
MCS_VERSIONS = ("v1beta1", "v1alpha1")
"""Newest first: the first one that is served is used."""
GATEWAY = "gateway.networking.k8s.io"
GATEWAY_KINDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "httproutes": ("HTTPRoute", ("v1", "v1beta1")),
    "grpcroutes": ("GRPCRoute", ("v1", "v1alpha2")),
    "referencegrants": ("ReferenceGrant", ("v1", "v1beta1")),
}
"""plural → kind and versions, newest first."""
ABOUT = "about.k8s.io"
ABOUT_VERSIONS = ("v1", "v1beta1", "v1alpha1")


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind in one version of its API group ("" is the core group)."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What stands as `apiVersion` in its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The path of its URL: of one object, of those in a namespace, or (namespace None) of all."""
        parts = [f"/apis/{self.group}" if self.group else "/api", self.version]
        if namespace is not None and self.namespaced:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, slots=True)
class Served:
    """What an API server serves of one group: version → plurals; empty where it does not have the group."""

    group: str
    plurals: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def version(self, plural: str, among: Sequence[str]) -> str | None:
        """The first of `among` that has `plural`."""
        return next((v for v in among if plural in self.plurals.get(v, ())), None)


PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
EVENTS = Resource("", "v1", "events", "Event")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")


def service_exports(version: str) -> Resource:
    return Resource(MCS, version, "serviceexports", "ServiceExport")


def service_imports(version: str) -> Resource:
    return Resource(MCS, version, "serviceimports", "ServiceImport")


def cluster_properties(version: str) -> Resource:
    return Resource(ABOUT, version, "clusterproperties", "ClusterProperty", namespaced=False)


def gateway_kind(plural: str, version: str) -> Resource:
    """A plural of GATEWAY_KINDS."""
    return Resource(GATEWAY, version, plural, GATEWAY_KINDS[plural][0])
