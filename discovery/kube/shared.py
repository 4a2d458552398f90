"""The identity of a cluster in its API server: one Secret, from which further replicas of the agent are made.

`fedctl cluster join` writes it with an administrator's rights; the agent may read this one Secret and no other. Who can
read it can speak for the cluster, as who can read the state directory of its agent.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.errors import NotFound
from discovery.kube.resources import NAMESPACES, SECRETS
from discovery.kube.types import MANAGER
from discovery.sources.manifests import MANAGED_BY
from federation.errors import AlreadyExists, Conflict, CorruptState

NAME = "isthmus-identity"
"""Of the Secret."""
_SETTINGS, _ROOT, _REGISTRY, _EPOCH = "settings.yaml", "root.pem", "registry.bundle", "epoch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What replicas have in common. `settings`: those of the first, as YAML; `root`: key and certificate, PEM;
    `registry`: the registry's bundle; `epoch`: reports have to exceed it."""

    settings: bytes
    root: bytes
    registry: bytes
    epoch: int

    def __repr__(self) -> str:
        return "Identity(…)"  # the root's key is in no log


class _Secret(msgspec.Struct):
    data: dict[str, str] | None = None


async def load(client: KubeClient, namespace: str) -> Identity:
    """Raises NotFound where no cluster has joined, CorruptState, and the errors of discovery.kube.errors."""
    try:
        data = await client.get(SECRETS, namespace, NAME)
    except NotFound as error:
        raise NotFound(
            f"there is no Secret {namespace}/{NAME}: no agent has joined from this cluster",
            hint="fedctl cluster join CLUSTER --token TOKEN --kubeconfig FILE --directory DIR",
        ) from error
    found = _identity(msgspec.json.decode(data, type=_Secret).data or {})
    if found is None:
        raise CorruptState(f"the Secret {namespace}/{NAME} is damaged", hint="delete it, and join again")
    return found


async def reserve(client: KubeClient, namespace: str, *, root: bytes | None) -> None:
    """Make sure that the identity can be stored: the namespace is there, no other identity is, and we have the rights.

    `root`: what this directory has already. Raises AlreadyExists, and the errors of discovery.kube.errors.
    """
    labels = {MANAGED_BY: MANAGER}
    try:
        await client.get(NAMESPACES, None, namespace)
    except NotFound:
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
        await client.create(NAMESPACES, None, msgspec.json.encode(made))
    try:
        held = await load(client, namespace)
    except NotFound:
        nothing = _render(namespace, {})
        await client.apply(SECRETS, namespace, NAME, msgspec.json.encode(nothing), dry_run=True)
        return
    if held.root != root:
        raise AlreadyExists(
            f"an agent has joined from this cluster already: there is a Secret {namespace}/{NAME}",
            hint="make a replica of it with `fedctl cluster replica`, or end it with `fedctl cluster leave`",
        )


async def store(client: KubeClient, namespace: str, identity: Identity) -> None:
    """Write the Secret; one that says the same may be there. Raises Conflict, and the errors of
    discovery.kube.errors."""
    data = {
        _SETTINGS: identity.settings,
        _ROOT: identity.root,
        _REGISTRY: identity.registry,
        _EPOCH: str(identity.epoch).encode(),
    }
    body = _render(namespace, {key: base64.b64encode(value).decode() for key, value in data.items()})
    try:
        await client.create(SECRETS, namespace, msgspec.json.encode(body))
    except AlreadyExists:
        held = await load(client, namespace)
        if held.root != identity.root:
            raise Conflict(f"the Secret {namespace}/{NAME} holds another identity") from None


async def held(client: KubeClient, namespace: str) -> Identity | None:
    """The identity that is there; None where there is none, or none that can be read.

    Raises the errors of discovery.kube.errors.
    """
    try:
        data = await client.get(SECRETS, namespace, NAME)
    except NotFound:
        return None
    return _identity(msgspec.json.decode(data, type=_Secret).data or {})


def _render(namespace: str, data: Mapping[str, str]) -> dict[str, object]:
    metadata = {"name": NAME, "namespace": namespace, "labels": {MANAGED_BY: MANAGER}}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": data}


def _identity(data: Mapping[str, str]) -> Identity | None:
    try:
        return Identity(
            settings=base64.b64decode(data[_SETTINGS], validate=True),
            root=base64.b64decode(data[_ROOT], validate=True),
            registry=base64.b64decode(data[_REGISTRY], validate=True),
            epoch=int(base64.b64decode(data[_EPOCH], validate=True)),
        )
    except (KeyError, ValueError):
        return None
