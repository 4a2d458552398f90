"""Finds pods that want a sidecar and have none, because no injector answered when they were created.

With failurePolicy Ignore the API server admits such a pod and tells nobody; so we look afterwards, and tell it by an
Event at the pod. It is not changed: a pod gets its containers when it is created, or never.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from federation.aio.clock import Clock
from federation.errors import IsthmusError, NotFound
from federation.log import Logger
from sidecar.injector.api import METADATA, Api
from sidecar.injector.events import MISSING, Events, Tale
from sidecar.injector.inject import NEVER, left_alone
from sidecar.injector.options import DISABLED, ENABLED, INJECT, INJECTED

FIRST, PAUSE = 5.0, 60.0
MOST = 200
"""Pods that are looked at in one round."""
TEXT = (
    "it has no sidecar: no injector answered when it was created, or its namespace asked for one later; "
    "create it anew, as `kubectl rollout restart` does"
)
_SELECTOR = quote(f"{INJECT} in ({','.join(ENABLED)})")


class Missed:
    """Looks, round after round. `count`: those that were found last."""

    def __init__(self, api: Api, events: Events, own_namespace: str, *, clock: Clock, log: Logger) -> None:
        self.count = 0
        self._api, self._events, self._own = api, events, own_namespace
        self._clock, self._log = clock, log
        self._fine: set[str] = set()  # uids of pods that need nothing after all

    async def run(self) -> None:
        """For ever. Where it may not list, it says so, and tries again."""
        pause = FIRST
        while True:
            await self._clock.sleep(pause)
            pause = PAUSE
            try:
                await self.look()
            except IsthmusError as error:
                self._log.warning("pods without a sidecar not looked for", error=str(error))

    async def look(self) -> None:
        """One round. Raises as Api.ask."""
        found = {}
        for metadata in await self._candidates():
            found[str(metadata.get("uid"))] = metadata
        self._fine &= found.keys()
        count = 0
        for uid, metadata in [(u, m) for u, m in found.items() if u not in self._fine][:MOST]:
            if await self._wants(metadata):
                count += 1
                self._events.tell(Tale(_about(metadata), MISSING, TEXT))
            else:
                self._fine.add(uid)
        self.count = count

    async def _candidates(self) -> list[Mapping[str, Any]]:
        """Metadata of the pods that opted in, themselves or by their namespace, and have no annotation of ours."""
        namespaces = await self._list(f"/api/v1/namespaces?labelSelector={_SELECTOR}")
        pods = await self._list(f"/api/v1/pods?labelSelector={_SELECTOR}")
        for namespace in namespaces:
            name = str(namespace.get("name"))
            if name not in (*NEVER, self._own):
                pods += await self._list(f"/api/v1/namespaces/{quote(name, safe='')}/pods")
        return [metadata for metadata in pods if _open(metadata)]

    async def _list(self, path: str) -> list[Mapping[str, Any]]:
        listed = await self._api.ask("GET", path, accept=METADATA)
        return [item.get("metadata") or {} for item in listed.get("items") or []]

    async def _wants(self, metadata: Mapping[str, Any]) -> bool:
        namespace, name = str(metadata.get("namespace")), str(metadata.get("name"))
        try:
            path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}"
            pod = await self._api.ask("GET", path)
            phase = (pod.get("status") or {}).get("phase")
            return phase not in ("Succeeded", "Failed") and not left_alone(pod, namespace, self._own)
        except NotFound:
            return False
        except IsthmusError as error:
            if error.error_code == "annotation_invalid":  # admitted while nobody looked at it
                return True
            raise


def _open(metadata: Mapping[str, Any]) -> bool:
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    return INJECTED not in annotations and labels.get(INJECT) not in DISABLED and not metadata.get("deletionTimestamp")


def _about(metadata: Mapping[str, Any]) -> dict[str, str]:
    known = {key: str(metadata.get(key) or "") for key in ("name", "namespace", "uid")}
    return {"apiVersion": "v1", "kind": "Pod", **known}
