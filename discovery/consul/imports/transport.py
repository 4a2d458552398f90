"""One datacenter's HTTP API for discovery.consul.imports.catalog, over the agent's client of Consul."""

from __future__ import annotations

from collections.abc import Mapping

from discovery.consul.client import Answer, ConsulClient


class DatacenterTransport:
    """A Transport."""

    def __init__(self, client: ConsulClient, datacenter: str) -> None:
        self._client, self._datacenter = client, datacenter

    async def get(
        self, path: str, query: Mapping[str, str], *, what: str, needs: str, index: int = 0, wait: float = 0.0
    ) -> Answer:
        return await self._client.read(path, query, self._datacenter, what=what, needs=needs, index=index, wait=wait)

    async def put(self, path: str, body: bytes, *, what: str, needs: str) -> tuple[int, bytes]:
        status, _, answer = await self._client.send(
            "PUT", path, query={"dc": self._datacenter}, body=body or None, what=what, needs=needs, passes=(404, 409)
        )
        return status, answer
