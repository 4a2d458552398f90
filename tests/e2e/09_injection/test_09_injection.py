"""The story of injected pods: a workload that listens everywhere, at the very port of another cluster's service, and
calls that service, whichever of its containers restarts first.
"""

from __future__ import annotations

from typing import Any

import pytest

from clusters.kind import engine
from clusters.kind.operator import Operator
from clusters.kind.shop import CALLER, PODS, PORT, Shop, Way, pod_spec, workload
from clusters.kubeclient import Object
from clusters.pytest_plugin import Clusters
from clusters.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.clusters("two-kind", installed=True)]

EAST, WEST = "east", "west"
SIDECAR = "isthmus-sidecar"
_STOP = """
crictl --timeout 60s ps --quiet --name "^$1$" --label io.kubernetes.pod.namespace="$2" |
xargs -r crictl --timeout 60s stop --timeout 0
"""
STRICT = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What Pod Security `restricted` asks of a container."""
_BOTH = """
import os, subprocess, sys
serve, call = (["python3", *words.split()] for words in sys.argv[1:])
subprocess.Popen(serve, stdout=subprocess.DEVNULL)
os.execvp(call[0], call)
"""


def pod(shop: Shop, way: Way) -> Object:
    """One container that listens at the port of the service that it calls; its namespace says that it is injected.

    The loopback way is that of a namespace that lets it have no other: nothing is said of it.
    """
    serve = f"-m clusters.workloads http --cluster own --address 0.0.0.0 --port {PORT}"
    call = f"-m clusters.caller {shop.name('echo')} --port {PORT} --timeout 30"
    container = {
        **workload(CALLER, [serve, call], command=["python3", "-c", _BOTH]),  # the image has no shell
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1, "timeoutSeconds": 10},
    }
    metadata: Object = {"name": CALLER, "namespace": shop.namespace}
    if way == "loopback":
        container["securityContext"] = STRICT
    else:
        metadata["annotations"] = {"isthmus.io/way": way}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec(container)}


@pytest.mark.parametrize("way", ["redirect", "loopback", "gateway"])
async def test_the_very_port_of_a_remote_service_is_free_for_the_workload(
    clusters: Clusters, shop: Shop, operator: Operator, way: Way
) -> None:
    await operator.serve_names(EAST)
    await shop.offer(WEST, "echo")
    await shop.imported(EAST, "echo")
    wanted = pod(shop, way)
    node = f"{(await clusters.harness.wanted())[EAST].name}-control-plane"
    async with shop.connect(EAST) as client:
        level = "restricted" if way == "loopback" else "privileged"
        merge = {"metadata": {"labels": {"isthmus.io/inject": "enabled", "pod-security.kubernetes.io/enforce": level}}}
        await client.patch("v1", "Namespace", shop.namespace, merge=merge)
        await client.until(lambda: client.apply(wanted), what="the pod")

        async def seen() -> Any:
            return await client.get("v1", "Pod", CALLER, shop.namespace)

        async def ready(restarts: dict[str, int]) -> bool:
            status = (await seen()).get("status", {})
            states = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
            known = {state["name"]: state for state in states}
            return all(
                name in known and known[name]["ready"] and known[name]["restartCount"] >= number
                for name, number in restarts.items()
            )

        async def settles(restarts: dict[str, int], what: str) -> None:
            await until(lambda: ready(restarts), seconds=PODS, what=what)

        async def stop(container: str) -> None:
            await engine.execute(node, "sh", "-c", _STOP, "stop", container, shop.namespace)

        containers = [CALLER] if way == "gateway" else [SIDECAR, CALLER]
        calls = shop.calls_of(client, CALLER)
        # 1. it is injected, listens, and west answers what it calls
        await settles(dict.fromkeys(containers, 0), "the pod with its sidecar")
        injected = {one["name"] for one in (await seen())["spec"].get("initContainers", ())}
        assert injected == {"redirect": {"isthmus-redirect", SIDECAR}, "loopback": {SIDECAR}, "gateway": set()}[way]
        await calls.answered_by(WEST)
        # 2. each of its containers restarts, in either order
        for order in (containers, containers[::-1])[: len(containers)]:
            before = {one: await restarts_of(seen, one) for one in order}
            for one in order:
                await stop(one)
                await settles({one: before[one] + 1}, f"{one} after its restart")
            await settles(dict.fromkeys(containers, 0), "all of the pod")
            await calls.answered_by(WEST)
        # 3. its own port is its own: who asks it there hears it, not the service
        ip = (await seen())["status"]["podIP"]
        said = await engine.execute(node, "curl", "-s", "--max-time", "10", f"http://{ip}:{PORT}/")
        assert "own" in said
        await client.delete("v1", "Pod", CALLER, shop.namespace)
        await client.gone("v1", "Pod", CALLER, shop.namespace)


async def restarts_of(seen: Any, container: str) -> int:
    """How often it was started again."""
    status = (await seen())["status"]
    states = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    return next(int(state["restartCount"]) for state in states if state["name"] == container)
