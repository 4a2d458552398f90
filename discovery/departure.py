"""What a cluster that leaves the federation still has of ours in its API server, and its removal.

    mark → find → remove → (until nothing comes again) → Lease, Secret

An agent that runs on must not write again what is removed: its Lease is marked first, which every replica sees, or
learns when it renews (discovery.kube.lease.LEFT), and goes last. Only what carries our label, our field manager and, of
imports, the epoch of a lease is ours; everything else of the same name is left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace

import msgspec

from discovery.consul.imports.retire import retire_all
from discovery.consul.settings import ConsulSettings
from discovery.join import KEYS, root_of
from discovery.kube import about, lease, offers, pinboard, roster, shared, trustboard, vmboard
from discovery.kube.client import FIELD_MANAGER, KubeClient
from discovery.kube.errors import Conflict, NotFound, ServerFailed
from discovery.kube.resources import (
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    LEASES,
    MCS,
    MCS_VERSIONS,
    NAMESPACES,
    SECRETS,
    SERVICES,
    Resource,
    service_exports,
    service_imports,
)
from discovery.kube.settings import KubernetesSettings
from discovery.kube.types import MANAGER, LeaseObject
from discovery.mcs.actual import SELECTORS
from discovery.mcs.held import APPLIED, EPOCH, Kind
from discovery.membership import LEFT, keep
from discovery.settings import AgentSettings
from discovery.sources.manifests import MANAGED_BY
from federation import errors, log
from federation.aio.clock import Clock, SystemClock
from federation.errors import IsthmusError
from federation.trust.authority import Authority
from federation.trust.bundle import fingerprint

_AT_ONCE = 16
_ROUNDS = 10
_PAUSE_SECONDS = 0.2
_GRACE_SECONDS = 1.0
"""Beyond the time in which a leader renews its Lease, and so learns that it leads no more."""
_OURS = f"{MANAGED_BY}={MANAGER}"


class _Entry(msgspec.Struct):
    manager: str = ""
    subresource: str = ""


class Metadata(msgspec.Struct, rename="camel"):
    """Of any object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    managed_fields: list[_Entry] | None = None

    def written(self, *, subresource: str = "") -> bool:
        """Whether our field manager has a part in it (or in its status)."""
        entries = self.managed_fields or ()
        return any(e.manager == FIELD_MANAGER and e.subresource == subresource for e in entries)

    @property
    def labelled(self) -> bool:
        """It carries our label."""
        return (self.labels or {}).get(MANAGED_BY) == MANAGER


class _Object(msgspec.Struct):
    metadata: Metadata


_object = msgspec.json.Decoder(_Object)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """One object that the agent wrote; with `conditions`, one of another's to which it wrote conditions."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    resource_version: str
    conditions: bool = False

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{'conditions of ' if self.conditions else ''}{self.resource.kind} {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What could not be looked at or removed, and why."""

    what: str
    error: IsthmusError


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """`removed` (or, of a dry run, what would be), `kept`: what stays though the agent wrote it, and why."""

    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()


@dataclass(slots=True)
class _Found:
    ours: list[Ours] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


async def retire(
    settings: AgentSettings,
    other: KubernetesSettings | None = None,
    *,
    keep_imports: bool = False,
    dry_run: bool = False,
    clock: Clock | None = None,
) -> Departure:
    """Remove what a cluster that has left keeps in its API server and its Consul, whether its agents run or not. Safe
    to repeat.

    `other`: a connection with more rights than the agent's. What is refused is in the answer. Raises Conflict where
    another identity has joined from the cluster since, and the errors of discovery.kube.errors where the server cannot
    be asked for that.
    """
    clock = clock or SystemClock()
    # The API server first: where another identity has joined from there, nothing may be removed.
    departed = await _retire_from_kubernetes(settings, other, keep_imports=keep_imports, dry_run=dry_run, clock=clock)
    if settings.consul is None:
        return departed
    catalog = await _retire_from_consul(settings, settings.consul, dry_run=dry_run, clock=clock)
    return Departure(
        removed=departed.removed + catalog.removed, kept=departed.kept, failed=departed.failed + catalog.failed
    )


async def _retire_from_kubernetes(
    settings: AgentSettings, other: KubernetesSettings | None, *, keep_imports: bool, dry_run: bool, clock: Clock
) -> Departure:
    kubernetes, pem = settings.kubernetes, root_of(settings.path)
    if kubernetes is None or pem is None:
        return Departure()
    root = fingerprint(Authority.open(settings.path / KEYS, trust_domain=settings.trust_domain, clock=clock).bundle)
    if other is not None:
        kubernetes = msgspec.structs.replace(kubernetes, kubeconfig=other.kubeconfig, context=other.context)
    client = KubeClient(kubernetes, log=log.get("leave"), clock=clock)
    try:
        secret = await shared.held(client, kubernetes.namespace)
        if secret is not None and secret.root != pem:
            raise errors.Conflict(
                f"another agent has joined from this cluster: the Secret {kubernetes.namespace}/{shared.NAME} is not "
                f"that of {settings.path}",
                hint="nothing was removed; leave with the state folder of that agent (fedctl cluster use)",
                code="another_identity",
            )
        leaving = _Leaving(
            client,
            settings,
            kubernetes,
            root=root,
            identity=secret is not None,
            keep_imports=keep_imports,
            clock=clock,
        )
        return await leaving.preview() if dry_run else await leaving.leave()
    finally:
        await client.close()


