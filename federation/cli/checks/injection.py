"""Pods that asked for a sidecar and have none, for `fedctl check`: it tells also while no injector runs that could."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.resources import NAMESPACES, Resource
from federation.errors import InvalidInput
from sidecar.injector.inject import NEVER, left_alone
from sidecar.injector.options import DISABLED, ENABLED, INJECT, INJECTED

_PODS = Resource("", "v1", "pods", "Pod")
_SELECTOR = f"{INJECT} in ({','.join(ENABLED)})"


async def uninjected(client: KubeClient, own_namespace: str) -> tuple[str, ...]:
    """NAMESPACE/NAME of each, in order. Raises what the API server refuses."""
    found = {_name(pod) async for pod in _opted_in(client, own_namespace) if lacks(pod, own_namespace)}
    return tuple(sorted(found))


def lacks(pod: Mapping[str, Any], own_namespace: str) -> bool:
    """Whether a pod, or its namespace, asked for a sidecar that it does not have."""
    metadata = pod.get("metadata") or {}
    if INJECTED in (metadata.get("annotations") or {}) or metadata.get("deletionTimestamp"):
        return False
    if (metadata.get("labels") or {}).get(INJECT) in DISABLED:
        return False
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return False
    try:
        return not left_alone(pod, str(metadata.get("namespace")), own_namespace)
    except InvalidInput:  # admitted while nobody looked at its label
        return True


async def _opted_in(client: KubeClient, own_namespace: str) -> AsyncIterator[Mapping[str, Any]]:
    async for page in client.pages(_PODS, label_selector=_SELECTOR):
        for raw in page.items:
            yield msgspec.json.decode(raw)
    async for names in client.pages(NAMESPACES, label_selector=_SELECTOR):
        for one in names.items:
            name = msgspec.json.decode(one)["metadata"]["name"]
            if name in (*NEVER, own_namespace):
                continue
            async for page in client.pages(_PODS, namespace=name):
                for raw in page.items:
                    yield msgspec.json.decode(raw)


def _name(pod: Mapping[str, Any]) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
