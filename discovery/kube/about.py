"""The About API (KEP-2149): what the cluster is called in the federation, as ClusterProperty objects.

`cluster.clusterset.k8s.io` is its name, `clusterset.k8s.io` the federation, and both are there only while it is a
member. What is missing is written; what somebody else has written is left, and a Problem where it says something else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.errors import NotFound
from discovery.kube.resources import ABOUT, ABOUT_VERSIONS, Resource, cluster_properties
from discovery.kube.types import MANAGER, ClusterProperty, ObjectMeta
from discovery.kube.watch import Key, Reflector, Store
from discovery.sources.manifests import MANAGED_BY
from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.errors import IsthmusError, Unavailable
from federation.log import Logger
from federation.model.cluster import Problem

CLUSTER, CLUSTERSET = "cluster.clusterset.k8s.io", "clusterset.k8s.io"
DIFFERS = "cluster_property_differs"
SETTLE_SECONDS = 1.0
"""What vanishes is written again after this time only: `fedctl cluster leave` may be about to end the membership."""
_RETRY_SECONDS = 30.0


def wanted(*, cluster: str, federation: str) -> dict[str, str]:
    """The properties of a member."""
    return {CLUSTER: cluster, CLUSTERSET: federation}


class About:
    """`run` until cancelled. It writes while `leader` has a value and `member` is true."""

    def __init__(
        self,
        client: KubeClient,
        properties: Mapping[str, str],
        *,
        leader: Latest[int | None],
        member: Callable[[], bool],
        on_problems: Callable[[Collection[Problem]], None],
        clock: Clock,
        log: Logger,
        lists: asyncio.Semaphore,
        rng: random.Random,
    ) -> None:
        self._client, self._wanted, self._leader, self._member = client, properties, leader, member
        self._on_problems, self._clock, self._log = on_problems, clock, log
        self._wake = asyncio.Event()
        self._replaced: set[str] = set()
        self._failure: Problem | None = None
        self._store: Store[ClusterProperty] = Store(self._told)
        self.reflector: Reflector[ClusterProperty] = Reflector(
            client,
            cluster_properties(ABOUT_VERSIONS[0]),
            msgspec.json.Decoder(ClusterProperty),
            self._store,
            clock=clock,
            rng=rng,
            log=log,
            lists=lists,
            resolve=lambda: served(client),
        )

    async def run(self) -> None:
        """Follow the objects, and write those that are missing."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.reflector.run(), name="kube-about-read")
            for latest in (self.reflector.synced, self.reflector.problem, self._leader):
                tasks.create_task(self._follow(latest), name="kube-about-follow")
            tasks.create_task(self._keep(), name="kube-about-keep")

    def _told(self, keys: Collection[Key]) -> None:
        self._wake.set()

    async def _follow(self, latest: Latest[Any]) -> None:
        version = -1
        while True:
            version, _ = await latest.newer(version)
            self._wake.set()

    async def _keep(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._tell()
            if not self._lacking():
                continue
            await self._clock.sleep(SETTLE_SECONDS)
            try:
                for name in self._lacking():
                    await self._write(name)
            except IsthmusError as error:
                self._failed(error)
                await self._clock.sleep(_RETRY_SECONDS if not isinstance(error, Unavailable) else SETTLE_SECONDS)
                self._wake.set()
            else:
                self._failure = None
                self._tell()

    def _lacking(self) -> list[str]:
        """Properties that are to be written by this replica, now."""
        if not self.reflector.synced.value or self._leader.value is None or not self._member():
            return []
        return [name for name in self._wanted if self._to_write(name)]

    def _to_write(self, name: str) -> bool:
        held = self._store.objects.get(("", name))
        if held is None:
            return True
        # Left over from another membership. Whoever changes it back does not want it to be ours.
        return held.ours and held.spec.value != self._wanted[name] and name not in self._replaced

    async def _write(self, name: str) -> None:
        held = self._store.objects.get(("", name))
        resource = self.reflector.resource
        metadata: dict[str, Any] = {"name": name, "labels": {MANAGED_BY: MANAGER}}
        if held is not None:
            self._replaced.add(name)
            metadata |= {"uid": held.metadata.uid, "resourceVersion": held.metadata.resource_version}
        tree = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": metadata,
            "spec": {"value": self._wanted[name]},
        }
        # Without force: of two that write at the same time, one is told so.
        data = await self._client.apply(resource, None, name, msgspec.json.encode(tree), force=held is not None)
        self._store.put(msgspec.json.decode(data, type=ClusterProperty))
        self._log.info("cluster property written", name=name, value=self._wanted[name])

    def _failed(self, error: IsthmusError) -> None:
        self._log.warning("cluster property not written", code=error.error_code, error=error.message)
        if not isinstance(error, Unavailable):
            self._failure = Problem(error.error_code, "ClusterProperty", str(error))
            self._tell()

    def _tell(self) -> None:
        found = [p for p in (self.reflector.problem.value, self._failure) if p is not None]
        for name, value in self._wanted.items():
            held = self._store.objects.get(("", name))
            if held is not None and held.spec.value != value and not self._to_write(name):
                detail = f"it says {held.spec.value[:80]!r}, and this is {value!r}; it was left as it is"
                found.append(Problem(DIFFERS, f"ClusterProperty {name}", detail))
        self._on_problems(found)


async def served(client: KubeClient) -> Resource:
    """ClusterProperty in the version that the API server has. Raises NotFound."""
    version = (await client.served(ABOUT)).version("clusterproperties", ABOUT_VERSIONS)
    if version is None:
        raise NotFound(
            "the cluster has no ClusterProperty, so its name in the federation cannot be read in it",
            hint="run: fedctl install crds",
            code="crds_missing",
            kind_missing=True,
        )
    return cluster_properties(version)


async def of_ours(client: KubeClient, properties: Mapping[str, str]) -> list[tuple[Resource, ObjectMeta]]:
    """Those of `properties` that are ours and say what a member would say.

    Raises the errors of discovery.kube.errors.
    """
    try:
        resource = await served(client)
    except NotFound:
        return []
    found = []
    async for page in client.pages(resource):
        for raw in page.items:
            held = msgspec.json.decode(raw, type=ClusterProperty)
            if held.ours and properties.get(held.name) == held.spec.value:
                found.append((resource, held.metadata))
    return found
