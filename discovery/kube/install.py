"""Brings manifests into an API server, as an administrator does once before the first agent starts.

What is there already and says the same stays untouched. CustomResourceDefinitions that somebody else has installed are
left alone if they have a version that the agent reads: the Multi-Cluster Services API belongs to no implementation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from discovery.kube.client import KubeClient
from discovery.kube.errors import NotFound
from discovery.kube.resources import NAMESPACES, Resource
from federation.aio.clock import Clock
from federation.errors import TimedOut

MANAGER = "isthmus-install"
"""Field manager of what is installed."""
_RBAC = "rbac.authorization.k8s.io"
_RESOURCES = {
    resource.kind: resource
    for resource in (
        NAMESPACES,
        Resource("", "v1", "serviceaccounts", "ServiceAccount"),
        Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
        Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
        Resource(_RBAC, "v1", "roles", "Role"),
        Resource(_RBAC, "v1", "rolebindings", "RoleBinding"),
        Resource(
            "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
        ),
    )
}
_CRD = "CustomResourceDefinition"
_READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Installed:
    """What became of one object: "created", "changed", "unchanged", or "kept" (another's)."""

    kind: str
    name: str
    done: str


def parse(manifests: Iterable[str]) -> list[dict[str, Any]]:
    """The documents of YAML files."""
    return [one for text in manifests for one in yaml.safe_load_all(text) if one]


async def install(client: KubeClient, manifests: Iterable[str], *, clock: Clock) -> list[Installed]:
    """Apply the documents in their order; of custom resources wait until they are served.

    Raises the errors of discovery.kube.errors, TimedOut.
    """
    documents = parse(manifests)
    done = [await _apply(client, document) for document in documents]
    for document in documents:
        if document["kind"] == _CRD:
            await _served(client, document["spec"], clock)
    return done


async def _apply(client: KubeClient, document: dict[str, Any]) -> Installed:
    kind, metadata = document["kind"], document["metadata"]
    resource, name, namespace = _RESOURCES[kind], metadata["name"], metadata.get("namespace")
    try:
        held = msgspec.json.decode(await client.get(resource, namespace, name))
    except NotFound:
        held = None
    if held is not None and kind == _CRD and not _ours(held) and _usable(held, document):
        return Installed(kind, name, "kept")
    body = msgspec.json.encode(document)
    made = msgspec.json.decode(await client.apply(resource, namespace, name, body, field_manager=MANAGER))
    if held is None:
        return Installed(kind, name, "created")
    same = held["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    return Installed(kind, name, "unchanged" if same else "changed")


def _ours(held: dict[str, Any]) -> bool:
    return any(entry.get("manager") == MANAGER for entry in held["metadata"].get("managedFields") or ())


def _usable(held: dict[str, Any], document: dict[str, Any]) -> bool:
    served = {version["name"] for version in held["spec"]["versions"] if version.get("served")}
    return not served.isdisjoint(version["name"] for version in document["spec"]["versions"])


async def _served(client: KubeClient, spec: dict[str, Any], clock: Clock) -> None:
    group, plural = spec["group"], spec["names"]["plural"]
    deadline = clock.monotonic() + _READY_SECONDS
    while True:
        served = await client.served(group, refresh=True)
        if any(plural in plurals for plurals in served.plurals.values()):
            return
        if clock.monotonic() > deadline:
            raise TimedOut(f"the API server does not serve {plural}.{group} yet", hint="look at it with kubectl")
        await clock.sleep(0.2)
