"""What isthmus itself has made while it ran, and an uninstallation keeps unless it is told otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from discovery.kube import errors as kube
from discovery.kube.install import Installed
from discovery.kube.objects import PART_OF, Name

if TYPE_CHECKING:
    from federation.cli.installation.work import Worker

IDENTITY = "isthmus-identity"
"""Secret with the cluster's root, which the agent has made."""
JOIN = "isthmus-join"
"""Secret with the join token, which the agent reads."""
_OF_AGENT = (
    ("Secret", IDENTITY),
    ("Secret", JOIN),
    ("ConfigMap", "isthmus-trust"),
    ("ConfigMap", "isthmus-pins"),
    ("ConfigMap", "isthmus-vms"),
)
_OF_REGISTRY = (("PersistentVolumeClaim", "state-isthmus-registry-0"),)


def kept(components: Iterable[str], namespace: str) -> list[Name]:
    """What is left of the components: identities, pins, volumes."""
    names = set(components)
    found = (_OF_AGENT if "agent" in names else ()) + (_OF_REGISTRY if "registry" in names else ())
    return [Name(kind, namespace, name) for kind, name in found]


def of_isthmus(name: str, held: Mapping[str, Any]) -> bool:
    """Whether an object in our namespace is of isthmus: it is labelled so, or the agent keeps it under such a name."""
    labels = held["metadata"].get("labels") or {}
    return labels.get(PART_OF) == "isthmus" or name.startswith("isthmus-") or name == "state-isthmus-registry-0"


def of_namespace(kind: str, name: str) -> bool:
    """Whether Kubernetes puts it into every namespace."""
    return (kind, name) in (("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default"))


async def purge(worker: Worker, names: Iterable[Name]) -> list[Installed]:
    """Delete them, as far as they are there."""
    done = []
    for name in names:
        try:
            await worker.client.delete(name.resource, name.namespace, name.name)
        except kube.NotFound:
            continue
        done.append(Installed(name.kind, name.name, "removed"))
    return done
