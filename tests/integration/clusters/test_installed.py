"""When what is installed in a cluster of containers counts as ready, by a real API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clusters.kind.installation import LABEL, wait_ready
from clusters.waiting import until
from federation.errors import TimedOut

pytestmark = pytest.mark.integration


async def test_pods_of_isthmus_are_waited_for(kube_clusters: Any, kube_namespace: str) -> None:
    cluster = kube_clusters[0]

    def waiting(seconds: float) -> Any:
        return wait_ready(cluster.kubeconfig, namespace=kube_namespace, seconds=seconds)

    await waiting(30)  # nothing is installed
    async with cluster.connect() as client:

        async def put(name: str, replicas: int, ready: int, **labels: str) -> None:
            selected = {"app": name}
            template = {"metadata": {"labels": selected}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
            metadata = {"name": name, "namespace": kube_namespace, "labels": {"app": name, **labels}}
            spec = {"replicas": replicas, "selector": {"matchLabels": selected}, "template": template}
            (held,) = await client.apply(
                {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
            )
            status = {"observedGeneration": held["metadata"]["generation"], "replicas": ready, "readyReplicas": ready}
            where = ("apps/v1", "Deployment", name, kube_namespace)
            await client.patch(*where, merge={"status": status}, subresource="status")

        await put("isthmus-agent", 2, 1, **{LABEL: "agent"})
        await put("isthmus-injector", 0, 0, **{LABEL: "injector"})
        await put("another", 1, 0)

        async def named() -> bool:
            """On a machine that stands still there may be no look in that second."""
            with pytest.raises(TimedOut, match="not ready after 1 s: ") as caught:
                await waiting(1)
            assert caught.value.error_code == "not_ready"
            return ": isthmus-agent (" in str(caught.value)

        await until(named, what="the name of what is not ready")
        task = asyncio.create_task(waiting(60), name="waiting")
        await put("isthmus-agent", 2, 2, **{LABEL: "agent"})
        await task
