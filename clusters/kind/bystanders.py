"""Pods that nobody injected: services that say which cluster answered, and a pod that calls one of them all the while.

They run the test image in a namespace of their own, in every cluster of a harness. The calling pod's outcomes have the
monotonic time of this machine, which all containers share, so that steps of a story can be told apart.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters import load
from clusters.command import Done, attempt
from clusters.kind import nameservers
from clusters.kind.harness import KindHarness
from clusters.kubeclient import KubeClient, Object, connect
from clusters.load import Outcome
from clusters.waiting import START, until
from federation import __version__
from federation.errors import NotFound, TimedOut, Unavailable

IMAGE = f"isthmus:{__version__}-test"
EXPORT = "multicluster.x-k8s.io/v1beta1"
PORT, LISTEN = 80, 8080
CALLER = "caller"
PODS = 240.0
"""Seconds for pods to start and namespaces to go: a kubelet shares its cores with many."""
_LOOK = 0.3
"""Seconds between looks at a log."""


@dataclass(frozen=True, slots=True)
class Bystanders:
    """The namespace `namespace` in all clusters of `harness`."""

    harness: KindHarness
    namespace: str

    def connect(self, cluster: str) -> Any:
        """A client as the administrator."""
        return connect(self.harness.folder.kubeconfig(cluster))

    def name(self, service: str) -> str:
        """Of the service in every cluster."""
        return f"{service}.{self.namespace}.svc.clusterset.local"

    async def open(self) -> None:
        """Images in every node, names in every CoreDNS, the namespace."""
        await asyncio.to_thread(bring, [w.name for w in (await self.harness.wanted()).values()], "isthmus-test")
        for cluster in self.harness.topology.names:
            await self.ok("install", "dns", *await self.target(cluster))
            async with self.connect(cluster) as client:
                await client.create_namespace(self.namespace)
                await nameservers.renew(client)

    async def close(self) -> None:
        """What `open` did is undone, and everything in the namespace is gone."""
        for cluster in self.harness.topology.names:
            async with self.connect(cluster) as client:
                try:
                    await client.delete("v1", "Namespace", self.namespace)
                except NotFound:
                    continue
        for cluster in self.harness.topology.names:
            async with self.connect(cluster) as client:
                await client.gone("v1", "Namespace", self.namespace, timeout=PODS)
            await self.fedctl("install", "dns", *await self.target(cluster), "--undo")

    # --- fedctl ------------------------------------------------------------------------------------------------------

    async def fedctl(self, *words: str, seconds: float = PODS) -> Done:
        """Run with the contexts of the harness, and `-o json`; whatever comes of it."""
        program = Path(sys.executable).with_name("fedctl")
        return await attempt(program, "--home", self.harness.folder.home, *words, "-o", "json", seconds=seconds)

    async def ok(self, *words: str) -> Any:
        """What it prints; raises Unavailable when it fails."""
        done = await self.fedctl(*words)
        if done.status:
            raise Unavailable(f"fedctl {' '.join(words)}: {done.err.strip() or done.text}")
        return json.loads(done.out)

    async def codes(self) -> set[tuple[str, str]]:
        """What `fedctl status` finds: code and subject."""
        done = await self.fedctl("status")
        return {(f["code"], f["subject"]) for f in json.loads(done.out)["findings"]} if done.out else {("none", "")}

    async def target(self, cluster: str) -> tuple[str, ...]:
        """The options that name the cluster."""
        want = (await self.harness.wanted())[cluster]
        return "--kubeconfig", str(self.harness.folder.kubeconfig(cluster)), "--context", want.context

    # --- services ----------------------------------------------------------------------------------------------------

    async def offer(self, cluster: str, service: str) -> None:
        """A Deployment, its Service and its ServiceExport; returns when its pod is ready."""
        metadata = {"name": service, "namespace": self.namespace}
        words = ["clusters.workloads", "http", "--cluster", cluster, "--address", "0.0.0.0", "--port", str(LISTEN)]
        container = {
            **_container(service, words),
            "readinessProbe": {"tcpSocket": {"port": LISTEN}, "periodSeconds": 1, "timeoutSeconds": 10},
            # A call that kube-proxy has sent here just before it heard of the end is still answered.
            "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        }
        template = {
            "metadata": {"labels": {"app": service}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 7},
        }
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": service}}, "template": template}
        port = {"name": "http", "port": PORT, "targetPort": LISTEN, "appProtocol": "http"}
        async with self.connect(cluster) as client:
            await client.apply(
                {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": metadata,
                    "spec": {"selector": {"app": service}, "ports": [port]},
                },
                {"apiVersion": EXPORT, "kind": "ServiceExport", "metadata": metadata},
            )
        await self.scaled(cluster, service, 1)

    async def scale(self, cluster: str, service: str, replicas: int) -> None:
        """Without waiting."""
        async with self.connect(cluster) as client:
            merge = {"spec": {"replicas": replicas}}
            await client.patch("apps/v1", "Deployment", service, self.namespace, merge=merge)

    async def scaled(self, cluster: str, service: str, replicas: int) -> None:
        """Wait until so many pods are ready, and no others there."""
        async with self.connect(cluster) as client:

            async def there() -> bool:
                found = await client.get("apps/v1", "Deployment", service, self.namespace)
                status = found.get("status", {})
                return status.get("replicas", 0) == status.get("readyReplicas", 0) == replicas

            await client.until(there, timeout=PODS, what=f"{replicas} pods of {service} in {cluster}")

    async def imported(self, cluster: str, service: str, *, wanted: bool) -> None:
        """Wait until the cluster has the import, or has it no more."""
        async with self.connect(cluster) as client:

            async def told() -> bool:
                found = await client.list(EXPORT, "ServiceImport", self.namespace)
                return any(one["metadata"]["name"] == service for one in found) == wanted

            what = f"the {'import' if wanted else 'end of the import'} of {service} in {cluster}"
            await client.until(told, timeout=START, what=what)

    # --- calls -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def calling(self, cluster: str, service: str, *, timeout: float) -> AsyncIterator[Calls]:
        """A pod that calls the service of that name until the block ends; `timeout`: seconds that it waits."""
        words = ["clusters.load", self.name(service), str(PORT), "--timeout", str(timeout)]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": CALLER, "namespace": self.namespace},
            "spec": {"containers": [_container(CALLER, words)], "terminationGracePeriodSeconds": 1},
        }
        async with self.connect(cluster) as client:

            async def created() -> Any:
                return await client.apply(pod)

            await client.until(created, what="the calling pod")  # its service account comes with the namespace
            try:

                async def running() -> bool:
                    return bool(
                        (await client.get("v1", "Pod", CALLER, self.namespace))["status"].get("phase") == "Running"
                    )

                await client.until(running, timeout=PODS, what="the calling pod")
                yield Calls(client, self.namespace)
            finally:
                await client.delete("v1", "Pod", CALLER, self.namespace)
                await client.gone("v1", "Pod", CALLER, self.namespace)


@dataclass(frozen=True, slots=True)
class Calls:
    """What the calling pod has sent."""

    client: KubeClient
    namespace: str

    async def since(self, moment: float) -> list[Outcome]:
        """The requests that began after `moment` (monotonic) and have ended."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{CALLER}/log"
        log = await self.client.request("GET", path)
        return [one for one in load.parse(str(log)) if one.begin > moment]

    async def answered_by(self, *clusters: str, number: int = 20, seconds: float = START) -> list[Outcome]:
        """Wait until the last `number` requests were answered by these; returns all since this was called."""
        began, found = time.monotonic(), list[Outcome]()

        async def settled() -> bool:
            nonlocal found
            found = await self.since(began)
            await asyncio.sleep(_LOOK)
            return len(found) >= number and all(one.cluster in clusters for one in found[-number:])

        try:
            await until(settled, seconds=seconds, what=f"{number} answers of {' and '.join(clusters)}")
        except TimedOut as error:
            raise TimedOut(f"{error.message}; the last: {found[-3:]}") from error
        return found

    async def refused(self, *, number: int = 20, seconds: float = START) -> list[Outcome]:
        """Wait until the last `number` requests have failed; returns them."""
        began, found = time.monotonic(), list[Outcome]()

        async def settled() -> bool:
            nonlocal found
            found = await self.since(began)
            await asyncio.sleep(_LOOK)
            return len(found) >= number and all(one.error for one in found[-number:])

        await until(settled, seconds=seconds, what=f"{number} failed requests")
        return found[-number:]


def failed(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each request that failed."""
    return [f"{one.error} after {one.end - one.begin:.1f} s" for one in outcomes if one.error]


def bring(clusters: Sequence[str], *images: str, version: str = __version__) -> None:
    """Build images of this source, with another version if wanted, and load them into the nodes of kind clusters."""
    from clusters.images import delivery
    from clusters.images.builder import Builder

    builder = Builder(say=lambda _line: None, version=version)
    for cluster in clusters:
        delivery.load_into_kind([builder.image(name) for name in images], cluster)


def _container(name: str, words: list[str]) -> Object:
    return {
        "name": name,
        "image": IMAGE,
        "command": ["python3", "-u", "-m", *words],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    }
