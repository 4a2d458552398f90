"""Writes and deletes ServiceExports, for `fedctl export` and `fedctl unexport`, or says what that would do.

Arrives: what is asked for, and the objects that were read (discovery.kube.claims). Leaves: server-side apply or delete
at the API server, for a preview as a server-side dry run. What others wrote is left alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from discovery.kube.claims import Claims
from discovery.kube.client import KubeClient
from discovery.kube.errors import NotFound as KubeNotFound
from discovery.kube.resources import Resource
from discovery.kube.types import MANAGER, ObjectMeta, ServiceExport
from discovery.sources.base import Preview, SourceState, no_service, not_offered
from discovery.sources.convert import uncarried
from discovery.sources.manifests import CONSUMERS, MANAGED_BY, consumers, grants
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import Conflict, IsthmusError
from federation.model.ids import ServiceName
from federation.model.service import Grant, Service


class Exporting:
    """The exports of one API server as its operator changes them. `resource` gives the served version of ServiceExport,
    or raises NotFound; `what` names the server; `live`: the state is its, not from the disk."""

    def __init__(
        self,
        client: KubeClient,
        claims: Claims,
        *,
        state: Latest[SourceState],
        live: Latest[bool],
        resource: Callable[[], Awaitable[Resource]],
        what: Callable[[], str],
        clock: Clock,
    ) -> None:
        self._client, self._claims, self._state = client, claims, state
        self._live, self._resource, self._what, self._clock = live, resource, what, clock

    async def export(self, name: ServiceName, wanted: tuple[Grant, ...]) -> tuple[str, bool]:
        """Write a ServiceExport for `name`; (where, changed).

        Raises NotFound, Conflict, Unavailable before the Services were read, and what the server says.
        """
        export, changed = self._wanted(name, wanted)
        self._offered(name, export)
        if changed:
            self._claims.exports.put(await self._apply(export))
        return _where(name), changed

    async def unexport(self, name: ServiceName) -> tuple[str, bool]:
        """Delete the ServiceExport of `name`; (where, changed). Raises as `export`."""
        held = self._held(name)
        gone = held is not None and await self._delete(held)
        return (_where(name), True) if gone else ("", False)

    async def preview(self, name: ServiceName, wanted: tuple[Grant, ...] | None) -> Preview:
        """As `export` or `unexport` (None), and the server only says what it would say."""
        if wanted is None:
            held = self._held(name)
            there = held is not None and await self._delete(held, dry_run=True)
            return Preview(where=_where(name) if there else "", changed=there)
        export, changed = self._wanted(name, wanted)
        self._offered(name, export)
        if changed:
            export = await self._apply(export, dry_run=True)
        service = self._claims.services.objects[_key(name)]
        return Preview(
            where=_where(name), changed=changed, claim=self._offered(name, export), uncarried=uncarried(service)
        )

    def _wanted(self, name: ServiceName, wanted: tuple[Grant, ...]) -> tuple[ServiceExport, bool]:
        """(the ServiceExport as it should be, whether it is to be written)."""
        service, held = self._claims.services.objects.get(_key(name)), self._claims.exports.objects.get(_key(name))
        if service is None:
            raise self._missing(name)
        for what, one in (("Service", service), ("ServiceExport", held)):
            if one is not None and one.deleting:
                raise Conflict(
                    f"the {what} {name} is being deleted",
                    hint="wait until it is gone; what holds it is in its metadata.finalizers",
                    code=f"{what.lower()}_deleting",
                )
        if held is not None:
            if _granted(held) == wanted:
                return held, False
            if not held.ours:
                raise Conflict(
                    f"{name} is exported for other consumers, and not by isthmus",
                    hint=f"kubectl annotate -n {name.namespace} serviceexport {name.name} {CONSUMERS}=…",
                )
        metadata = ObjectMeta(
            name=name.name,
            namespace=name.namespace,
            labels={MANAGED_BY: MANAGER},
            annotations={CONSUMERS: consumers(wanted)} if wanted else {},
            creation_timestamp=held.metadata.creation_timestamp if held is not None else self._now(),
            uid=held.metadata.uid if held is not None else "",
        )
        return ServiceExport(metadata=metadata, spec=held.spec if held is not None else None), True

    def _missing(self, name: ServiceName) -> IsthmusError:
        """From the disk come the Services that were exported: until the server was read, others may be there."""
        state = self._state.value if self._live.value else replace(self._state.value, complete=False)
        return no_service(name, state, what=self._what())

    def _offered(self, name: ServiceName, export: ServiceExport) -> Service:
        """What `export` makes of the service; raises Conflict where nobody would see it."""
        claim, problems = self._claims.preview(_key(name), export)
        if claim is None:
            raise not_offered(name, problems[0])
        return claim

    def _held(self, name: ServiceName) -> ServiceExport | None:
        """The ServiceExport to delete; None where there is none."""
        held = self._claims.exports.objects.get(_key(name))
        if held is None and _key(name) not in self._claims.services.objects:
            raise self._missing(name)
        if held is None or held.deleting:
            return None
        if not held.ours:
            raise Conflict(
                f"{name} is exported, and not by isthmus",
                hint=f"kubectl delete -n {name.namespace} serviceexport {name.name}",
            )
        return held

    async def _apply(self, export: ServiceExport, *, dry_run: bool = False) -> ServiceExport:
        """The object as the server has it then, or would have it."""
        resource, meta = await self._resource(), export.metadata
        metadata: dict[str, object] = {
            "name": meta.name,
            "namespace": meta.namespace,
            "labels": meta.labels,
            "annotations": meta.annotations,
        }
        if meta.uid:
            metadata["uid"] = meta.uid
        tree = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        body = msgspec.json.encode(tree)
        data = await self._client.apply(resource, meta.namespace, meta.name, body, dry_run=dry_run)
        return msgspec.json.decode(data, type=ServiceExport)

    async def _delete(self, export: ServiceExport, *, dry_run: bool = False) -> bool:
        """Whether it was there."""
        resource, meta = await self._resource(), export.metadata
        try:
            await self._client.delete(resource, meta.namespace, meta.name, uid=meta.uid, dry_run=dry_run)
        except KubeNotFound as error:
            if error.kind_missing:
                raise
            return False
        return True

    def _now(self) -> datetime:
        """As an API server would say it: to the second."""
        return datetime.fromtimestamp(self._clock.wall_ns() // 1_000_000_000, UTC)


def _key(name: ServiceName) -> tuple[str, str]:
    return (name.namespace, name.name)


def _where(name: ServiceName) -> str:
    return f"ServiceExport {name}"


def _granted(export: ServiceExport) -> tuple[Grant, ...] | None:
    """To whom an export is offered; None where that cannot be understood."""
    try:
        return grants((export.metadata.annotations or {}).get(CONSUMERS))
    except IsthmusError:
        return None
