"""What the stories have: a federation of processes, a shop in real clusters, and fedctl as a person runs it."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters.apiserver import LocalCluster
from clusters.building import build
from clusters.ground import ApiServers
from clusters.kind.operator import Operator
from clusters.kind.shop import Shop
from clusters.names import lookup
from clusters.processes import HTTP_PORT, NAMESPACE, ProcessFederation
from clusters.pytest_plugin import Clusters
from clusters.topology import ClusterSpec, Topology
from clusters.waiting import ANSWER, START, until_now
from discovery.kube import rbac
from federation.cli.status import Finding, assess, look
from federation.errors import IsthmusError, Unavailable
from federation.model.ids import SYSTEM_NAMESPACE
from federation.model.service import Locality

TWO = Topology.full_mesh(
    "test.isthmus",
    ClusterSpec(name="east", locality=Locality("eu", "eu-1")),
    ClusterSpec(name="west", locality=Locality("eu", "eu-2")),
)


BROKEN = pytest.StashKey[str]()
"""Of the file of a story: its first step that has failed."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What comes after a step that has failed would fail for its reason, and hide it."""
    if item.get_closest_marker("story") and item.parent is not None and (step := item.parent.stash.get(BROKEN, "")):
        pytest.xfail(f"an earlier step has failed: {step}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and item.parent is not None:
        item.parent.stash.setdefault(BROKEN, item.name)
    return report


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        """What the last line on stderr says is wrong; empty when nothing was said."""
        lines = self.err.splitlines()
        return json.loads(lines[-1])["error"] if lines else {}


@dataclass(frozen=True)
class Fedctl:
    """Runs fedctl with a home of its own."""

    home: Path

    def __call__(self, *words: str, timeout: float = START) -> Done:
        done = subprocess.run(
            [Path(sys.executable).with_name("fedctl"), "--home", self.home, *words],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str) -> Done:
        done = self(*words)
        assert done.status == 0, f"fedctl {' '.join(words)}: {done.err}{done.out}"
        return done


@pytest.fixture(scope="session")
def topology() -> Topology:
    """Two linked clusters."""
    return TWO


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessFederation]:
    """Two clusters of which nothing runs yet."""
    federation = ProcessFederation(TWO, tmp_path_factory.mktemp("f"))
    yield federation
    federation.stop()


@pytest.fixture(scope="module")
def kube_ground(
    _kube_session: tuple[LocalCluster, LocalCluster], kube_remove: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServers]:
    """The API servers of east and west, which all tests share; what a federation leaves on them is removed."""
    try:
        ground = ApiServers(tmp_path_factory.mktemp("g"), (), clusters=_kube_session)
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    yield ground
    ground.stop()

    async def clean() -> None:
        for cluster in _kube_session:
            for namespace in (NAMESPACE, SYSTEM_NAMESPACE):
                await kube_remove(cluster, namespace)
            async with cluster.connect() as client:
                for kind in ("ClusterRoleBinding", "ClusterRole"):
                    await client.delete("rbac.authorization.k8s.io/v1", kind, rbac.ACCOUNT)

    asyncio.run(clean())


@pytest.fixture(scope="module")
def kube_federation(
    kube_ground: ApiServers, topology: Topology, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProcessFederation]:
    """The same two clusters on API servers, of which nothing runs yet."""
    federation = ProcessFederation(topology, tmp_path_factory.mktemp("k"), ground=kube_ground)
    yield federation
    federation.stop()


@pytest.fixture(scope="module")
def fedctl(federation: ProcessFederation) -> Fedctl:
    return Fedctl(federation.directory / "home")


@pytest.fixture(scope="module")
def running(federation: ProcessFederation) -> ProcessFederation:
    """The same two clusters, running, linked and whole."""
    asyncio.run(build(federation))
    return federation


@dataclass(frozen=True)
class Caller:
    """A workload beside the sidecar of one cluster."""

    federation: ProcessFederation
    cluster: str

    def address(self, name: str) -> str:
        """What the sidecar's DNS answers for `name`, asked as a program would."""
        place = self.federation.places[self.cluster]
        (address,) = lookup(place.address, place.dns_port, name)
        return address

    def get(self, name: str, *, timeout: float = ANSWER) -> str:
        """The cluster that answers a GET for `name`."""
        connection = http.client.HTTPConnection(self.address(name), HTTP_PORT, timeout=timeout)
        try:
            connection.request("GET", "/", headers={"Host": f"{name}:{HTTP_PORT}"})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, (response.status, body)
            return str(json.loads(body)["cluster"])
        finally:
            connection.close()

    def answers(self, name: str, *, timeout: float = ANSWER) -> str:
        """The cluster that answers, or "": the name has no address yet, nobody serves it, or not in time."""
        try:
            return self.get(name, timeout=timeout)
        except (IsthmusError, OSError, http.client.HTTPException, AssertionError, ValueError):
            return ""


@pytest.fixture(scope="module")
def east(federation: ProcessFederation) -> Caller:
    return Caller(federation, "east")


@pytest.fixture(scope="module")
def west(federation: ProcessFederation) -> Caller:
    return Caller(federation, "west")


@pytest.fixture(scope="module")
def findings(federation: ProcessFederation) -> Callable[[], list[Finding]]:
    """What `fedctl status` would complain of now."""
    return lambda: assess(asyncio.run(look(federation.home)))


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """The first true result of a condition, asked again and again until a deadline."""
    return until_now


@pytest.fixture
def operator(clusters: Clusters) -> Operator:
    """A person with the contexts of the clusters that the test is marked with."""
    return Operator(clusters.harness)


@pytest.fixture
async def shop(clusters: Clusters, request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    """A namespace in these clusters, named after the file of the test."""
    name = request.path.stem.removeprefix("test_").lstrip("0123456789_").replace("_", "-")
    shop = Shop(clusters.harness, f"shop-{name}")
    await shop.open()
    yield shop
    if clusters.faults.broken:
        await clusters.faults.heal()
    await shop.close()
