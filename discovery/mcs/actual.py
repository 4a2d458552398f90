"""The objects of ours that an API server holds, by the service that they belong to; kept in step by watches.

Arrives: lists and watches of ServiceImports (all), derived Services and EndpointSlices (those that are ours), and the
answers to what we write. Leaves: Actual for a plan, and the names of which something changed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterator

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.errors import NotFound
from discovery.kube.resources import ENDPOINT_SLICES, MCS, MCS_VERSIONS, SERVICES, Resource, service_imports
from discovery.kube.types import MANAGER, MCS_SERVICE_NAME, SLICE_MANAGED_BY, SLICE_MANAGER
from discovery.kube.watch import Key, Reflector, Store
from discovery.mcs.desired import derived_name
from discovery.mcs.held import Held, Kind, read
from discovery.mcs.plan import Actual
from discovery.sources.manifests import MANAGED_BY
from federation.aio.clock import Clock
from federation.errors import InvalidInput
from federation.log import Logger
from federation.model.cluster import Problem
from federation.model.ids import ServiceName

SELECTORS = {
    Kind.IMPORT: "",
    Kind.SERVICE: f"{MANAGED_BY}={MANAGER},{MCS_SERVICE_NAME}",
    Kind.SLICE: f"{SLICE_MANAGED_BY}={SLICE_MANAGER}",
}
"""What is watched of each kind: of ServiceImports those of others, too, for they are in the way."""


class _Decoder:
    """JSON → Held."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def decode(self, data: bytes | msgspec.Raw, /) -> Held:
        """Raises msgspec.MsgspecError, as a Reflector expects it."""
        try:
            return read(self._kind, data)
        except InvalidInput as error:
            raise msgspec.ValidationError(str(error)) from error


class Actuals:
    """`run` until cancelled; complete when `synced`. `on_change` gets names, `on_service` those of derived Services."""

    def __init__(
        self,
        client: KubeClient,
        *,
        on_change: Callable[[Collection[ServiceName]], None],
        on_service: Callable[[ServiceName, Held], None],
        clock: Clock,
        rng: random.Random,
        log: Logger,
        lists: asyncio.Semaphore,
    ) -> None:
        self._client, self._on_change, self._on_service = client, on_change, on_service
        self._stores: dict[Kind, Store[Held]] = {}
        self._names: dict[tuple[Kind, Key], ServiceName] = {}
        self._slices: dict[ServiceName, set[Key]] = {}
        self.reflectors: dict[Kind, Reflector[Held]] = {}
        resources = {Kind.IMPORT: service_imports("v1beta1"), Kind.SERVICE: SERVICES, Kind.SLICE: ENDPOINT_SLICES}
        for kind, resource in resources.items():
            store: Store[Held] = Store()
            store.listen(lambda keys, kind=kind: self._changed(kind, keys))  # type: ignore[misc]
            self._stores[kind] = store
            self.reflectors[kind] = Reflector(
                client,
                resource,
                _Decoder(kind),
                store,
                clock=clock,
                rng=rng,
                log=log,
                lists=lists,
                label_selector=SELECTORS[kind],
                resolve=self._import_resource if kind is Kind.IMPORT else None,
            )

    async def run(self) -> None:
        """Follow all three kinds."""
        async with asyncio.TaskGroup() as tasks:
            for kind, reflector in self.reflectors.items():
                tasks.create_task(reflector.run(), name=f"kube-own-{kind.lower()}")

    async def synced(self) -> None:
        """Wait until every kind was listed once."""
        for reflector in self.reflectors.values():
            while not reflector.synced.value:
                await reflector.synced.newer(reflector.synced.version)

    @property
    def version(self) -> str:
        """The version of the MCS API in which ServiceImports are read."""
        return self.reflectors[Kind.IMPORT].resource.version

    def problems(self) -> Iterator[Problem]:
        """What keeps it from reading."""
        return (r.problem.value for r in self.reflectors.values() if r.problem.value is not None)

    def of(self, name: ServiceName) -> Actual:
        """All that there is for `name`."""
        slices = self._stores[Kind.SLICE].objects
        return Actual(
            import_=self._stores[Kind.IMPORT].objects.get((name.namespace, name.name)),
            service=self._stores[Kind.SERVICE].objects.get((name.namespace, derived_name(name))),
            slices={key[1]: slices[key] for key in self._slices.get(name, ())},
        )

    def names(self) -> set[ServiceName]:
        """Names of which there is anything of ours, or a ServiceImport."""
        return set(self._names.values())

    def wrote(self, held: Held) -> None:
        """The answer to a write. An object that the watch has seen newer, or gone, is not brought back."""
        store, reflector = self._stores.get(held.kind), self.reflectors.get(held.kind)
        if store is None or reflector is None:
            return
        if (held.namespace, held.name) not in store.objects and held.version <= reflector.version:
            return
        store.put(held)

    def gone(self, kind: Kind, namespace: str, name: str) -> None:
        """The API server says that there is no such object."""
        if (store := self._stores.get(kind)) is not None:
            store.delete(namespace, name)

    async def _import_resource(self) -> Resource:
        served = await self._client.served(MCS)
        version = served.version("serviceimports", MCS_VERSIONS)
        if version is None:
            raise NotFound(
                f"the API server has no serviceimports.{MCS}", hint="install the CRDs of the MCS API", kind_missing=True
            )
        return service_imports(version)

    def _changed(self, kind: Kind, keys: Collection[Key]) -> None:
        objects = self._stores[kind].objects
        names = set()
        for key in keys:
            held = objects.get(key)
            name = self._names.get((kind, key))
            if held is None:
                self._names.pop((kind, key), None)
                if name is not None and kind is Kind.SLICE:
                    self._drop_slice(name, key)
            else:
                before, name = name, ServiceName(held.namespace, held.service)
                if kind is Kind.SLICE and before != name:
                    if before is not None:
                        self._drop_slice(before, key)
                        names.add(before)
                    self._slices.setdefault(name, set()).add(key)
                self._names[(kind, key)] = name
                if kind is Kind.SERVICE and key[1] == derived_name(name):
                    self._on_service(name, held)
            if name is not None:
                names.add(name)
        if names:
            self._on_change(names)

    def _drop_slice(self, name: ServiceName, key: Key) -> None:
        keys = self._slices.get(name, set())
        keys.discard(key)
        if not keys:
            self._slices.pop(name, None)
