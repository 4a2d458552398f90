"""Carries out what plan gives: the only place that writes to an API server for imports and exports.

Server-side apply under one field manager; what exists is written only in the version that was looked at, and what is
new is made without taking a field from anybody. What apply cannot take away, because somebody else added it, goes by an
update that does nothing but that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.errors import NotFound
from discovery.kube.resources import (
    ENDPOINT_SLICES,
    NAMESPACES,
    SERVICES,
    Resource,
    service_exports,
    service_imports,
)
from discovery.mcs.desired import Wanted
from discovery.mcs.held import Held, Kind, read
from discovery.mcs.plan import Verb, Write
from federation.errors import Conflict

_json = msgspec.json.Encoder()

_ALLOCATED = frozenset({"clusterIP", "clusterIPs", "ipFamilies", "internalTrafficPolicy"})
"""Fields of a Service that the API server fills."""


class NotRepaired(Conflict):
    """Something else keeps an object of ours as it should not be."""

    code = "import_contested"


class Applier:
    """`version`: of the MCS API."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self.writes = 0
        """Requests made."""

    async def do(self, write: Write, version: str) -> Held | None:
        """The object as it is now, None where it is gone. Raises the errors of discovery.kube.errors, NotRepaired."""
        resource = resource_of(write.kind, version)
        self.writes += 1
        if write.verb is Verb.DELETE:
            await self._delete(write, resource)
            return None
        body = _json.encode(_conditional(write))
        namespace = write.namespace or None
        answer = await self._client.apply(
            resource,
            namespace,
            write.name,
            body,
            subresource="status" if write.verb is Verb.STATUS else "",
            force=write.verb is not Verb.CREATE,
        )
        held = read(write.kind, answer)
        if write.wanted is None or held.facts.covers(write.wanted.facts):
            return held
        self.writes += 1
        trimmed = _json.encode(_trimmed(msgspec.json.decode(answer), write.wanted))
        held = read(write.kind, await self._client.update(resource, namespace, write.name, trimmed))
        if not held.facts.covers(write.wanted.facts):
            raise NotRepaired(
                f"{write.kind} {write.namespace}/{write.name} is changed by somebody else as it is written",
                hint="see metadata.managedFields, and the admission webhooks of the cluster",
            )
        return held

    async def look(self, kind: Kind, namespace: str, name: str, version: str) -> Held | None:
        """The object as it is, None where there is none."""
        try:
            return read(kind, await self._client.get(resource_of(kind, version), namespace or None, name))
        except NotFound:
            return None

    async def _delete(self, write: Write, resource: Resource) -> None:
        try:
            await self._client.delete(
                resource, write.namespace, write.name, uid=write.uid, resource_version=write.resource_version
            )
        except NotFound:
            return


def resource_of(kind: Kind, version: str) -> Resource:
    """Where objects of `kind` are, with `version` of the MCS API."""
    if kind is Kind.IMPORT:
        return service_imports(version)
    if kind is Kind.EXPORT:
        return service_exports(version)
    return {Kind.NAMESPACE: NAMESPACES, Kind.SERVICE: SERVICES, Kind.SLICE: ENDPOINT_SLICES}[kind]


def _conditional(write: Write) -> Mapping[str, Any]:
    if not write.resource_version:
        return write.body
    precondition = {"uid": write.uid, "resourceVersion": write.resource_version}
    return {**write.body, "metadata": {**write.body["metadata"], **precondition}}


def _trimmed(answer: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    """The object as it was answered, without what others added to the parts that are ours alone."""
    body = wanted.body
    if wanted.kind is Kind.SLICE:
        return {**answer, "endpoints": body["endpoints"], "ports": body["ports"]}
    if wanted.kind is Kind.SERVICE:
        kept = {key: value for key, value in answer["spec"].items() if key in _ALLOCATED}
        return {**answer, "spec": {**body["spec"], **kept}}
    return {**answer, "spec": body["spec"]} if "spec" in body else answer
