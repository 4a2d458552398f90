"""A Kubernetes source on a real API server, and the objects that it reads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clusters.apiserver import LocalCluster
from clusters.waiting import until
from discovery.kube.settings import KubernetesSettings
from discovery.sources.base import SourceState
from discovery.sources.kubernetes import KubernetesSource
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.tasks import cancel
from federation.model.cluster import Problem
from federation.model.ids import ServiceName
from federation.model.service import Locality, Service

HOME = Locality("home", "home-1")


class Running:
    """A source that follows an API server."""

    def __init__(self, source: KubernetesSource) -> None:
        self.source = source

    @property
    def state(self) -> SourceState:
        return self.source.state.value

    def claim(self, namespace: str, name: str) -> Service | None:
        return self.state.exports.get(ServiceName(namespace, name))

    def problem(self, code: str, about: str = "") -> Problem | None:
        return next((p for p in self.state.problems if p.code == code and about in p.subject), None)

    async def exported(self, namespace: str, name: str, good: Callable[[Service], Any] = bool) -> Service:
        """The claim, once it is there and `good`."""

        def found() -> Service | None:
            claim = self.claim(namespace, name)
            return claim if claim is not None and good(claim) else None

        result: Service = await until(found)
        return result


@contextlib.asynccontextmanager
async def following(kubeconfig: Path, cache: Path, *, complete: bool = True, **settings: Any) -> AsyncIterator[Running]:
    source = KubernetesSource(
        KubernetesSettings(kubeconfig=str(kubeconfig), **{"watch": 3.0, "confirm": 0.2, **settings}),
        cache_path=cache,
        locality=HOME,
        clock=SystemClock(),
        log=log.get("test"),
        cache_seconds=0.1,
    )
    running = asyncio.create_task(source.run(), name="source")
    try:
        if complete:
            await until(lambda: running.done() or source.state.value.complete)
        yield Running(source)
    finally:
        await cancel(running)


def service(namespace: str, name: str = "echo", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"name": "http", "port": 80}], **spec},
    }


def export(namespace: str, name: str = "echo", spec: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "multicluster.x-k8s.io/v1beta1",
        "kind": "ServiceExport",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        **({"spec": spec} if spec else {}),
    }


def slice_(
    namespace: str,
    *endpoints: dict[str, Any],
    name: str = "echo",
    suffix: str = "1",
    family: str = "IPv4",
    ports: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{suffix}",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "test"},
        },
        "addressType": family,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}] if ports is None else ports,
        "endpoints": list(endpoints),
    }


def at(address: str, ready: bool = True, **more: Any) -> dict[str, Any]:
    return {"addresses": [address], "conditions": {"ready": ready, **more.pop("conditions", {})}, **more}


@pytest.fixture(name="make")
def _make() -> SimpleNamespace:
    """service, export, slice_ and at: objects as the API server takes them."""
    return SimpleNamespace(service=service, export=export, slice_=slice_, at=at)


@pytest.fixture(name="following")
def _following() -> Any:
    """`async with following(kubeconfig, cache) as running`: a source, once its state is complete or it has ended."""
    return following


@pytest.fixture
async def east(kube_clusters: tuple[LocalCluster, LocalCluster]) -> LocalCluster:
    return kube_clusters[0]


@pytest.fixture
async def run(east: LocalCluster, tmp_path: Path) -> AsyncIterator[Running]:
    async with following(east.kubeconfig, tmp_path / "kubernetes.state") as running:
        yield running
