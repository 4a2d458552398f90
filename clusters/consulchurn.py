"""A large Consul catalog that changes all the time, and what a reader that missed nothing has seen of it in the end.

The instances are on nodes without an agent, as a configuration manager registers them: what one server answers to its
readers is measured, not what thousands of agents do.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clusters.consulclient import ConsulClient, Object, check, node, service
from federation.model.service import Import

BATCH = 32
"""Instances that are registered in one transaction: two operations each."""


Seen = dict[str, set[tuple[str, int, int]]]
"""Of each service that has an instance: address, port, and its weight, which is 0 where it may not be called."""


@dataclass(slots=True)
class Instance:
    """One copy of a service, as it is in the catalog now."""

    service: str
    id: str
    node: str
    address: str
    port: int
    status: str = "passing"
    here: bool = True
    weight: int = 1


class Churn:
    """`instances` of `services` on `nodes`, and one change after another of them; `meta` is that of every instance.

    At most the share `away` of the instances fails at the same time, and as many are gone: then the oldest come back.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        services: int,
        instances: int,
        nodes: int = 200,
        away: float = 0.01,
        meta: Mapping[str, str] | None = None,
    ) -> None:
        self._rng, self._meta, self._nodes = rng, dict(meta or {}), nodes
        self._most = max(1, round(away * instances))
        self._failing: deque[Instance] = deque()
        self._gone: deque[Instance] = deque()
        self.instances = [
            Instance(
                service=f"s{number % services:05d}",
                id=f"s{number % services:05d}-{number // services}",
                node=f"n{number % nodes:04d}",
                address=f"10.{32 + (number >> 16)}.{number >> 8 & 255}.{number & 255}",
                port=20000 + number % 1000,
            )
            for number in range(instances)
        ]

    async def fill(self, client: ConsulClient) -> None:
        """Register every node and instance."""
        await client.transact(
            node(f"n{number:04d}", f"10.31.{number >> 8}.{number & 255}") for number in range(self._nodes)
        )
        for start in range(0, len(self.instances), BATCH):
            batch = self.instances[start : start + BATCH]
            await client.transact([operation for one in batch for operation in self._registration(one)])

    async def run(self, client: ConsulClient, *, rate: float, seconds: float) -> int:
        """Make `rate` changes a second for `seconds`, each in a transaction of its own; returns how many were made."""
        began, made = time.monotonic(), 0
        while (now := time.monotonic()) < began + seconds:
            if (wait := began + made / rate - now) > 0:
                await asyncio.sleep(wait)
            await client.transact(self.change())
            made += 1
        return made

    def change(self) -> list[Object]:
        """One change as operations of a transaction: mostly of a check; an instance can also go, come or change."""
        what = self._rng.random()
        if what < 0.1:
            if len(self._gone) < self._most:
                one = self._any()
                one.here = False
                self._gone.append(one)
                # Its check goes with it.
                return [service(one.node, one.service, port=one.port, verb="delete", ID=one.id)]
            one = self._gone.popleft()
            one.here = True
            return self._registration(one)
        if what < 0.2:
            one = self._any()
            one.weight = 1 + one.weight % 5
            return self._registration(one)[:1]
        if len(self._failing) < self._most:
            one = self._any()
            one.status = "critical"
            self._failing.append(one)
        else:
            one = self._failing.popleft()
            one.status = "passing"
        return [check(one.node, one.id, one.status)]

    def _any(self) -> Instance:
        """One that is there and passes."""
        while not ((one := self._rng.choice(self.instances)).here and one.status == "passing"):
            pass
        return one

    def expected(self) -> Seen:
        """Every instance that there is."""
        found: Seen = {}
        for one in self.instances:
            if one.here:
                weight = one.weight if one.status == "passing" else 0
                found.setdefault(one.service, set()).add((one.address, one.port, weight))
        return found

    def _registration(self, one: Instance) -> list[Object]:
        described: Object = {
            "ID": one.id,
            "Address": one.address,
            "Meta": self._meta,
            "Weights": {"Passing": one.weight, "Warning": 1},
        }
        registered = service(one.node, one.service, port=one.port, **described)
        return [registered, check(one.node, one.id, one.status)]


def imported(imports: Iterable[Import], cluster: str) -> Seen:
    """What an agent's imports say of the services of its own cluster."""
    found: Seen = {}
    for one in imports:
        for backend in one.backends:
            if backend.cluster == cluster and backend.endpoints:
                copies = {(e.address, at, e.weight * e.ready) for e in backend.endpoints for at in e.ports.values()}
                found[one.name.name] = copies
    return found
