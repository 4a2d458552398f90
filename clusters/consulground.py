"""A ground on which some clusters are Consul datacenters: their services are registered at an agent of Consul.

What is written is what is written on every ground, a Service with its export and its EndpointSlice; here it becomes one
service of Consul with an instance for each endpoint. Each instance has a check, which `turn` sets.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import yaml

from clusters.consul import Datacenter, datacenters, start_all, stop_all
from clusters.consulclient import ConsulClient, Object
from clusters.ground import Ground, Pen, Write
from federation.aio.files import write_atomic

EXPORT = {"isthmus-export": "true"}
NEVER = "8760h"
"""A check of which nobody hears for so long turns critical by itself."""


class WithConsul:
    """`base` for all clusters but those of `names`, which are Consul datacenters.

    Raises NotFound where there is no Consul.
    """

    def __init__(
        self,
        base: Ground,
        directory: Path,
        names: Iterable[str],
        *,
        namespace: str,
        servers: int = 1,
        acl: bool = False,
        addresses: Iterator[str] | None = None,
    ) -> None:
        """`namespace`: what the services of the datacenters have in the federation. `addresses`: those of its nodes."""
        self.base, self._namespace = base, namespace
        made = datacenters(directory, names, servers=servers, acl=acl, addresses=addresses)
        self.datacenters: Mapping[str, Datacenter] = {one.name: one for one in made}
        self._described: dict[tuple[str, str], list[Object]] = {}

    def addresses(self, rng: random.Random) -> Iterator[str]:
        return self.base.addresses(rng)

    async def start(self) -> None:
        # Not a TaskGroup: its callers know our errors, not groups of them. `stop` ends what has started.
        await asyncio.gather(self.base.start(), start_all(self.datacenters.values()))

    async def write(self, cluster: str, *documents: Object) -> None:
        if cluster not in self.datacenters:
            await self.base.write(cluster, *documents)
            return
        async with self.datacenters[cluster].connect() as client:
            for document in documents:
                name = document["metadata"].get("labels", {}).get("kubernetes.io/service-name")
                name = name or document["metadata"]["name"]
                known = self._described.setdefault((cluster, name), [])
                known[:] = [one for one in known if one["kind"] != document["kind"]] + [document]
            for name in {name for where, name in self._described if where == cluster}:
                await _register(client, name, registrations(self._described[cluster, name]))

    def pen(self, cluster: str) -> AbstractAsyncContextManager[Pen]:
        return self._pen(cluster) if cluster in self.datacenters else self.base.pen(cluster)

    @asynccontextmanager
    async def _pen(self, cluster: str) -> AsyncIterator[Pen]:
        async with self.datacenters[cluster].connect() as client:
            yield _ConsulPen(client, {n: known for (where, n), known in self._described.items() if where == cluster})

    def tell(self, cluster: str, settings: Path, *, dns: str) -> None:
        if cluster not in self.datacenters:
            self.base.tell(cluster, settings, dns=dns)
            return
        tree = yaml.safe_load(settings.read_text())
        del tree["files"]
        tree["consul"] = {
            "address": self.datacenters[cluster].url(),
            "datacenters": {cluster: self._namespace},
        }
        write_atomic(settings, yaml.safe_dump(tree, sort_keys=False).encode())

    async def turn(self, cluster: str, service: str, status: str) -> float:
        """Set the checks of a service to "passing" or "critical"; the monotonic time at which that was sent (s)."""
        async with self.datacenters[cluster].connect() as client:
            checks = await client.get("/v1/agent/checks", filter=f'ServiceName == "{service}"')
            moment = time.monotonic()
            for one in checks.values():
                await client.set_check(one["CheckID"], status)
        return moment

    def stop(self) -> None:
        stop_all(self.datacenters.values(), discard=True)
        self.base.stop()


class _ConsulPen:
    def __init__(self, client: ConsulClient, described: Mapping[str, list[Object]]) -> None:
        self._client, self._described = client, described

    async def prepared(self, document: Object) -> Write:
        name = document["metadata"]["labels"]["kubernetes.io/service-name"]
        known = [one for one in self._described[name] if one["kind"] != document["kind"]]
        wanted = registrations([*known, document])

        async def write() -> None:
            await _register(self._client, name, wanted)

        return write


def registrations(documents: Iterable[Object]) -> list[Object]:
    """Pure: a Service, its EndpointSlice and its ServiceExport, if it has one, as instances of Consul."""
    kinds = {one["kind"]: one for one in documents}
    if not {"Service", "EndpointSlice"} <= kinds.keys():
        return []
    (port,), sliced = kinds["Service"]["spec"]["ports"], kinds["EndpointSlice"]
    name, exported = kinds["Service"]["metadata"]["name"], "ServiceExport" in kinds
    meta = {
        **(EXPORT if exported else {}),
        "isthmus-protocol": port["appProtocol"],
        "isthmus-service-port": str(port["port"]),
    }
    return [
        {
            "ID": f"{name}-{number}",
            "Name": name,
            "Address": endpoint["addresses"][0],
            # Named as in the Service: clusters that offer the same service have to agree on that.
            "Ports": [{"Name": port["name"], "Port": sliced["ports"][0]["port"], "Default": True}],
            "Meta": meta,
            "Check": {
                "CheckID": f"{name}-{number}-up",
                "TTL": NEVER,
                "Status": "passing" if endpoint["conditions"]["ready"] else "critical",
            },
        }
        for number, endpoint in enumerate(sliced["endpoints"])
    ]


async def _register(client: ConsulClient, name: str, wanted: Iterable[Object]) -> None:
    """Make the instances of the service at the agent what is wanted."""
    held = set(await client.get("/v1/agent/services", filter=f'Service == "{name}"'))
    for one in wanted:
        await client.put("/v1/agent/service/register", one, **{"replace-existing-checks": "true"})
        held.discard(one["ID"])
    for left in held:
        await client.deregister(left)
