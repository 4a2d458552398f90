"""Workloads in kind clusters: services that say who answered, and pods that call them all the while.

They run from the image that is installed, and their code comes by a ConfigMap: no second image has to be brought to the
nodes. An offered service has no sidecar. A calling pod is one that nobody injected, or goes one of the ways of
docs/injection.md.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import clusters
from clusters.kind.calls import Calls
from clusters.kind.harness import KindHarness
from clusters.kind.installation import LABEL
from clusters.kind.requester import Requester
from clusters.kubeclient import KubeClient, Object, connect
from clusters.together import finish_together
from clusters.waiting import START
from federation import __version__
from federation.errors import InvalidInput, NotFound, Unavailable
from federation.model.ids import SYSTEM_NAMESPACE

IMAGE = f"isthmus:{__version__}"
CODE = ("__init__.py", "caller.py", "load.py", "names.py", "requester.py", "waiting.py", "workloads.py")
"""The modules of `clusters` that the workloads are made of; what else they import is in the image."""
FOLDER = "/workloads"
PORT, LISTEN = 80, 8080
"""Of a service, and of its pods."""
READY_BY = {"http": "httpGet", "tcp": "tcpSocket"}
"""How a kubelet sees that a workload is ready."""
MCS = "multicluster.x-k8s.io/v1beta1"
CALLER = "caller"
"""The container that calls."""
PODS = 240.0
"""Seconds for pods to start, and for a namespace to go: a kubelet shares its cores with many."""

Way = Literal["", "redirect", "loopback", "gateway"]
"""How a pod's calls are caught; empty: nobody has touched it."""


