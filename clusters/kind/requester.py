"""A pod that looks up and calls what a test says (`clusters.requester`), reached through its API server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clusters.kubeclient import KubeClient
from federation.errors import Unavailable

_LEAST = 10.0
"""Seconds more than its calls take at most, in which the pod answers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call: who has `answered`, or the `error`, which begins with the name of its class."""

    answered: str
    error: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Requester:
    """One such pod."""

    client: KubeClient
    cluster: str
    namespace: str
    pod: str
    port: int

    async def lookup(self, name: str, kind: str = "A") -> list[str] | None:
        """What its nameserver answers, sorted; empty when the name does not exist, None when it gives no answer."""
        try:
            found: list[str] = await self._get("lookup", name=name, kind=kind)
        except Unavailable:
            return None
        return found

    async def call(
        self, host: str, port: int, *, protocol: str = "tcp", times: int = 1, timeout: float = 10.0
    ) -> list[Answer]:
        """Call `host` so many times, one after the other, each with a new connection and a new look-up."""
        given = {"host": host, "port": port, "protocol": protocol, "times": times, "timeout": timeout}
        told = await self._get("call", seconds=times * timeout, **given)
        return [Answer(one.get("answer", ""), one.get("error", ""), one["seconds"]) for one in told]

    async def answered(self, host: str, port: int, *, protocol: str = "tcp", times: int = 1) -> list[str]:
        """Who has answered; empty for what failed."""
        return [one.answered for one in await self.call(host, port, protocol=protocol, times=times)]

    async def _get(self, what: str, *, seconds: float = _LEAST, **given: object) -> Any:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}:{self.port}/proxy/{what}"
        return await self.client.request("GET", path, query=given, timeout=seconds + _LEAST)
