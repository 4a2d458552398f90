"""What clusters of the harness stand on: folders of manifests, or local API servers. All that differs is here.

A ground says which addresses the processes of a cluster have, keeps the objects that describe it, and tells its agent
where they are. Everything else of a federation is the same on each.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import msgspec
import yaml

from clusters import manifests
from clusters.apiserver import LocalCluster, local_clusters, start_all, stop_all
from clusters.kubeclient import Object
from clusters.namespace import LocalNetwork
from clusters.network import free_port, loopback_addresses
from discovery.kube import rbac
from discovery.kube.client import KubeClient
from discovery.kube.resources import ENDPOINT_SLICES
from discovery.kube.settings import KubernetesSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.files import write_atomic
from federation.errors import AlreadyExists
from federation.model.address import join_address, split_address
from federation.model.ids import SYSTEM_NAMESPACE

Write = Callable[[], Awaitable[object]]

_TOKEN_SECONDS = 24 * 3600
_AT_ONCE = 16
"""Requests to one API server at the same time."""


class Pen(Protocol):
    """Writes EndpointSlices of one cluster that exist already."""

    async def prepared(self, document: Object) -> Write:
        """What replaces the slice by `document` when it is called; all that can be done before is done."""
        ...


class Ground(Protocol):
    """Where the objects of clusters are. `start` comes before `write`, `stop` when nobody reads them any more."""

    def addresses(self, rng: random.Random) -> Iterator[str]:
        """Addresses of this machine that endpoints and gateways may have."""
        ...

    async def start(self) -> None: ...

    async def write(self, cluster: str, *documents: Object) -> None:
        """Make the objects what `documents` say, and their namespaces where they are missing."""
        ...

    def pen(self, cluster: str) -> AbstractAsyncContextManager[Pen]: ...

    def tell(self, cluster: str, settings: Path, *, dns: str) -> None:
        """Make the agent with this settings file, written for a folder of manifests, read the cluster.

        `dns`: where it answers workloads without a sidecar, if that is done on this ground.
        """
        ...

    def stop(self) -> None: ...


class Folders:
    """Plain hosts: a folder of manifests for each cluster, everything on loopback."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder

    def addresses(self, rng: random.Random) -> Iterator[str]:
        return loopback_addresses(rng)

    async def start(self) -> None:
        """A folder is made by what is written into it."""

    async def write(self, cluster: str, *documents: Object) -> None:
        """A Service and its ServiceExport have one file, so they must be written together."""
        for path, group in itertools.groupby(documents, key=lambda d: self._path(cluster, d)):
            manifests.write(path, *group)

    @asynccontextmanager
    async def pen(self, cluster: str) -> AsyncIterator[Pen]:
        yield _FolderPen(lambda document: self._path(cluster, document))

    def tell(self, cluster: str, settings: Path, *, dns: str) -> None:
        """It reads the folder already."""

    def stop(self) -> None:
        """Folders stay."""

    def _path(self, cluster: str, document: Object) -> Path:
        return manifests.path(self._folder(cluster), document)


class Hosts(Folders):
    """Plain hosts that machines on other networks can reach; their agents let virtual machines in.

    Raises Unavailable without the rights for the network.
    """

    def __init__(self, folder: Callable[[str], Path]) -> None:
        super().__init__(folder)
        self._network = LocalNetwork()

    def addresses(self, rng: random.Random) -> Iterator[str]:
        return self._network.addresses()

    def tell(self, cluster: str, settings: Path, *, dns: str) -> None:
        tree = yaml.safe_load(settings.read_text())
        host, _ = split_address(tree["listen"], what="listen")
        tree["vms"] = {"listen": join_address(host, free_port(host))}
        write_atomic(settings, yaml.safe_dump(tree, sort_keys=False).encode())

    def stop(self) -> None:
        self._network.close()


class _FolderPen:
    def __init__(self, path: Callable[[Object], Path]) -> None:
        self._path = path

    async def prepared(self, document: Object) -> Write:
        data, path = manifests.render(document), self._path(document)

        async def write() -> None:
            manifests.replace(path, data)

        return write


class ApiServers:
    """A local API server for each cluster; agents have the rights that `fedctl install rbac` gives them, and no others.

    Addresses are of a network of this machine's own: see LocalNetwork.
    Raises NotFound for a missing program of the testbed, Unavailable without the rights for the network.
    """

    def __init__(self, directory: Path, names: Iterable[str], *, clusters: Iterable[LocalCluster] = ()) -> None:
        """`clusters` run already, and go on running; otherwise they are made below `directory`."""
        self._lent = tuple(clusters)
        made = self._lent or local_clusters(directory, tuple(names))
        self.clusters: Mapping[str, LocalCluster] = {one.name: one for one in made}
        self._network = LocalNetwork()
        self._agents: dict[str, Path] = {}

    def addresses(self, rng: random.Random) -> Iterator[str]:
        return self._network.addresses()

    async def start(self) -> None:
        if not self._lent:
            await start_all(self.clusters.values())
        for cluster in self.clusters.values():
            async with cluster.connect() as client:
                await client.apply(*rbac.manifests())
            self._agents[cluster.name] = await cluster.kubeconfig_for_account(
                SYSTEM_NAMESPACE, rbac.ACCOUNT, seconds=_TOKEN_SECONDS
            )

    async def write(self, cluster: str, *documents: Object) -> None:
        async with self.clusters[cluster].connect() as client:
            for namespace in {str(d["metadata"]["namespace"]) for d in documents}:
                with contextlib.suppress(AlreadyExists):
                    await client.create_namespace(namespace)
            waiting = iter(documents)

            async def work() -> None:
                for one in waiting:
                    await client.apply(one)

            async with asyncio.TaskGroup() as tasks:
                for number in range(min(_AT_ONCE, len(documents))):
                    tasks.create_task(work(), name=f"write-{cluster}-{number}")

    @asynccontextmanager
    async def pen(self, cluster: str) -> AsyncIterator[Pen]:
        settings = KubernetesSettings(kubeconfig=str(self.clusters[cluster].kubeconfig))
        client = await KubeClient.open(settings, log=log.get("harness"), clock=SystemClock())
        try:
            yield _KubePen(client)
        finally:
            await client.close()

    def tell(self, cluster: str, settings: Path, *, dns: str) -> None:
        tree = yaml.safe_load(settings.read_text())
        del tree["files"]
        tree["kubernetes"] = {"kubeconfig": str(self._agents[cluster])}
        tree["dns"] = {"listen": dns}
        write_atomic(settings, yaml.safe_dump(tree, sort_keys=False).encode())

    def stop(self) -> None:
        if not self._lent:
            stop_all(self.clusters.values(), discard=True)
        self._network.close()


class _KubePen:
    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def prepared(self, document: Object) -> Write:
        """EndpointSlices only, replaced as their controller does it (PUT)."""
        metadata, body = document["metadata"], msgspec.json.encode(document)
        assert document["kind"] == ENDPOINT_SLICES.kind  # noqa: S101 - see above

        async def write() -> None:
            await self._client.update(ENDPOINT_SLICES, metadata["namespace"], metadata["name"], body)

        return write
