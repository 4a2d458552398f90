"""The Kubernetes source: Services, EndpointSlices and ServiceExports of one API server, listed once and watched.

Arrives: what Reflectors (discovery.kube.watch) put into the stores of Claims (discovery.kube.claims). Leaves:
SourceState for discovery.report and discovery.view. An API server that is away changes nothing but the problems; what
was known is on disk (discovery.kube.cache), so that an agent started meanwhile serves as well.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import msgspec

from discovery.kube import cache
from discovery.kube.claims import Claims, places, pod_ranges
from discovery.kube.client import KubeClient
from discovery.kube.errors import Forbidden
from discovery.kube.errors import NotFound as KubeNotFound
from discovery.kube.exporting import Exporting
from discovery.kube.resources import (
    ENDPOINT_SLICES,
    GATEWAY,
    GATEWAY_KINDS,
    MCS,
    MCS_VERSIONS,
    NAMESPACES,
    NODES,
    SERVICES,
    Resource,
    gateway_kind,
    service_exports,
)
from discovery.kube.settings import KubernetesSettings
from discovery.kube.types import (
    MANAGER,
    SLICE_MANAGED_BY,
    SLICE_MANAGER,
    Namespace,
    Node,
    NodeDecoder,
    Other,
    OtherDecoder,
    ServiceDecoder,
    ServiceExport,
    SliceDecoder,
)
from discovery.kube.watch import Decoder, Handler, Key, Reflector, Store
from discovery.sources.base import Preview, SourceState, successor
from discovery.sources.manifests import MANAGED_BY
from discovery.state import Saver, load_or_none
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import InvalidSettings, IsthmusError
from federation.log import Logger
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Grant, Locality

NO_CRDS = "crds_missing"
_YIELD_EVERY = 100
_SELDOM = 6
"""Endpoints change all the time, and the whole is written each time: that waits so many times as long. An agent that
ends in order writes it anyway; after a crash with the API server away, health checks find what is no longer there."""
_GATEWAY_SECONDS = 60.0
_NO_OF_OURS = f"{MANAGED_BY}!={MANAGER}"


class KubernetesSource:
    """Source over one API server. `client`, `exports_seen` and `namespaces` are for who writes what is imported."""

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        cache_path: Path,
        locality: Locality,
        clock: Clock,
        log: Logger,
        rng: random.Random | None = None,
        cache_seconds: float = 10.0,
    ) -> None:
        self.state: Latest[SourceState] = Latest(SourceState())
        self.client = KubeClient(settings, log=log, clock=clock)
        self.namespaces: Store[Namespace] = Store()
        self.gateway: dict[str, Store[Other]] = {}
        """Objects of the Gateway API by plural, of the kinds that the server has."""
        self._settings, self._clock, self._log = settings, clock, log
        self._rng = rng or random.Random()
        self.lists = asyncio.Semaphore(1)
        """Held by who lists: one list at a time is in memory."""
        self._claims = Claims(locality=locality)
        self._wake = asyncio.Event()
        self._changed: set[ServiceName] = set()
        self.live: Latest[bool] = Latest(False)
        """All has been read from the API server, not from the disk."""
        self._exporting = Exporting(
            self.client,
            self._claims,
            state=self.state,
            live=self.live,
            resource=self._served_export,
            what=lambda: self.what,
            clock=clock,
        )
        self._reflectors: list[Reflector[Any]] = []
        self._cache_path = cache_path
        self._cached: dict[str, msgspec.Raw] = {}
        self._from_cache = False
        self._saver = Saver(
            cache_path, self._dump, interval=cache_seconds, clock=clock, log=log, on_problem=self._wake.set
        )
        self._soon = False
        self._later = asyncio.Event()
        """The disk lacks endpoints, and nothing else."""
        self._later_seconds = cache_seconds * _SELDOM
        for store in (self._claims.services, self._claims.exports, self._claims.nodes):
            store.listen(self._touched)
        self._claims.slices.listen(self._endpoints_touched)
        self._services = self._reflect(SERVICES, ServiceDecoder(), self._claims.services, selector=_NO_OF_OURS)
        self._slices = self._reflect(
            ENDPOINT_SLICES, SliceDecoder(), self._claims.slices, selector=f"{SLICE_MANAGED_BY}!={SLICE_MANAGER}"
        )
        self._exports = self._reflect(
            service_exports(MCS_VERSIONS[0]),
            msgspec.json.Decoder(ServiceExport),
            self._claims.exports,
            resolve=self._served_export,
        )
        self._nodes = self._reflect(NODES, NodeDecoder(), self._claims.nodes)
        self._namespaces = self._reflect(NAMESPACES, msgspec.json.Decoder(Namespace), self.namespaces)

    @property
    def exports_seen(self) -> Store[ServiceExport]:
        """Every ServiceExport, well or badly made."""
        return self._claims.exports

    @property
    def nodes(self) -> Store[Node]:
        """Every node that was read."""
        return self._claims.nodes

    def pod_ranges(self) -> tuple[str, ...]:
        """From which pods have their addresses, as the nodes say; empty where they do not, or cannot be read."""
        return pod_ranges(self._claims.nodes.objects.values())

    def refused(self, name: ServiceName) -> Problem | None:
        """Why an export is not offered; None for one that is, and for what nobody exports."""
        if name in self.state.value.exports:
            return None
        return next(iter(self._claims.problems_of((name.namespace, name.name))), None)

    async def run(self) -> None:
        """Follow the API server until cancelled. Raises InvalidSettings when there is neither a configuration that can
        be used nor anything on disk to serve from."""
        self._load()
        try:
            try:
                await self.client.connected()
            except InvalidSettings:
                if not self._from_cache:
                    raise
            except IsthmusError as error:
                self._log.warning("no connection to Kubernetes yet", error=str(error))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._saver.run(), name="kubernetes-cache")
                tasks.create_task(self._save_endpoints(), name="kubernetes-cache-endpoints")
                tasks.create_task(self._build(), name="kubernetes-build")
                for reflector in self._reflectors:
                    self._start(tasks, reflector)
                tasks.create_task(self._find_gateway_kinds(tasks), name="kubernetes-gateway-api")
        finally:
            await self.save()
            await self.client.close()

    async def save(self) -> None:
        """Write now what is to survive."""
        if self._later.is_set():
            self._saver.touch()
        await self._saver.flush()

    @property
    def what(self) -> str:
        return f"the API server {self.client.host}".rstrip()

    def has_namespace(self, namespace: str) -> bool | None:
        """None until the namespaces were read, and where they cannot be."""
        found = self.namespaces.objects.get(("", namespace))
        if found is not None:
            return not found.deleting
        return False if self._namespaces.synced.value else None

    async def export(self, name: ServiceName, wanted: tuple[Grant, ...]) -> tuple[str, bool]:
        """Write a ServiceExport for `name`; (where, changed). Raises NotFound, Conflict, and what the server says."""
        return await self._exporting.export(name, wanted)

    async def unexport(self, name: ServiceName) -> tuple[str, bool]:
        """Delete the ServiceExport of `name`; (where, changed). Raises as `export`."""
        return await self._exporting.unexport(name)

    async def preview(self, name: ServiceName, wanted: tuple[Grant, ...] | None) -> Preview:
        """As `export` or `unexport`, and the server only says what it would say."""
        return await self._exporting.preview(name, wanted)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _reflect(
        self,
        resource: Resource,
        decoder: Decoder[Any],
        store: Handler[Any],
        *,
        selector: str = "",
        resolve: Callable[[], Awaitable[Resource]] | None = None,
    ) -> Reflector[Any]:
        reflector: Reflector[Any] = Reflector(
            self.client,
            resource,
            decoder,
            store,
            clock=self._clock,
            rng=self._rng,
            log=self._log,
            lists=self.lists,
            label_selector=selector,
            resolve=resolve,
            page=self._settings.page,
            watch_seconds=self._settings.watch,
            confirm_seconds=self._settings.confirm,
        )
        self._reflectors.append(reflector)
        return reflector

    def _start(self, tasks: asyncio.TaskGroup, reflector: Reflector[Any]) -> None:
        plural = reflector.resource.plural
        tasks.create_task(reflector.run(), name=f"kubernetes-{plural}")
        for what, latest in (("synced", reflector.synced), ("problem", reflector.problem)):
            tasks.create_task(self._follow(latest), name=f"kubernetes-{plural}-{what}")

    async def _follow(self, latest: Latest[Any]) -> None:
        version = -1
        while True:
            version, _ = await latest.newer(version)
            self._wake.set()

    async def _served_export(self) -> Resource:
        served = await self.client.served(MCS)
        version = served.version("serviceexports", MCS_VERSIONS)
        if version is None:
            raise KubeNotFound(
                "the cluster has no ServiceExport, so nothing is exported",
                hint="run: fedctl install crds",
                code=NO_CRDS,
                kind_missing=True,
            )
        return service_exports(version)

    async def _find_gateway_kinds(self, tasks: asyncio.TaskGroup) -> None:
        """The Gateway API may be installed later, and in part."""
        missing = set(GATEWAY_KINDS)
        while missing:
            try:
                served = await self.client.served(GATEWAY)
            except IsthmusError:
                pass  # those who read say what is wrong
            else:
                for plural in sorted(missing):
                    version = served.version(plural, GATEWAY_KINDS[plural][1])
                    if version is not None:
                        missing.discard(plural)
                        store = self.gateway[plural] = Store()
                        self._start(tasks, self._reflect(gateway_kind(plural, version), OtherDecoder(), store))
            await self._clock.sleep(_GATEWAY_SECONDS)

    # --- what leaves -------------------------------------------------------------------------------------------------

    def _touched(self, keys: Collection[Key]) -> None:
        self._soon = True
        self._wake.set()

    def _endpoints_touched(self, keys: Collection[Key]) -> None:
        self._wake.set()

    def _is_live(self) -> bool:
        """Everything has been read once: only then is what is missing known to be missing."""
        return (
            self._services.synced.value
            and self._slices.synced.value
            and (self._exports.synced.value or _says(self._exports, NO_CRDS))
            and (self._nodes.synced.value or _says(self._nodes, Forbidden.code))  # zones are worth having, no more
        )

    async def _build(self) -> None:
        """Build what changed and publish it, until cancelled. Before all is read, what is on disk counts."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self.live.value and self._is_live():
                self.live.set(True)
                self._saver.touch()
                self._log.info("Kubernetes read", server=self.client.host, services=len(self._claims.names))
            if self.live.value:
                await self._build_dirty()
            self._publish()

    async def _build_dirty(self) -> None:
        """What is dirty now, in parts: a change of everything must not hold up the rest of the process."""
        while keys := self._claims.take_dirty():
            for start in range(0, len(keys), _YIELD_EVERY):
                if start:
                    await asyncio.sleep(0)
                part = keys[start : start + _YIELD_EVERY]
                self._changed |= self._claims.build(part)
                for key in part:
                    self._keep(key)
            if self._soon:
                self._soon = False
                self._saver.touch()
            else:
                self._later.set()

    def _publish(self) -> None:
        """Set the state when it differs from the last one."""
        changed, self._changed = frozenset(self._changed), set()
        state = successor(
            self.state.value,
            exports=self._claims.claims,
            services=self._claims.names,
            problems=self._problems(),
            complete=self.live.value or self._from_cache,
            changed=changed,
        )
        if state is not None:
            self.state.set(state)

    def _problems(self) -> tuple[Problem, ...]:
        told = [r.problem.value for r in self._reflectors if r.problem.value is not None]
        # An API server that is away is one problem, not five.
        found = list({(p.code, p.subject): p for p in reversed(told)}.values())
        if found and not self.live.value and self._from_cache:
            detail = "not read since the agent started; what was known before counts"
            found.append(Problem("kube_stale", "Kubernetes", detail))
        if self._saver.problem is not None:
            found.append(self._saver.problem)
        return (*found, *self._claims.problems)

    # --- on disk -----------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        loaded = load_or_none(self._cache_path, cache.decode, self._log)
        if loaded is None:
            return
        claims, exports = self._claims, loaded.exports.values()
        claims.nodes.replace(loaded.placed(), "")
        claims.exports.replace((e.export for e in exports), "")
        claims.services.replace((e.service for e in exports if e.service is not None), "")
        claims.slices.replace((s for e in exports for s in e.slices), "")
        self._from_cache = True
        keys = claims.take_dirty()
        self._changed |= claims.build(keys)
        for key in keys:
            self._keep(key)
        self._publish()

    def _keep(self, key: Key) -> None:
        """The entry of the cache is made at once, so that a write of the cache is not long."""
        parts = self._claims.parts(key)
        text = f"{key[0]}/{key[1]}"
        if parts is None:
            self._cached.pop(text, None)
        else:
            self._cached[text] = cache.encode_export(cache.Exported(*parts))

    async def _save_endpoints(self) -> None:
        while True:
            await self._later.wait()
            await self._clock.sleep(self._later_seconds)
            if self._later.is_set():  # else it was written with something else
                self._saver.touch()

    def _dump(self) -> bytes:
        self._later.clear()
        return cache.encode(self._cached, places(self._claims.nodes.objects))


def _says(reflector: Reflector[Any], code: str) -> bool:
    problem = reflector.problem.value
    return problem is not None and problem.code == code
