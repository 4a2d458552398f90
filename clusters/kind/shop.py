"""Workloads in kind clusters: services that say who answered, and pods that call them all the while.

They run from the image that is installed, and their code comes by a ConfigMap: no second image has to be brought to the
nodes. What a pod calls goes by its sidecar unless told otherwise; an offered service has none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clusters
from clusters import caller
from clusters.kind.harness import KindHarness
from clusters.kind.installation import LABEL
from clusters.kubeclient import KubeClient, Object, connect
from clusters.load import Outcome
from clusters.waiting import START, until
from federation import __version__
from federation.errors import InvalidInput, NotFound, TimedOut, Unavailable
from federation.model.ids import SYSTEM_NAMESPACE

IMAGE = f"isthmus:{__version__}"
CODE = ("__init__.py", "caller.py", "load.py", "waiting.py", "workloads.py")
"""The modules of `clusters` that the workloads are made of; what else they import is in the image."""
FOLDER = "/workloads"
PORT = 8080
MCS = "multicluster.x-k8s.io/v1beta1"
_PODS = 240.0
"""Seconds for pods to start, and for a namespace to go: a kubelet shares its cores with many."""


@dataclass(frozen=True, slots=True)
class Calls:
    """What a calling pod has sent."""

    shop: Shop
    cluster: str
    pod: str

    async def outcomes(self) -> list[Outcome]:
        """All of them so far; raises Unavailable while the pod's log cannot be read."""
        async with self.shop.connect(self.cluster) as client:
            path = f"/api/v1/namespaces/{self.shop.namespace}/pods/{self.pod}/log"
            text = await client.request("GET", path, query={"container": "caller"})
        return caller.parse(str(text))

    async def answered_by(self, *clusters: str, number: int = 20, seconds: float = START) -> list[Outcome]:
        """Wait until the last `number` requests, all begun after this call, were answered by one of `clusters`.

        Returns the outcomes of all that were sent meanwhile.
        """
        began = time.monotonic()
        seen: list[Outcome] = []

        async def settled() -> bool:
            nonlocal seen
            seen = [o for o in await self.outcomes() if o.begin > began]
            await asyncio.sleep(0.2)
            last = seen[-number:]
            return len(last) == number and all(o.cluster in clusters for o in last)

        try:
            await until(settled, seconds=seconds, what=f"{number} answers on end of {' or '.join(clusters)}")
        except TimedOut as error:
            raise TimedOut(f"{error.message}; the last ones: {seen[-3:]}") from error
        return seen

    async def lost(self) -> list[Outcome]:
        """Those that failed after the first answer; before it the pod's names may not be known yet."""
        sent = await self.outcomes()
        first = next((i for i, o in enumerate(sent) if not o.error), len(sent))
        return [o for o in sent[first:] if o.error]

    async def since(self, moment: float) -> list[Outcome]:
        """Of what was begun after `moment` (monotonic), everything that has ended."""
        return [o for o in await self.outcomes() if o.begin > moment]


