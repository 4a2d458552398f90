"""CoreDNS of a kind cluster takes up a changed Corefile in all of its pods: by itself each does when it likes."""

from __future__ import annotations

import time

from clusters.kubeclient import KubeClient

_NAMESPACE, _NAME, _LABEL = "kube-system", "coredns", "k8s-app=kube-dns"
_SECONDS = 240.0
"""For pods to start: a kubelet shares its cores with many."""


async def renew(client: KubeClient) -> None:
    """Replace the pods, one after the other, and wait until none of the old ones is left."""
    stamp = {"isthmus-harness/renewed": str(time.monotonic_ns())}
    merge = {"spec": {"template": {"metadata": {"annotations": stamp}}}}
    await client.patch("apps/v1", "Deployment", _NAME, _NAMESPACE, merge=merge)

    async def renewed() -> bool:
        pods = await client.list("v1", "Pod", _NAMESPACE, labelSelector=_LABEL)
        wanted = (await client.get("apps/v1", "Deployment", _NAME, _NAMESPACE))["spec"]["replicas"]
        return len(pods) == wanted and all(
            (pod["metadata"].get("annotations") or {}).items() >= stamp.items()
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
            for pod in pods
        )

    await client.until(renewed, timeout=_SECONDS, what="the new pods of CoreDNS")
