"""The session that proves to a datacenter that the agent lives: without it all that it wrote turns critical.

Catalog entries have no end of their own. So the node of our imports has one check of the type "session", and Consul's
servers make it critical when a session of its name ends, which is when nobody renewed it for twice its TTL. Every
session has a name of its own, so the end of a former leader's is nothing to what its successor says.
"""

from __future__ import annotations

from discovery.consul.imports.catalog import Catalog, Fence
from discovery.consul.imports.desired import PASSING
from discovery.consul.imports.held import HeldCheck
from federation.aio.clock import Clock


class Presence:
    """`ensure` while leading, at least every `every` seconds; one call at a time."""

    def __init__(self, catalog: Catalog, *, name: str, ttl: float, clock: Clock) -> None:
        """`name`: no other agent has it. `ttl`: seconds."""
        self._catalog, self._base, self._ttl, self._clock = catalog, name, ttl, clock
        self._name, self._session, self._number = "", "", 0
        self._renewed = float("-inf")

    @property
    def due(self) -> float:
        """When to renew, in monotonic seconds."""
        return self._renewed + self._ttl / 3

    def said_by(self, check: HeldCheck | None) -> bool:
        """Whether `check`, the one of the node, says that this agent lives."""
        return check is not None and check.status == PASSING and bool(self._name) and check.session == self._name

    async def ensure(self, check: HeldCheck | None, fence: Fence) -> None:
        """Renew the session, or begin one, and put the check right if it is not. Raises what Catalog raises.

        `check` as it was read last. Transactions cannot carry it, so that this agent leads is proven just before.
        """
        if not self._session or not await self._catalog.renew_session(self._session):
            await self._catalog.prove(fence)
            await self._begin()
        elif not self.said_by(check):
            await self._catalog.prove(fence)
            await self._catalog.put_node_check(self._name)
        self._renewed = self._clock.monotonic()

    async def _begin(self) -> None:
        """A new name each time: the end of a session whose begin was not answered is nothing to the check."""
        while True:
            self._number += 1
            self._name = f"{self._base}-{self._number}"
            self._session = await self._catalog.begin_session(self._name, self._ttl)
            await self._catalog.put_node_check(self._name)
            if await self._catalog.renew_session(self._session):
                return
            # It had ended (this process stood still) before there was a check that its end could turn critical.
