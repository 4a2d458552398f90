"""A store that forgets: for tests, and the model that the durable ones are compared with."""

from __future__ import annotations

from collections.abc import Callable

from federation.aio.clock import Clock
from federation.store.base import Listener
from federation.store.facets import ClusterFacet, LinkFacet, TokenFacet
from federation.store.picture import Picture, Plan, Result, applied


class MemoryStore:
    """`federation.store.base.Store` without durability."""

    def __init__(self, *, clock: Clock) -> None:
        self.picture = Picture()
        self.clusters = ClusterFacet(self, clock)
        self.links = LinkFacet(self)
        self.tokens = TokenFacet(self, clock)
        self.epoch = clock.wall_ns()
        self.restored = False
        self.failure = ""
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def commit(self, decide: Callable[[Picture], Plan[Result]]) -> Result:
        plan = decide(self.picture)
        self.picture = applied(self.picture, plan)
        if plan.members or plan.links:
            for listener in self._listeners:
                listener(plan.change)
        return plan.result

    async def close(self) -> None:
        """Nothing to release."""
