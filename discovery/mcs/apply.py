"""Carries out what plan gives: the only place that writes to an API server for imports and exports.

What is new is created, which costs an API server half of what apply does, and takes nothing from anybody. What exists
is written by server-side apply under one field manager, only in the version that was looked at. What apply cannot
take away, because somebody else added it, or because it came with the creation, goes by an update that does just that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from discovery.kube.client import FIELD_MANAGER, KubeClient
from discovery.kube.errors import NotFound, ServerFailed
from discovery.kube.resources import (
    ENDPOINT_SLICES,
    NAMESPACES,
    SERVICES,
    Resource,
    service_exports,
    service_imports,
)
from discovery.kube.types import ServiceExport
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
        resource, namespace = resource_of(write.kind, version), write.namespace or None
        if write.verb is Verb.DELETE:
            self.writes += 1
            await self._delete(write, resource)
            return None
        if write.verb is Verb.CREATE:
            self.writes += 1
            answer = await self._client.create(resource, namespace, _json.encode(write.body))
        else:
            answer = await self._apply(write, resource)
        held = read(write.kind, answer)
        if write.wanted is None:
            return held
        unwanted = _unwanted(answer, write.wanted) if write.verb is Verb.APPLY else ()
        if held.facts.covers(write.wanted.facts) and not unwanted:
            return held
        self.writes += 1
        trimmed = _json.encode(_trimmed(msgspec.json.decode(answer), write.wanted, unwanted))
        held = read(write.kind, await self._client.update(resource, namespace, write.name, trimmed))
        if not held.facts.covers(write.wanted.facts):
            raise NotRepaired(
                f"{write.kind} {write.namespace}/{write.name} is changed by somebody else as it is written",
                hint="see metadata.managedFields, and the admission webhooks of the cluster",
            )
        return held

    async def export_status(self, write: Write, version: str) -> ServiceExport:
        """The ServiceExport with the status of `write`. Raises as `do`."""
        answer = await self._apply(write, resource_of(write.kind, version))
        try:
            return _export.decode(answer)
        except msgspec.MsgspecError as error:
            raise ServerFailed(f"no ServiceExport: {error}") from error

    async def _apply(self, write: Write, resource: Resource) -> bytes:
        self.writes += 1
        subresource = "status" if write.verb is Verb.STATUS else ""
        body = _json.encode(_conditional(write))
        return await self._client.apply(resource, write.namespace or None, write.name, body, subresource=subresource)

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


def _unwanted(answer: bytes, wanted: Wanted) -> tuple[tuple[str, str], ...]:
    """("labels" or "annotations", key) of what was given at the creation of a ServiceImport and is not to be there.

    Apply leaves it, for to the API server who creates is another field manager than who applies.
    """
    if wanted.kind is not Kind.IMPORT:
        return ()  # the keys of the others never change
    metadata = wanted.body["metadata"]
    return tuple(
        (field, key)
        for entry in _managed.decode(answer).metadata.managed_fields
        if entry.manager == FIELD_MANAGER and entry.operation == "Update" and not entry.subresource
        for field, owned in (
            ("labels", entry.fields.metadata.labels),
            ("annotations", entry.fields.metadata.annotations),
        )
        for key in (path.removeprefix("f:") for path in owned if path != ".")
        if key not in metadata.get(field, {})
    )


def _trimmed(answer: dict[str, Any], wanted: Wanted, unwanted: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The object as it was answered, without what others added to the parts that are ours alone, and `unwanted`."""
    body = wanted.body
    for field, key in unwanted:
        answer["metadata"].get(field, {}).pop(key, None)
    if wanted.kind is Kind.SLICE:
        return {**answer, "endpoints": body["endpoints"], "ports": body["ports"]}
    if wanted.kind is Kind.SERVICE:
        kept = {key: value for key, value in answer["spec"].items() if key in _ALLOCATED}
        return {**answer, "spec": {**body["spec"], **kept}}
    return {**answer, "spec": body["spec"]} if "spec" in body else answer


class _Owned(msgspec.Struct):
    labels: dict[str, Any] = msgspec.field(default_factory=dict, name="f:labels")
    annotations: dict[str, Any] = msgspec.field(default_factory=dict, name="f:annotations")


class _Fields(msgspec.Struct):
    metadata: _Owned = msgspec.field(default_factory=_Owned, name="f:metadata")


class _Entry(msgspec.Struct):
    manager: str = ""
    operation: str = ""
    subresource: str = ""
    fields: _Fields = msgspec.field(default_factory=_Fields, name="fieldsV1")


class _Meta(msgspec.Struct):
    managed_fields: list[_Entry] = msgspec.field(default_factory=list, name="managedFields")


class _Managed(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


_managed = msgspec.json.Decoder(_Managed)
_export = msgspec.json.Decoder(ServiceExport)
