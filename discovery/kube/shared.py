"""The identity of a cluster in its API server: one Secret, from which further replicas of the agent are made.

`fedctl cluster join` writes it with an administrator's rights; the agent may read this one Secret and no other. One
that joins from a pod writes it itself: first the root alone, so that all that begin at once join with the same one, and
the rest when the registry has taken it. Who can read it can speak for the cluster, as who can read the state directory
of its agent.
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
from federation.errors import AlreadyExists, Conflict, CorruptState, Unavailable

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


@dataclass(frozen=True, slots=True)
class Claimed:
    """An agent in a pod is joining with this root (key and certificate, PEM); the registry may know it already."""

    root: bytes

    def __repr__(self) -> str:
        return "Claimed(…)"


class Joining(Unavailable):
    """The cluster is about to have an identity."""

    code = "cluster_joining"


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Secret(msgspec.Struct):
    data: dict[str, str] | None = None
    metadata: _Metadata = _Metadata()


async def load(client: KubeClient, namespace: str) -> Identity:
    """Raises NotFound where no cluster has joined, Joining, CorruptState, and the errors of discovery.kube.errors."""
    found = await look(client, namespace)
    if found is None:
        raise NotFound(
            f"there is no Secret {namespace}/{NAME}: no agent has joined from this cluster",
            hint="fedctl cluster join CLUSTER --token TOKEN --kubeconfig FILE --directory DIR",
        )
    if isinstance(found, Claimed):
        raise Joining(
            f"an agent in a pod is joining this cluster: the Secret {namespace}/{NAME} has a root and nothing else yet",
            hint=f"wait for it; if there is none any more: kubectl delete secret {NAME} -n {namespace}",
        )
    return found


async def look(client: KubeClient, namespace: str) -> Identity | Claimed | None:
    """What the Secret holds; None where there is none. Raises CorruptState, and the errors of discovery.kube.errors."""
    secret = await _read(client, namespace)
    return None if secret is None else _content(secret, namespace)


async def claim(client: KubeClient, namespace: str, root: bytes) -> bool:
    """Write a Secret with nothing but this root; whether it is ours, and not one that somebody wrote before.

    Raises the errors of discovery.kube.errors.
    """
    body = _render(namespace, {_ROOT: base64.b64encode(root).decode()})
    try:
        await client.create(SECRETS, namespace, msgspec.json.encode(body))
    except AlreadyExists:
        found = await look(client, namespace)
        return found is not None and found.root == root
    return True


async def complete(client: KubeClient, namespace: str, identity: Identity) -> None:
    """Put the identity in the place of the root that was claimed for it; one that says the same may be there.

    Raises Conflict, CorruptState, and the errors of discovery.kube.errors.
    """
    secret = await _read(client, namespace)
    if secret is None:  # somebody has deleted it meanwhile
        await store(client, namespace, identity)
        return
    found = _content(secret, namespace)
    if found.root != identity.root:
        raise Conflict(f"the Secret {namespace}/{NAME} holds another identity")
    if isinstance(found, Claimed):
        body = _render(namespace, _data(identity), version=secret.metadata.resource_version)
        await client.update(SECRETS, namespace, NAME, msgspec.json.encode(body))


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
    body = _render(namespace, _data(identity))
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
    secret = await _read(client, namespace)
    return None if secret is None else _identity(secret.data or {})


async def _read(client: KubeClient, namespace: str) -> _Secret | None:
    try:
        data = await client.get(SECRETS, namespace, NAME)
    except NotFound:
        return None
    return msgspec.json.decode(data, type=_Secret)


def _content(secret: _Secret, namespace: str) -> Identity | Claimed:
    """Raises CorruptState."""
    data = secret.data or {}
    whole = _identity(data)
    if whole is not None:
        return whole
    try:
        if data.keys() == {_ROOT}:
            return Claimed(base64.b64decode(data[_ROOT], validate=True))
    except ValueError:
        pass
    raise CorruptState(f"the Secret {namespace}/{NAME} is damaged", hint="delete it, and join again")


def _data(identity: Identity) -> dict[str, str]:
    data = {
        _SETTINGS: identity.settings,
        _ROOT: identity.root,
        _REGISTRY: identity.registry,
        _EPOCH: str(identity.epoch).encode(),
    }
    return {key: base64.b64encode(value).decode() for key, value in data.items()}


def _render(namespace: str, data: Mapping[str, str], *, version: str = "") -> dict[str, object]:
    """With `version` it replaces the Secret that was seen in it, and no other."""
    metadata: dict[str, object] = {"name": NAME, "namespace": namespace, "labels": {MANAGED_BY: MANAGER}}
    if version:
        metadata["resourceVersion"] = version
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