class Shop:
    """One namespace in all clusters of a harness."""

    def __init__(self, harness: KindHarness, namespace: str) -> None:
        self._harness, self.namespace = harness, namespace

    def connect(self, cluster: str) -> Any:
        """A client as the administrator of the cluster."""
        return connect(self._harness.folder.kubeconfig(cluster))

    def name(self, service: str, cluster: str = "") -> str:
        """The global name of a service, of any cluster or of one."""
        return ".".join(filter(None, (service, self.namespace, cluster, "global")))

    async def open(self) -> None:
        """Make the namespace, and put the code of the workloads there."""
        code = {path.name: path.read_text() for path in (Path(clusters.__file__).with_name(name) for name in CODE)}
        metadata = {"name": "workloads", "namespace": self.namespace}
        for cluster in self._harness.topology.names:
            async with self.connect(cluster) as client:
                await client.apply(
                    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}},
                    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": code},
                )

    async def close(self) -> None:
        """Remove the namespace with all that is in it, everywhere, and wait until it is gone."""
        for cluster in self._harness.topology.names:
            async with self.connect(cluster) as client:
                try:
                    await client.delete("v1", "Namespace", self.namespace)
                except NotFound:
                    continue
        for cluster in self._harness.topology.names:
            async with self.connect(cluster) as client:
                await client.gone("v1", "Namespace", self.namespace, timeout=_PODS)

    async def offer(self, cluster: str, service: str, *, replicas: int = 1, export: bool = True) -> None:
        """A Deployment, its Service and, if wanted, its ServiceExport; returns when its pods are ready."""
        metadata = {"name": service, "namespace": self.namespace}
        port = {"name": "http", "port": PORT, "appProtocol": "http"}
        words = ["clusters.workloads", "http", "--cluster", cluster, "--address", "0.0.0.0", "--port", str(PORT)]
        container = {
            **_container("echo", words),
            "ports": [{"containerPort": PORT}],
            "readinessProbe": {"httpGet": {"port": PORT}, "periodSeconds": 1, "timeoutSeconds": 10},
        }
        labels = {"app": service}
        objects: list[Object | str] = [
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": metadata,
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": _pod(container),
                    },
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": {"selector": labels, "ports": [port]},
            },
        ]
        if export:
            objects.append({"apiVersion": MCS, "kind": "ServiceExport", "metadata": metadata})
        async with self.connect(cluster) as client:
            await client.apply(*objects)

            async def ready() -> bool:
                there = await client.get("apps/v1", "Deployment", service, self.namespace)
                return bool(there["status"].get("readyReplicas", 0) == replicas)

            await client.until(ready, timeout=_PODS, what=f"{replicas} ready pods of {service} in {cluster}")

    async def unexport(self, cluster: str, service: str) -> None:
        async with self.connect(cluster) as client:
            await client.delete(MCS, "ServiceExport", service, self.namespace)

    async def scale(self, cluster: str, service: str, replicas: int) -> None:
        """Without waiting."""
        async with self.connect(cluster) as client:
            await client.patch("apps/v1", "Deployment", service, self.namespace, merge={"spec": {"replicas": replicas}})

    @asynccontextmanager
    async def calling(
        self,
        cluster: str,
        name: str,
        *,
        way: str = "redirect",
        clients: int = 2,
        rate: float = 10.0,
        timeout: float = 15.0,
    ) -> AsyncIterator[Calls]:
        """A pod in `cluster` that calls `name`; `way`: of its sidecar. It is there until the block ends."""
        words = ["clusters.caller", name, "--port", str(PORT), "--clients", str(clients)]
        words += ["--rate", str(rate), "--timeout", str(timeout)]
        pod = f"caller-{name.replace('.', '-')}"[:60].rstrip("-")
        async with self.connect(cluster) as client:
            await client.apply(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "name": pod,
                        "namespace": self.namespace,
                        "labels": {"app": "caller", "isthmus.io/inject": "enabled"},
                        "annotations": {"isthmus.io/way": way},
                    },
                    "spec": _pod(_container("caller", words)),
                }
            )
            try:
                await client.until(lambda: _running(client, pod, self.namespace), timeout=_PODS, what=f"the pod {pod}")
                yield Calls(self, cluster, pod)
            finally:
                await client.delete("v1", "Pod", pod, self.namespace)

    async def condition(self, cluster: str, service: str, kind: str) -> tuple[str, str, str]:
        """Status, reason and message of a condition of the ServiceExport; empty while it has none."""
        async with self.connect(cluster) as client:
            export = await client.get(MCS, "ServiceExport", service, self.namespace)
        held = export.get("status", {}).get("conditions", [])
        return next(((c["status"], c["reason"], c["message"]) for c in held if c["type"] == kind), ("", "", ""))

    async def addresses(self, cluster: str, service: str = "") -> set[str]:
        """Of the pods of an offered service; without one of all pods of the cluster but those in its nodes' network."""
        where = {"namespace": self.namespace, "labelSelector": f"app={service}"} if service else {}
        async with self.connect(cluster) as client:
            pods = await client.list("v1", "Pod", **where)
        return {
            pod["status"]["podIP"] for pod in pods if pod["status"].get("podIP") and not pod["spec"].get("hostNetwork")
        }

    async def imported_addresses(self, cluster: str, service: str) -> set[str]:
        """To which calls of the imported service are led, as its EndpointSlices say."""
        async with self.connect(cluster) as client:
            slices = await client.list("discovery.k8s.io/v1", "EndpointSlice", self.namespace)
        return {
            address
            for one in slices
            if one["metadata"].get("labels", {}).get("multicluster.kubernetes.io/service-name") == service
            for endpoint in one.get("endpoints") or ()
            for address in endpoint["addresses"]
        }

    async def gateways(self, cluster: str) -> set[str]:
        """The addresses of the cluster's gateways in it."""
        async with self.connect(cluster) as client:
            pods = await client.list("v1", "Pod", SYSTEM_NAMESPACE, labelSelector=f"{LABEL}=gateway")
        return {pod["status"]["podIP"] for pod in pods}


async def _running(client: KubeClient, pod: str, namespace: str) -> bool:
    """Raises Unavailable, which tells why it does not run yet."""
    status = (await client.get("v1", "Pod", pod, namespace))["status"]
    if status["phase"] == "Failed":
        raise InvalidInput(f"the pod {pod} has failed: {status.get('message', '')}")
    if status["phase"] != "Running":
        raise Unavailable(f"{pod} is {status['phase']}: {status.get('conditions')}")
    return True


def _pod(container: Object) -> Object:
    code = {"name": "workloads", "configMap": {"name": "workloads"}}
    return {"containers": [container], "volumes": [code], "terminationGracePeriodSeconds": 1}


def _container(name: str, words: list[str]) -> Object:
    return {
        "name": name,
        "image": IMAGE,
        "command": ["python3", "-m", *words],
        "env": [{"name": "PYTHONPATH", "value": FOLDER}],
        "volumeMounts": [{"name": "workloads", "mountPath": f"{FOLDER}/clusters"}],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    }