async def _retire_from_consul(
    settings: AgentSettings, consul: ConsulSettings, *, dry_run: bool, clock: Clock
) -> Departure:
    found = retire_all(consul, cluster=settings.cluster, dry_run=dry_run, clock=clock, log=log.get("leave"))
    try:
        return Departure(removed=tuple(await found))
    except IsthmusError as error:
        return Departure(failed=(Failure(what="Consul", error=error),))


class _Leaving:
    def __init__(
        self,
        client: KubeClient,
        settings: AgentSettings,
        kubernetes: KubernetesSettings,
        *,
        root: str,
        identity: bool,
        keep_imports: bool,
        clock: Clock,
    ) -> None:
        """`identity`: the Secret is there, and is that of the cluster that leaves."""
        self._client, self._settings, self._clock = client, settings, clock
        self._namespace, self._renew = kubernetes.namespace, kubernetes.renew
        self._root, self._identity, self._keep_imports = root, identity, keep_imports
        self._removed: dict[str, None] = {}
        self._refused: dict[str, Failure] = {}

    async def preview(self) -> Departure:
        found = _Found()
        await self._find(found)
        await self._find_last(found)
        return Departure(
            removed=tuple(map(str, found.ours)), kept=await self._kept(), failed=tuple(_each(found.failed))
        )

    async def leave(self) -> Departure:
        await asyncio.to_thread(keep, self._settings.path / LEFT, self._root, log.get("leave"))
        begun = self._clock.monotonic()
        led, failed = False, list[Failure]()
        try:
            led = await self._mark()
        except IsthmusError as error:
            failed.append(Failure(what=f"Lease {self._namespace}/{lease.NAME}", error=error))
        settled = not led
        for _ in range(_ROUNDS):
            found = _Found()
            await self._find(found)
            if await self._remove(found.ours):
                await self._clock.sleep(_PAUSE_SECONDS)
            elif settled:
                break
            else:
                settled = True
                wait = begun + self._renew + _GRACE_SECONDS - self._clock.monotonic()
                await self._clock.sleep(max(0.0, wait))
        failed += [*found.failed, *self._refused.values()]
        found = _Found()
        await self._find_last(found, keep_lease=bool(failed))  # it tells agents that still run
        for one in found.ours:
            await self._remove([one])
        failed += [*found.failed, *self._refused.values()]
        return Departure(removed=tuple(self._removed), kept=await self._kept(), failed=tuple(_each(failed)))

    async def _mark(self) -> bool:
        """Tell every replica by the Lease; whether one was leading."""
        for _ in range(_ROUNDS):
            try:
                data = await self._client.get(LEASES, self._namespace, lease.NAME)
            except NotFound:
                return False
            seen = lease.read(msgspec.json.decode(data, type=LeaseObject))
            if seen.left == self._root:
                return False
            marked = replace(seen, holder="", left=self._root)
            body = lease.render(marked, namespace=self._namespace, wall_ns=self._clock.wall_ns())
            try:
                await self._client.update(LEASES, self._namespace, lease.NAME, msgspec.json.encode(body))
            except (Conflict, NotFound):
                continue  # it was renewed just now
            return bool(seen.holder)
        raise Conflict(f"the Lease {self._namespace}/{lease.NAME} is written again and again")

    # --- what there is -----------------------------------------------------------------------------------------------

    async def _find(self, found: _Found) -> None:
        """All that is removed before the Lease and the identity."""
        served = await self._served(found)
        if served is not None and not self._keep_imports:
            await self._list(found, service_imports(served), is_import)
        if not self._keep_imports:
            await self._list(found, SERVICES, is_stamped, selector=SELECTORS[Kind.SERVICE])
            await self._list(found, ENDPOINT_SLICES, is_stamped, selector=SELECTORS[Kind.SLICE])
        if served is not None:
            await self._list(found, service_exports(served), lambda m: m.written(subresource="status"), conditions=True)
        try:
            properties = about.wanted(cluster=self._settings.cluster, federation=self._settings.federation)
            for resource, meta in await about.of_ours(self._client, properties):
                found.ours.append(_ours(resource, "", meta.name, meta.uid, meta.resource_version))
        except IsthmusError as error:
            found.failed.append(Failure(what="ClusterProperties", error=error))
        await self._list(found, LEASES, is_announced, selector=_OURS, namespace=self._namespace)
        for name in (pinboard.NAME, vmboard.NAME, trustboard.NAME):
            await self._get(found, CONFIG_MAPS, name)

    async def _find_last(self, found: _Found, *, keep_lease: bool = False) -> None:
        if not keep_lease:
            await self._get(found, LEASES, lease.NAME)
        if self._identity:
            await self._get(found, SECRETS, shared.NAME)

    async def _served(self, found: _Found) -> str | None:
        """The version of the MCS API."""
        try:
            served = await self._client.served(MCS)
        except IsthmusError as error:
            found.failed.append(Failure(what="ServiceImports", error=error))
            return None
        return served.version("serviceimports", MCS_VERSIONS)

    async def _list(
        self,
        found: _Found,
        resource: Resource,
        ours: Callable[[Metadata], bool],
        *,
        selector: str = "",
        namespace: str | None = None,
        conditions: bool = False,
    ) -> None:
        try:
            async for meta in _metas(self._client, resource, selector, namespace):
                if ours(meta) and meta.deletion_timestamp is None:
                    found.ours.append(
                        _ours(resource, meta.namespace, meta.name, meta.uid, meta.resource_version, conditions)
                    )
        except IsthmusError as error:
            found.failed.append(Failure(what=f"{resource.kind}s", error=error))

    async def _get(self, found: _Found, resource: Resource, name: str) -> None:
        try:
            meta = _object.decode(await self._client.get(resource, self._namespace, name)).metadata
        except NotFound:
            return
        except IsthmusError as error:
            found.failed.append(Failure(what=f"{resource.kind} {self._namespace}/{name}", error=error))
            return
        if meta.labelled and meta.written() and meta.deletion_timestamp is None:
            found.ours.append(_ours(resource, meta.namespace, meta.name, meta.uid, meta.resource_version))

    async def _kept(self) -> tuple[str, ...]:
        """Namespaces that were created for imports: what others put there would go with them."""
        try:
            made = [m async for m in _metas(self._client, NAMESPACES, _OURS, None) if m.written()]
        except IsthmusError:
            return ()
        return tuple(f"Namespace {m.name}" for m in made if m.name != self._namespace)

    # --- removal -----------------------------------------------------------------------------------------------------

    async def _remove(self, ours: Iterable[Ours]) -> bool:
        """Whether anything was there to remove; what is refused is tried once."""
        todo = [one for one in ours if str(one) not in self._refused]
        limit = asyncio.Semaphore(_AT_ONCE)

        async def remove(one: Ours) -> None:
            async with limit:
                await self._remove_one(one)

        async with asyncio.TaskGroup() as tasks:
            for one in todo:
                tasks.create_task(remove(one), name=f"leave-{one}")
        return bool(todo)

    async def _remove_one(self, one: Ours) -> None:
        namespace = one.namespace or None
        try:
            if one.conditions:
                metadata = {"name": one.name, "namespace": one.namespace, "uid": one.uid}
                nothing = {"apiVersion": one.resource.api_version, "kind": one.resource.kind, "metadata": metadata}
                body = msgspec.json.encode(nothing)
                await self._client.apply(one.resource, namespace, one.name, body, subresource="status")
            else:
                await self._client.delete(
                    one.resource, namespace, one.name, uid=one.uid, resource_version=one.resource_version
                )
        except NotFound:
            pass  # the garbage collector was faster
        except Conflict:
            return  # it has changed: the next round looks again
        except IsthmusError as error:
            self._refused[str(one)] = Failure(what=str(one), error=error)
            return
        self._removed[str(one)] = None


