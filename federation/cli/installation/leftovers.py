"""What isthmus itself has made while it ran, and an uninstallation keeps unless it is told otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from discovery.kube import errors as kube
from discovery.kube.install import Installed
from discovery.kube.objects import Name

if TYPE_CHECKING:
    from federation.cli.installation.work import Worker

_OF_AGENT = (
    ("Secret", "isthmus-identity"),
    ("Secret", "isthmus-join"),
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
