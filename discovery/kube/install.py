"""Brings manifests into an API server, as an administrator does once before the first agent starts.

What is there already and says the same stays untouched. CustomResourceDefinitions that somebody else has installed are
left alone if they have a version that the agent reads: the Multi-Cluster Services API belongs to no implementation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from discovery.kube.client import KubeClient
from discovery.kube.errors import NotFound
from discovery.kube.objects import MANAGER, installed_by_us, resource_of
from federation.aio.clock import Clock
from federation.errors import TimedOut

_CRD = "CustomResourceDefinition"
SCHEMA = "isthmus.io/crd-schema"
"""Label of our custom resources: counted up with each change, so that an older installation replaces no newer one."""
_READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Installed:
    """What became of one object: "created", "changed", "unchanged", or "kept" (another's, or newer)."""

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
    done = [await apply_one(client, document) for document in documents]
    for document in documents:
        if document["kind"] == _CRD:
            await _served(client, document["spec"], clock)
    return done


async def apply_one(client: KubeClient, document: Mapping[str, Any]) -> Installed:
    """Apply one document; raises the errors of discovery.kube.errors, InvalidInput for a kind that we never install."""
    kind, metadata = document["kind"], document["metadata"]
    resource, name, namespace = resource_of(kind), metadata["name"], metadata.get("namespace")
    try:
        held = msgspec.json.decode(await client.get(resource, namespace, name))
    except NotFound:
        held = None
    if held is not None and kind == _CRD and _keeps(held, document):
        return Installed(kind, name, "kept")
    body = msgspec.json.encode(document)
    made = msgspec.json.decode(await client.apply(resource, namespace, name, body, field_manager=MANAGER))
    if held is None:
        return Installed(kind, name, "created")
    same = held["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    return Installed(kind, name, "unchanged" if same else "changed")


def _keeps(held: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Whether the custom resource that is there stays: another's that can be used, or a newer one of ours."""
    if not installed_by_us(held):
        return _usable(held, document)
    return schema_revision(held) > schema_revision(document)


def schema_revision(document: Mapping[str, Any]) -> int:
    """The revision of a custom resource of ours; 0 where its label does not say."""
    text = (document["metadata"].get("labels") or {}).get(SCHEMA, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _usable(held: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    served = {version["name"] for version in held["spec"]["versions"] if version.get("served")}
    return not served.isdisjoint(version["name"] for version in document["spec"]["versions"])


async def _served(client: KubeClient, spec: Mapping[str, Any], clock: Clock) -> None:
    group, plural = spec["group"], spec["names"]["plural"]
    deadline = clock.monotonic() + _READY_SECONDS
    while True:
        served = await client.served(group, refresh=True)
        if any(plural in plurals for plurals in served.plurals.values()):
            return
        if clock.monotonic() > deadline:
            raise TimedOut(f"the API server does not serve {plural}.{group} yet", hint="look at it with kubectl")
        await clock.sleep(0.2)
