"""Which objects an installation consists of: where the API server has them, in which order they come and go, whose
they are. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from discovery.kube.resources import CONFIG_MAPS, LEASES, NAMESPACES, SECRETS, SERVICES, Resource
from federation.errors import InvalidInput

MANAGER = "isthmus-install"
"""Field manager of what is installed."""
PART_OF = "app.kubernetes.io/part-of"
HELM = "meta.helm.sh/release-name"
"""Annotation of what helm has installed."""

_RBAC = "rbac.authorization.k8s.io"
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
PODS = Resource("", "v1", "pods", "Pod")
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
WEBHOOKS = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
)
POLICIES = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingadmissionpolicies",
    "ValidatingAdmissionPolicy",
    namespaced=False,
)
POLICY_BINDINGS = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingadmissionpolicybindings",
    "ValidatingAdmissionPolicyBinding",
    namespaced=False,
)

ORDER: Sequence[Resource] = (
    NAMESPACES,
    CRDS,
    SERVICE_ACCOUNTS,
    Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Resource(_RBAC, "v1", "roles", "Role"),
    Resource(_RBAC, "v1", "rolebindings", "RoleBinding"),
    POLICIES,
    POLICY_BINDINGS,
    Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    SECRETS,
    CONFIG_MAPS,
    LEASES,
    SERVICES,
    CLAIMS,
    STATEFUL_SETS,
    DEPLOYMENTS,
    WEBHOOKS,
)
"""The kinds in the order in which they are made: what others refer to comes first. They go in the reverse order."""
RESOURCES: Mapping[str, Resource] = {resource.kind: resource for resource in (*ORDER, DAEMON_SETS)}


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """One object; `namespace` is empty for what has none."""

    kind: str
    namespace: str
    name: str

    @property
    def resource(self) -> Resource:
        """Raises InvalidInput for a kind that no installation has."""
        return resource_of(self.kind)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Name:
        """Raises InvalidInput for a kind that no installation has."""
        kind, metadata = str(document["kind"]), document["metadata"]
        namespace = metadata.get("namespace") or "" if resource_of(kind).namespaced else ""
        return cls(kind, namespace, metadata["name"])

    @classmethod
    def parse(cls, text: str) -> Name:
        """As `str` writes it."""
        kind, namespace, name = text.split("/")
        return cls(kind, namespace, name)

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def resource_of(kind: str) -> Resource:
    """Raises InvalidInput for a kind that no installation has."""
    try:
        return RESOURCES[kind]
    except KeyError:
        raise InvalidInput(f"a {kind} is no part of an installation") from None


def rank(name: Name) -> int:
    """The place of its kind in ORDER."""
    return [resource.kind for resource in ORDER].index(name.kind)


def in_order(documents: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """As they are to be made; documents of one kind stay in their order."""
    return sorted(documents, key=lambda one: rank(Name.of(one)))


def installed_by_us(held: Mapping[str, Any]) -> bool:
    """Whether `fedctl install` has written the object that is there."""
    return any(entry.get("manager") == MANAGER for entry in held["metadata"].get("managedFields") or ())


def helm_release(held: Mapping[str, Any]) -> str:
    """The release of helm that the object belongs to; empty where it is none."""
    return str((held["metadata"].get("annotations") or {}).get(HELM, ""))