def _ours(
    resource: Resource, namespace: str, name: str, uid: str, resource_version: str, conditions: bool = False
) -> Ours:
    return Ours(
        resource=resource,
        namespace=namespace,
        name=name,
        uid=uid,
        resource_version=resource_version,
        conditions=conditions,
    )


async def _metas(
    client: KubeClient, resource: Resource, selector: str, namespace: str | None
) -> AsyncIterator[Metadata]:
    async for page in client.pages(resource, namespace=namespace, label_selector=selector):
        for raw in page.items:
            try:
                yield _object.decode(raw).metadata
            except msgspec.MsgspecError as error:
                raise ServerFailed(f"no {resource.kind}: {error}") from error


def is_stamped(meta: Metadata) -> bool:
    """Derived Services and EndpointSlices."""
    return meta.labelled and meta.written() and EPOCH in (meta.annotations or {})


def is_import(meta: Metadata) -> bool:
    """ServiceImports. Somebody may have taken the label away: the agent would have given it back."""
    notes = meta.annotations or {}
    return (meta.labelled or APPLIED in notes) and meta.written() and EPOCH in notes


def is_announced(meta: Metadata) -> bool:
    """Leases of gateways, and of what VMs register."""
    return meta.labelled and meta.written() and meta.name.startswith((roster.PREFIX, offers.PREFIX))


def _each(failed: Iterable[Failure]) -> Iterable[Failure]:
    """One cause once: a rule that is missing is missing for every object of a kind."""
    return {(f.error.error_code, f.error.message): f for f in reversed(list(failed))}.values()