class Shop:
    """One namespace in all clusters of a harness."""

    def __init__(self, harness: KindHarness, namespace: str) -> None:
        self._harness, self.namespace = harness, namespace
        self._numbers = itertools.count(1)

    def connect(self, cluster: str) -> Any:
        """A client as the administrator of the cluster."""
        return connect(self._harness.folder.kubeconfig(cluster))

    def name(self, service: str, cluster: str = "") -> str:
        """The global name of a service, of any cluster or of one."""
        return ".".join(filter(None, (service, self.namespace, cluster, "global")))

    def clusterset(self, service: str) -> str:
        """Its name by the Multi-Cluster Services API."""
        return f"{service}.{self.namespace}.svc.clusterset.local"

    async def open(self) -> None:
        """Make the namespace, and put the code of the workloads there."""
        await finish_together({f"open-{name}": self._open(name) for name in self._harness.topology.names})

    async def _open(self, cluster: str) -> None:
        metadata = {"name": "workloads", "namespace": self.namespace}
        async with self.connect(cluster) as client:
            await client.apply(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}},
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": code()},
            )
            # Without it no pod is admitted; it comes a moment after the namespace.
            account = partial(client.get, "v1", "ServiceAccount", "default", self.namespace)
            await client.until(account, what=f"the service account of {self.namespace} in {cluster}")

    async def close(self) -> None:
        """Remove the namespace with all that is in it, everywhere, and wait until it is gone."""
        await finish_together({f"close-{name}": self._close(name) for name in self._harness.topology.names})

    async def _close(self, cluster: str) -> None:
        async with self.connect(cluster) as client:
            try:
                await client.delete("v1", "Namespace", self.namespace)
            except NotFound:
                return
            # Nobody calls any more: the pods need not wait for late calls.
            path = f"/api/v1/namespaces/{self.namespace}/pods"
            await client.request("DELETE", path, {"gracePeriodSeconds": 1})
            await client.gone("v1", "Namespace", self.namespace, timeout=PODS)

    # --- services ----------------------------------------------------------------------------------------------------

    async def offer(
        self, cluster: str, service: str, *, replicas: int = 1, export: bool = True, app: str = "http"
    ) -> None:
        """A Deployment, its Service and, if wanted, its ServiceExport; returns when its pods are ready.

        `app`: "http" or "tcp", as of an Offer.
        """
        metadata = {"name": service, "namespace": self.namespace}
        objects = offered(metadata, cluster, replicas, app)
        if export:
            objects.append({"apiVersion": MCS, "kind": "ServiceExport", "metadata": metadata})
        async with self.connect(cluster) as client:
            await client.apply(*objects)
        await self.scaled(cluster, service, replicas)

    async def unexport(self, cluster: str, service: str) -> None:
        async with self.connect(cluster) as client:
            await client.delete(MCS, "ServiceExport", service, self.namespace)

    async def scale(self, cluster: str, service: str, replicas: int) -> None:
        """Without waiting."""
        async with self.connect(cluster) as client:
            await client.patch("apps/v1", "Deployment", service, self.namespace, merge={"spec": {"replicas": replicas}})

    async def scaled(self, cluster: str, service: str, replicas: int) -> None:
        """Wait until so many pods are ready, and no others there but such as are ending."""
        async with self.connect(cluster) as client:

            async def there() -> bool:
                found = await client.get("apps/v1", "Deployment", service, self.namespace)
                status = found.get("status", {})
                return bool(status.get("replicas", 0) == status.get("readyReplicas", 0) == replicas)

            await client.until(there, timeout=PODS, what=f"{replicas} ready pods of {service} in {cluster}")

    async def imported(self, cluster: str, service: str, *, wanted: bool = True) -> None:
        """Wait until the cluster has the import, or has it no more."""
        async with self.connect(cluster) as client:

            async def told() -> bool:
                found = await client.list(MCS, "ServiceImport", self.namespace)
                return any(one["metadata"]["name"] == service for one in found) == wanted

            what = f"the {'' if wanted else 'end of the '}import of {service} in {cluster}"
            await client.until(told, timeout=START, what=what)

    # --- calls -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def calling(
        self,
        cluster: str,
        name: str,
        *,
        way: Way = "",
        clients: int = 2,
        rate: float = 10.0,
        timeout: float = 15.0,
    ) -> AsyncIterator[Calls]:
        """A pod in `cluster` that calls `name` until the block ends; `timeout`: seconds that it waits for an answer."""
        words = ["clusters.caller", name, "--port", str(PORT), "--clients", str(clients)]
        words += ["--rate", str(rate), "--timeout", str(timeout)]
        pod = f"{CALLER}-{next(self._numbers)}-{name.replace('.', '-')}"[:60].rstrip("-")
        async with self.connect(cluster) as client:
            await client.apply(caller_pod({"name": pod, "namespace": self.namespace}, words, way))
            try:
                await client.until(partial(_running, client, pod, self.namespace), timeout=PODS, what=f"the pod {pod}")
                yield self.calls_of(client, pod)
            finally:
                await client.delete("v1", "Pod", pod, self.namespace)

    @asynccontextmanager
    async def requester(self, cluster: str) -> AsyncIterator[Requester]:
        """A pod that nobody touched, and that looks up and calls what it is told to, until the block ends."""
        name = f"requester-{next(self._numbers)}"
        container = {
            **workload("requester", ["clusters.requester", "--port", str(LISTEN)]),
            "readinessProbe": {"tcpSocket": {"port": LISTEN}, "periodSeconds": 1, "timeoutSeconds": 10},
        }
        metadata = {"name": name, "namespace": self.namespace}
        async with self.connect(cluster) as client:
            await client.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec(container)})
            try:
                await client.until(partial(_ready, client, name, self.namespace), timeout=PODS, what=f"the pod {name}")
                yield Requester(client, cluster, self.namespace, name, LISTEN)
            finally:
                await client.delete("v1", "Pod", name, self.namespace)

    def calls_of(self, client: KubeClient, pod: str) -> Calls:
        """What the container `CALLER` of a pod has sent."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"

        async def read() -> str:
            return str(await client.request("GET", path, query={"container": CALLER}))

        return Calls(read)

    # --- what is seen ------------------------------------------------------------------------------------------------

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


async def _ready(client: KubeClient, pod: str, namespace: str) -> bool:
    status = (await client.get("v1", "Pod", pod, namespace))["status"]
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))


# --- objects ---------------------------------------------------------------------------------------------------------


def code(modules: Iterable[str] = CODE) -> dict[str, str]:
    """The workloads as the ConfigMap `workloads` has them."""
    folder = Path(clusters.__file__).parent
    return {name: (folder / name).read_text() for name in modules}


def offered(metadata: Object, cluster: str, replicas: int, app: str = "http") -> list[Object | str]:
    """The Deployment and the Service of HTTP or TCP workloads of `cluster`, which say so."""
    labels = {"app": metadata["name"]}
    words = ["clusters.workloads", app, "--cluster", cluster, "--address", "0.0.0.0", "--port", str(LISTEN)]
    container = {
        **workload("echo", words),
        "ports": [{"containerPort": LISTEN}],
        "readinessProbe": {READY_BY[app]: {"port": LISTEN}, "periodSeconds": 1, "timeoutSeconds": 10},
        # A call that kube-proxy has sent here just before it heard of the end is still answered.
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
    }
    template = {"metadata": {"labels": labels}, "spec": {**pod_spec(container), "terminationGracePeriodSeconds": 7}}
    deployment = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    port = {"name": app, "port": PORT, "targetPort": LISTEN, "appProtocol": app}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": labels, "ports": [port]}},
    ]


def caller_pod(metadata: Object, words: Sequence[str], way: Way) -> Object:
    """A pod whose container `CALLER` runs `words`, and that is injected for any `way` but an empty one."""
    extra: Object = {}
    if way:
        extra = {"labels": {"isthmus.io/inject": "enabled"}, "annotations": {"isthmus.io/way": way}}
    spec = pod_spec(workload(CALLER, words))
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, **extra}, "spec": spec}


def pod_spec(container: Object) -> Object:
    """Of a pod that has this container (see `workload`), and the code that it runs."""
    volume = {"name": "workloads", "configMap": {"name": "workloads"}}
    return {"containers": [container], "volumes": [volume], "terminationGracePeriodSeconds": 1}


def workload(name: str, words: Sequence[str], *, command: Sequence[str] = ("python3", "-m")) -> Object:
    """A container that runs a module of `CODE` with arguments."""
    return {
        "name": name,
        "image": IMAGE,
        "command": [*command, *words],
        "env": [{"name": "PYTHONPATH", "value": FOLDER}],
        "volumeMounts": [{"name": "workloads", "mountPath": f"{FOLDER}/clusters"}],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    }
