"""Finds pods that want a sidecar and have none, because no injector answered when they were created.

With failurePolicy Ignore the API server admits such a pod and tells nobody; so we look afterwards, and tell it by an
Event at the pod. It is not changed: a pod gets its containers when it is created, or never.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from math import inf
from typing import Any
from urllib.parse import quote

import msgspec

from federation.aio.clock import Clock
from federation.errors import IsthmusError, NotFound
from federation.log import Logger
from sidecar.injector.api import METADATA, Api
from sidecar.injector.events import MISSING, Events, Tale
from sidecar.injector.inject import NEVER, left_alone
from sidecar.injector.options import DISABLED, ENABLED, INJECT, INJECTED

FIRST, PAUSE = 5.0, 60.0
JITTER = 0.2
"""Part of PAUSE, more or less: replicas that started together do not ask all at once."""
PAGE = 500
"""Objects of one answer; of each only what is needed of its metadata is decoded, and only candidates are kept."""
MOST = 200
"""Pods that are looked at in one round, each once in its life."""
TOLD = 50
"""Pods that are told in one round, those first that were told longest ago."""
TEXT = (
    "it has no sidecar: no injector answered when it was created, or its namespace asked for one later; "
    "create it anew, as `kubectl rollout restart` does"
)
_SELECTOR = quote(f"{INJECT} in ({','.join(ENABLED)})")
_RUNNING = quote("status.phase!=Succeeded,status.phase!=Failed")

Key = tuple[str, str]
"""uid of a pod and the value of its label: what one says of it, spec and all, does not change."""


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    deletion_timestamp: str | None = None

    @property
    def open(self) -> bool:
        """Whether it may have been missed, as far as this tells."""
        left = self.labels.get(INJECT) in DISABLED or self.deletion_timestamp is not None
        return INJECTED not in self.annotations and not left

    @property
    def key(self) -> Key:
        return self.uid, self.labels.get(INJECT, "")

    def about(self) -> dict[str, str]:
        """involvedObject of an Event."""
        known = {"name": self.name, "namespace": self.namespace, "uid": self.uid}
        return {"apiVersion": "v1", "kind": "Pod", **known}


class _Item(msgspec.Struct, frozen=True):
    metadata: _Metadata


class _Page(msgspec.Struct, frozen=True):
    class Metadata(msgspec.Struct, frozen=True):
        token: str = msgspec.field(default="", name="continue")

    metadata: Metadata = Metadata()
    items: list[_Item] | None = None


class Missed:
    """Looks, round after round. `count`: those that were found last."""

    def __init__(
        self,
        api: Api,
        events: Events,
        own_namespace: str,
        *,
        clock: Clock,
        log: Logger,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.count = 0
        self._api, self._events, self._own = api, events, own_namespace
        self._clock, self._log, self._uniform = clock, log, uniform
        self._seen: dict[Key, float | None] = {}
        """When it was told (monotonic), None: it needs nothing after all."""

    async def run(self) -> None:
        """For ever. Where it may not list, it says so, and tries again."""
        pause = FIRST
        while True:
            await self._clock.sleep(pause)
            pause = PAUSE * self._uniform(1 - JITTER, 1 + JITTER)
            try:
                await self.look()
            except IsthmusError as error:
                self._log.warning("pods without a sidecar not looked for", error=str(error))

    async def look(self) -> None:
        """One round. Raises as Api.ask."""
        found = {metadata.key: metadata.about() async for metadata in self._candidates()}
        self._seen = {key: told for key, told in self._seen.items() if key in found}
        for key in [key for key in found if key not in self._seen][:MOST]:
            self._seen[key] = -inf if await self._wants(found[key]) else None
        wanting = sorted((told, key) for key, told in self._seen.items() if told is not None)
        for _, key in wanting[:TOLD]:
            self._events.tell(Tale(found[key], MISSING, TEXT))
            self._seen[key] = self._clock.monotonic()
        self.count = len(wanting)

    async def _candidates(self) -> AsyncIterator[_Metadata]:
        """The pods that opted in, themselves or by their namespace, and have no annotation of ours."""
        async for metadata in self._pods(f"/api/v1/pods?labelSelector={_SELECTOR}&"):
            yield metadata
        namespaces = [one.name async for one in self._list(f"/api/v1/namespaces?labelSelector={_SELECTOR}&")]
        for name in namespaces:
            if name not in (*NEVER, self._own):
                async for metadata in self._pods(f"/api/v1/namespaces/{quote(name, safe='')}/pods?"):
                    yield metadata

    async def _pods(self, path: str) -> AsyncIterator[_Metadata]:
        async for metadata in self._list(f"{path}fieldSelector={_RUNNING}&"):
            if metadata.open:
                yield metadata

    async def _list(self, path: str) -> AsyncIterator[_Metadata]:
        """All of them, page by page; `path` ends where another parameter can begin."""
        token = ""
        while True:
            more = f"&continue={quote(token, safe='')}" if token else ""
            page = await self._api.ask("GET", f"{path}limit={PAGE}{more}", accept=METADATA, form=_Page)
            for item in page.items or ():
                yield item.metadata
            token = page.metadata.token
            if not token:
                return

    async def _wants(self, about: Mapping[str, str]) -> bool:
        namespace, name = about["namespace"], about["name"]
        try:
            path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"
            pod: Mapping[str, Any] = await self._api.ask("GET", path)
            return not left_alone(pod, namespace, self._own)
        except NotFound:
            return False
        except IsthmusError as error:
            if error.error_code == "annotation_invalid":  # admitted while nobody looked at it
                return True
            raise
