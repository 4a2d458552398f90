"""The virtual machines of a cluster whose agent has replicas: one ConfigMap, changed by compare-and-set.

    VmTable ─ write (only the version that was seen) → ConfigMap isthmus-vms
    watch ─────────────────────────────────────────→ VmTable of each replica

It holds nothing secret: hashes of tokens, fingerprints of keys. Who can write it decides which machines are let in, so
only the agent and the operator may. While the API server is away nobody joins and nobody is removed; who has joined
renews all the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ClassVar

import msgspec

from discovery.kube.board import Board
from discovery.kube.client import KubeClient
from discovery.kube.errors import Conflict, NotFound
from discovery.kube.resources import CONFIG_MAPS
from discovery.kube.types import ConfigMap
from discovery.kube.watch import Store
from discovery.vms import plans
from discovery.vms.plans import Picture
from discovery.vms.table import Shelved, VmTable
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import AlreadyExists, CorruptState, IsthmusError, QuotaExceeded
from federation.log import Logger
from federation.model.cluster import Problem

NAME = "isthmus-vms"
"""Of the ConfigMap."""
MAX_BYTES = 900_000
"""An object of an API server has at most 1 MiB: some 2,500 machines."""


class VmBoard(Board):
    """discovery.vms.table.Shelf in an API server; `run` until cancelled."""

    name: ClassVar[str] = NAME
    key: ClassVar[str] = "vms.json"
    what: ClassVar[str] = "vms"

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
        super().__init__(
            client, store, synced, namespace=namespace, on_problem=on_problem, clock=clock, log=log, rng=rng
        )
        self._table = table
        table.shelf = self

    async def _turn(self) -> None:
        """Take what other replicas have done; put back what somebody deleted."""
        held = self._held()
        if held is None:
            await self._table.restore()
        else:
            await self._table.follow(self._decode(held))

    async def read(self) -> Shelved | None:
        """See Shelf."""
        try:
            data = await self._client.get(CONFIG_MAPS, self._namespace, NAME)
        except NotFound:
            return None
        return self._decode(msgspec.json.decode(data, type=ConfigMap))

    async def write(self, picture: Picture, basis: str) -> str | None:
        """See Shelf."""
        content = plans.dump(picture)
        if len(content) > MAX_BYTES:
            raise QuotaExceeded(
                f"the ConfigMap {self._namespace}/{NAME} cannot hold more VMs",
                hint="remove those that are gone: fedctl vm list, fedctl vm remove",
                code="too_many_vms",
            )
        try:
            if basis:
                try:
                    data = await self._client.update(
                        CONFIG_MAPS, self._namespace, NAME, self._body(content, basis=basis)
                    )
                except NotFound:  # deleted by hand
                    data = await self._client.create(CONFIG_MAPS, self._namespace, self._body(content))
            else:
                data = await self._client.create(CONFIG_MAPS, self._namespace, self._body(content))
        except (Conflict, AlreadyExists):
            return None
        return self._take(data).metadata.resource_version

    def _decode(self, held: ConfigMap) -> Shelved:
        """Raises Unreadable: what is here stays."""
        try:
            picture = plans.load((held.data or {}).get(self.key, "").encode())
        except CorruptState as error:
            raise Unreadable(
                f"the ConfigMap {self._namespace}/{NAME} cannot be read: {error.message}",
                hint="delete it: the agent writes it again with the VMs that it knows",
            ) from error
        return Shelved(picture, held.metadata.resource_version)


class Unreadable(IsthmusError):
    """Somebody has edited the ConfigMap."""

    code = "vms_unreadable"
