"""The virtual machines of a cluster whose agent has replicas: one ConfigMap, changed by compare-and-set.

    VmTable ─ write (only the version that was seen) → ConfigMap isthmus-vms
    watch ─────────────────────────────────────────→ VmTable of each replica

It holds nothing secret: hashes of tokens, fingerprints of keys. Who can write it decides which machines are let in, so
only the agent and the operator may. While the API server is away nobody joins and nobody is removed; who has joined
renews all the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.errors import Conflict, NotFound
from discovery.kube.resources import CONFIG_MAPS
from discovery.kube.types import MANAGER, ConfigMap
from discovery.kube.watch import Key, Store
from discovery.sources.manifests import MANAGED_BY
from discovery.vms import plans
from discovery.vms.plans import Picture
from discovery.vms.table import Shelved, VmTable
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import AlreadyExists, CorruptState, IsthmusError, QuotaExceeded, Unavailable
from federation.log import Logger
from federation.model.cluster import Problem

NAME = "isthmus-vms"
"""Of the ConfigMap."""
_KEY = "vms.json"
MAX_BYTES = 900_000
"""An object of an API server has at most 1 MiB: some 2,500 machines."""


class VmBoard:
    """discovery.vms.table.Shelf in an API server; `run` until cancelled."""

    def __init__(
        self,
        client: KubeClient,
        store: Store[ConfigMap],
        synced: Latest[bool],
        table: VmTable,
        *,
        namespace: str,
        on_problem: Callable[[Problem | None], None],
        clock: Clock,
        log: Logger,
        rng: random.Random,
    ) -> None:
        self._client, self._store, self._synced, self._table = client, store, synced, table
        self._namespace, self._on_problem = namespace, on_problem
        self._clock, self._log = clock, log
        self._backoff = Backoff(base=0.1, cap=10.0, uniform=rng.uniform)
        self._wake = asyncio.Event()
        table.shelf = self
        store.listen(self._told)

    async def run(self) -> None:
        """Take what other replicas have done; put back what somebody deleted."""
        version = -1
        while not self._synced.value:
            version, _ = await self._synced.newer(version)
        while True:
            self._wake.clear()
            try:
                held = self._store.objects.get((self._namespace, NAME))
                if held is None:
                    await self._table.restore()
                else:
                    await self._table.follow(self._decode(held))
            except IsthmusError as error:
                self._failed(error)
                await self._clock.sleep(self._backoff.next())
                continue
            self._backoff.reset()
            self._on_problem(None)
            await self._wake.wait()

    async def read(self) -> Shelved | None:
        """See Shelf."""
        try:
            data = await self._client.get(CONFIG_MAPS, self._namespace, NAME)
        except NotFound:
            return None
        return self._decode(msgspec.json.decode(data, type=ConfigMap))

    async def write(self, picture: Picture, basis: str) -> str | None:
        """See Shelf."""
        content = plans.dump(picture).decode()
        if len(content) > MAX_BYTES:
            raise QuotaExceeded(
                f"the ConfigMap {self._namespace}/{NAME} cannot hold more VMs",
                hint="remove those that are gone: fedctl vm list, fedctl vm remove",
                code="too_many_vms",
            )
        try:
            if basis:
                try:
                    data = await self._client.update(CONFIG_MAPS, self._namespace, NAME, self._body(content, basis))
                except NotFound:  # deleted by hand
                    data = await self._client.create(CONFIG_MAPS, self._namespace, self._body(content, ""))
            else:
                data = await self._client.create(CONFIG_MAPS, self._namespace, self._body(content, ""))
        except (Conflict, AlreadyExists):
            return None
        written = msgspec.json.decode(data, type=ConfigMap)
        self._store.put(written)
        return written.metadata.resource_version

    def _body(self, content: str, version: str) -> bytes:
        metadata: dict[str, Any] = {"name": NAME, "namespace": self._namespace, "labels": {MANAGED_BY: MANAGER}}
        if version:
            metadata["resourceVersion"] = version
        return msgspec.json.encode(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {_KEY: content}}
        )

    def _decode(self, held: ConfigMap) -> Shelved:
        """Raises Unreadable: what is here stays."""
        try:
            picture = plans.load((held.data or {}).get(_KEY, "").encode())
        except CorruptState as error:
            raise Unreadable(
                f"the ConfigMap {self._namespace}/{NAME} cannot be read: {error.message}",
                hint="delete it: the agent writes it again with the VMs that it knows",
            ) from error
        return Shelved(picture, held.metadata.resource_version)

    def _told(self, keys: Collection[Key]) -> None:
        if (self._namespace, NAME) in keys:
            self._wake.set()

    def _failed(self, error: IsthmusError) -> None:
        self._log.warning("vms not shared", code=error.error_code, error=error.message)
        if not isinstance(error, Unavailable):
            self._on_problem(Problem(error.error_code, f"ConfigMap {self._namespace}/{NAME}", str(error)))


class Unreadable(IsthmusError):
    """Somebody has edited the ConfigMap."""

    code = "vms_unreadable"
