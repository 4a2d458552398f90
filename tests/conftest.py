"""Options of the whole suite, and the real Kubernetes clusters that its tests share."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from clusters.apiserver import LocalCluster
    from clusters.consul import Datacenter

pytest_plugins = ["clusters.failures", "clusters.pytest_plugin"]

# How fast an example is says nothing of us: the machine is shared.
settings.register_profile("isthmus", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("isthmus")

REQUIRED = "ISTHMUS_TESTBED_REQUIRED"
"""Set by scripts/test: a component of the testbed that is missing is then an error, not a reason to skip."""

NAMESPACED = (
    ("v1", "ConfigMap"),
    ("v1", "Event"),
    ("v1", "Endpoints"),
    ("v1", "Pod"),
    ("v1", "Secret"),
    ("v1", "ServiceAccount"),
    ("v1", "Service"),
    ("coordination.k8s.io/v1", "Lease"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("multicluster.x-k8s.io/v1beta1", "ServiceExport"),
    ("multicluster.x-k8s.io/v1beta1", "ServiceImport"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
)
"""What is deleted with the namespace of a test; other kinds a test removes itself."""


DATACENTERS = pytest.StashKey["list[Datacenter]"]()
"""Those that a test has started."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")
    parser.addoption("--soak-seconds", type=float, default=60.0, help="for each test of `-m soak`; 600: in full")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Soaks run when they are asked for by `-m soak`."""
    if "soak" not in config.option.markexpr:
        soaks = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=soaks)
        items[:] = [item for item in items if item not in soaks]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where a test fails, its report has the last that its Consul agents have said. In CI nothing is skipped."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"nothing may be skipped in CI: {report.longreprtext}"
    if report.failed:
        for datacenter in item.stash.get(DATACENTERS, []):
            report.sections += [(f"log of Consul agent {name}", tail) for name, tail in datacenter.tails().items()]
    return report


def _programs(*names: str) -> dict[str, Path]:
    """Programs of the testbed by their names. Where one is missing, what asks for it is skipped, or fails."""
    from clusters.testbed.components import require
    from federation.errors import NotFound

    try:
        return require(*names)
    except NotFound as error:
        missing = str(error)
    if os.environ.get(REQUIRED):
        pytest.fail(f"the testbed is not whole: {missing}", pytrace=False)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def testbed() -> dict[str, Path]:
    """The programs of a Kubernetes cluster by their names."""
    return _programs("etcd", "kube-apiserver", "kube-controller-manager")


@pytest.fixture(scope="session")
def consul_program() -> Path:
    """A real Consul."""
    return _programs("consul")["consul"]


@pytest.fixture(scope="session")
def helm_program() -> Path:
    """A real helm."""
    return _programs("helm")["helm"]


@pytest.fixture(scope="session")
def _kube_session(
    testbed: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LocalCluster, LocalCluster]]:
    from clusters.apiserver import local_clusters, start_all, stop_all

    east, west = local_clusters(tmp_path_factory.mktemp("kube"), ("east", "west"))
    _complete(start_all((east, west)))
    yield east, west
    stop_all((east, west), discard=True)


@pytest.fixture
async def kube_clusters(
    _kube_session: tuple[LocalCluster, LocalCluster],
) -> AsyncIterator[tuple[LocalCluster, LocalCluster]]:
    """Two clusters, east and west, with our CRDs and controllers; the whole run shares them.

    What a test kills or pauses is healed after it. What it creates outside of `kube_namespace` it must remove.
    """
    yield _kube_session
    for cluster in _kube_session:
        await cluster.heal()


@pytest.fixture(scope="session")
def kube_remove() -> Callable[[LocalCluster, str], Awaitable[None]]:
    """Removes a namespace with what is in it (see NAMESPACED), without the seconds that its controller takes."""

    async def remove(cluster: LocalCluster, name: str) -> None:
        await cluster.heal()
        async with cluster.connect() as client:
            await client.remove_namespace(name, kinds=NAMESPACED)

    return remove


@pytest.fixture
async def kube_namespace(kube_clusters: tuple[LocalCluster, LocalCluster], kube_remove: Any) -> AsyncIterator[str]:
    """A namespace of the test's own that exists in both clusters, and goes with what is in it."""
    name = f"test-{uuid.uuid4().hex[:8]}"

    async def create(cluster: LocalCluster) -> None:
        async with cluster.connect() as client:
            await client.create_namespace(name)

    await asyncio.gather(*map(create, kube_clusters))
    yield name
    await asyncio.gather(*(kube_remove(cluster, name) for cluster in kube_clusters))


@pytest.fixture
async def start_kube(
    testbed: dict[str, Path], tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[tuple[LocalCluster, ...]]]]:
    """Starts clusters of the test's own: `(one,) = await start_kube("one", controllers=False, install=())`."""
    from clusters.apiserver import local_clusters, start_all, stop_all

    started: list[LocalCluster] = []

    async def start(*names: str, controllers: bool = True, install: Any = None) -> tuple[LocalCluster, ...]:
        made = local_clusters(tmp_path / f"kube-{len(started)}", names, controllers=controllers)
        started.extend(made)
        await start_all(made, install=install)
        return made

    yield start
    stop_all(started, discard=True)


@pytest.fixture
async def start_consul(
    consul_program: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[..., Awaitable[tuple[Datacenter, ...]]]]:
    """Starts datacenters of the test's own: `(dc1,) = await start_consul("dc1", servers=3, acl=True, tls=True)`."""
    from clusters.consul import datacenters, start_all, stop_all

    started: list[Datacenter] = []
    request.node.stash[DATACENTERS] = started

    async def start(*names: str, **options: Any) -> tuple[Datacenter, ...]:
        made = datacenters(tmp_path / f"consul-{len(started)}", names, **options)
        started.extend(made)
        await start_all(made)
        return made

    yield start
    stop_all(started, discard=True)


def _complete(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end apart from the event loops of the tests."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, work).result()
