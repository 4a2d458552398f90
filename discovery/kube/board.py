"""What replicas of an agent share in one ConfigMap: read by watching, changed by compare-and-set.

What it holds belongs to who extends it (discovery.kube.pinboard, discovery.kube.vmboard); the loop, the waiting after a
failure, and what an operator is shown of it are here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.resources import CONFIG_MAPS
from discovery.kube.types import MANAGER, ConfigMap
from discovery.kube.watch import Key, Store
from discovery.sources.manifests import MANAGED_BY
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import IsthmusError, Unavailable
from federation.log import Logger
from federation.model.cluster import Problem


class Board:
    """`run` until cancelled. `what` names its content in the log."""

    name: ClassVar[str]
    """Of the ConfigMap."""
    key: ClassVar[str]
    """In its data."""
    what: ClassVar[str]

    def __init__(
        self,
        client: KubeClient,
        store: Store[ConfigMap],
        synced: Latest[bool],
        *,
        namespace: str,
        on_problem: Callable[[Problem | None], None],
        clock: Clock,
        log: Logger,
        rng: random.Random,
    ) -> None:
        self._client, self._store, self._synced = client, store, synced
        self._namespace, self._on_problem = namespace, on_problem
        self._clock, self._log = clock, log
        self._backoff = Backoff(base=0.1, cap=10.0, uniform=rng.uniform)
        self._wake = asyncio.Event()
        store.listen(self._told)

    async def run(self) -> None:
        """Bring what is here and the ConfigMap together, whenever either has changed."""
        version = -1
        while not self._synced.value:
            version, _ = await self._synced.newer(version)
        self._begin()
        while True:
            self._wake.clear()
            try:
                await self._turn()
            except IsthmusError as error:
                self._failed(error)
                await self._clock.sleep(self._backoff.next())
                continue
            self._backoff.reset()
            self._on_problem(None)
            self._settle()
            await self._wake.wait()

    def _begin(self) -> None:
        """The ConfigMap, if there is one, has been read for the first time."""

    async def _turn(self) -> None:
        """Take what others have written, write what they lack; raises IsthmusError to be called again."""
        raise NotImplementedError

    def _settle(self) -> None:
        """A turn has succeeded."""

    def _held(self) -> ConfigMap | None:
        return self._store.objects.get((self._namespace, self.name))

    def _body(
        self,
        content: bytes,
        *,
        besides: dict[str, str] | None = None,
        basis: ConfigMap | str | None = None,
        notes: dict[str, str] | None = None,
    ) -> bytes:
        """The ConfigMap with this content, in the place of `basis`: what was seen, or its resourceVersion."""
        metadata: dict[str, Any] = {"name": self.name, "namespace": self._namespace, "labels": {MANAGED_BY: MANAGER}}
        if notes:
            metadata["annotations"] = notes
        if isinstance(basis, ConfigMap):
            metadata |= {"resourceVersion": basis.metadata.resource_version, "uid": basis.metadata.uid}
        elif basis:
            metadata["resourceVersion"] = basis
        data = {self.key: content.decode(), **(besides or {})}
        return msgspec.json.encode({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})

    def _take(self, data: bytes) -> ConfigMap:
        """What the API server has answered, as if the watch had told."""
        found = msgspec.json.decode(data, type=ConfigMap)
        self._store.put(found)
        return found

    def _told(self, keys: Collection[Key]) -> None:
        if (self._namespace, self.name) in keys:
            self._wake.set()

    def _failed(self, error: IsthmusError) -> None:
        self._log.warning(f"{self.what} not shared", code=error.error_code, error=error.message)
        if not isinstance(error, Unavailable):
            self._on_problem(Problem(error.error_code, f"{CONFIG_MAPS.kind} {self._namespace}/{self.name}", str(error)))
