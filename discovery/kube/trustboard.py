"""The roots of a cluster, for whoever in it has to prove its agent: one ConfigMap, written by the replica that leads.

Gateways and injectors mount it, sidecars are given what it says; it holds nothing secret. What others write into it is
put right, for who can change it decides whom those pods take for the agent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import ClassVar

from discovery.kube.board import Board
from discovery.kube.client import KubeClient
from discovery.kube.errors import Conflict, NotFound
from discovery.kube.resources import CONFIG_MAPS
from discovery.kube.types import ConfigMap
from discovery.kube.watch import Store
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import AlreadyExists, Unavailable
from federation.log import Logger
from federation.model.cluster import Problem

NAME = "isthmus-trust"
"""Of the ConfigMap."""


class TrustBoard(Board):
    """`run` until cancelled. `anchor`: the certificates of all roots (PEM)."""

    name: ClassVar[str] = NAME
    key: ClassVar[str] = "root.pem"
    what: ClassVar[str] = "roots"

    def __init__(
        self,
        client: KubeClient,
        store: Store[ConfigMap],
        synced: Latest[bool],
        anchor: bytes,
        *,
        leader: Latest[int | None],
        namespace: str,
        on_problem: Callable[[Problem | None], None],
        clock: Clock,
        log: Logger,
        rng: random.Random,
    ) -> None:
        super().__init__(
            client, store, synced, namespace=namespace, on_problem=on_problem, clock=clock, log=log, rng=rng
        )
        self._anchor, self._leader = anchor, leader

    async def run(self) -> None:
        """Bring the ConfigMap to what it should say, whenever it, or who leads, has changed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run(), name="kube-trust-write")
            tasks.create_task(self._follow(), name="kube-trust-leader")

    async def _follow(self) -> None:
        version = -1
        while True:
            version, _ = await self._leader.newer(version)
            self._wake.set()

    async def _turn(self) -> None:
        held = self._held()
        if self._leader.value is None or (held and (held.data or {}).get(self.key) == self._anchor.decode()):
            return
        body = self._body(self._anchor, basis=held)
        try:
            if held is None:
                data = await self._client.create(CONFIG_MAPS, self._namespace, body)
            else:
                data = await self._client.update(CONFIG_MAPS, self._namespace, NAME, body)
        except (Conflict, AlreadyExists):
            self._take(await self._client.get(CONFIG_MAPS, self._namespace, NAME))
            raise Unavailable(f"the ConfigMap {self._namespace}/{NAME} was changed by somebody else") from None
        except NotFound:
            if held is not None:
                self._store.delete(self._namespace, NAME)
            raise
        self._take(data)
        self._log.info("roots told to this cluster", name=NAME)
