"""Events about pods that went without a sidecar, or got another one than was asked for: `kubectl describe` shows them.

An Event stands at what makes the pod (a ReplicaSet, a Job …), because a pod that is being created has no identity yet.
Telling never holds up an answer: what is to be told waits in a bounded queue.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from federation.aio.clock import Clock
from federation.errors import AlreadyExists, IsthmusError
from federation.log import Logger
from sidecar.injector.admission import Answer, Outcome
from sidecar.injector.api import Api

SOURCE = "isthmus-injector"
MOST = 100
AGAIN = 300.0
"""Seconds until the same is told once more of the same object."""
MISSING = "SidecarMissing"
_REASONS = {Outcome.FAILED: MISSING, Outcome.INJECTED: "SidecarInjected"}


@dataclass(frozen=True, slots=True)
class Tale:
    """One Event to be. `about`: involvedObject."""

    about: Mapping[str, str]
    reason: str
    message: str


class Events:
    """`tell`, and `run` writes."""

    def __init__(self, api: Api, *, clock: Clock, log: Logger) -> None:
        self.dropped = 0
        self._api, self._clock, self._log = api, clock, log
        self._queue: asyncio.Queue[Tale] = asyncio.Queue(MOST)
        self._told: dict[tuple[str, ...], float] = {}

    def answered(self, answer: Answer) -> None:
        """What is worth telling of an answer."""
        for text in answer.told:
            self.tell(Tale(about(answer.pod, answer.namespace), _REASONS[answer.outcome], text))

    def tell(self, tale: Tale) -> None:
        """Not again for some minutes; nor where too much waits, which is counted."""
        now = self._clock.monotonic()
        self._told = {key: when for key, when in self._told.items() if now - when < AGAIN}
        key = (*tale.about.values(), tale.reason, tale.message)
        if key in self._told:
            return
        try:
            self._queue.put_nowait(tale)
        except asyncio.QueueFull:
            self.dropped += 1
            return
        self._told[key] = now

    async def run(self) -> None:
        """For ever; what cannot be written is logged, and that is its end."""
        while True:
            tale = await self._queue.get()
            try:
                await self._write(tale)
            except AlreadyExists:
                pass  # another replica was faster
            except IsthmusError as error:
                self._log.warning(
                    "event not written", about=tale.about.get("name"), text=tale.message, error=str(error)
                )

    async def _write(self, tale: Tale) -> None:
        namespace = tale.about["namespace"]
        now = datetime.fromtimestamp(self._clock.wall_ns() / 1e9, UTC)
        await self._api.ask("POST", f"/api/v1/namespaces/{quote(namespace, safe='')}/events", event(tale, now))


def event(tale: Tale, now: datetime) -> dict[str, Any]:
    """The Event (core/v1). Its name is that of what it tells, so that several replicas tell it once."""
    text = "\n".join((*tale.about.values(), tale.reason, tale.message, str(int(now.timestamp() // AGAIN))))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{tale.about['name'][:230].rstrip('-.')}.{digest}", "namespace": tale.about["namespace"]},
        "involvedObject": dict(tale.about),
        "reason": tale.reason,
        "message": tale.message[:1000],
        "type": "Warning",
        "source": {"component": SOURCE},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


def about(pod: Mapping[str, Any], namespace: str) -> dict[str, str]:
    """What the Event of a pod stands at: its controller; or the pod, by as much of its name as is known."""
    metadata = pod.get("metadata") or {}
    for owner in metadata.get("ownerReferences") or []:
        if owner.get("controller"):
            known = {key: str(owner[key]) for key in ("apiVersion", "kind", "name", "uid") if owner.get(key)}
            if "name" in known:
                return {**known, "namespace": namespace}
    name = str(metadata.get("name") or metadata.get("generateName") or "pod")
    uid = {"uid": str(metadata["uid"])} if metadata.get("uid") else {}
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "namespace": namespace, **uid}
