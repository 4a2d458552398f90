"""`@pytest.mark.clusters("two-kind")`: real clusters for tests, made once, shared by all tests of a topology.

The mark names a topology (clusters.topologyfile), and the fixture `clusters` gives what stands. Tests of one topology
run together, at the end of the session; its clusters go before those of the next are made. A test that installs or
removes isthmus by itself has `anew=True`: it comes after those that do not, and `up` makes good what it has left. What
`up` cannot make good, such as a version from which there is no way back, has `spent=True`: it comes last of all, and
its clusters go after it. With `--keep-clusters` others stay, and a later session goes on with them. Where there is no
Docker, no kind or no node image a test is skipped with the reason; with CI or ISTHMUS_KIND_REQUIRED set it fails.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from clusters.kind.faults import KindFaults
    from clusters.kind.harness import KindHarness
    from clusters.kubeclient import KubeClient
    from clusters.topology import Topology
    from federation.errors import IsthmusError

T = TypeVar("T")

REQUIRED = "ISTHMUS_KIND_REQUIRED"
"""Set where clusters have to be had: then what would be skipped fails."""
PREFIX = "ISTHMUS_KIND_PREFIX"
"""What the names of the clusters of a session begin with; default: `test-<process id>`."""
SESSION = "test"
"""What it begins with, before the process id."""
NOT_HERE = frozenset(
    ("docker_missing", "docker_down", "docker_denied", "kind_missing", "kind_image_missing"),
)
"""Codes of errors that say what this machine lacks."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Clusters that stand. What a test breaks by `faults` is healed after it; what it creates it must remove."""

    harness: KindHarness
    faults: KindFaults

    @property
    def topology(self) -> Topology:
        return self.harness.topology

    def kubeconfig(self, cluster: str) -> Path:
        """The administrator's."""
        return self.harness.folder.kubeconfig(cluster)

    def connect(self, cluster: str) -> AbstractAsyncContextManager[KubeClient]:
        """A client as the administrator."""
        from clusters.kubeclient import connect

        return connect(self.kubeconfig(cluster))


class Pool:
    """The clusters of a session, of one topology at a time."""

    def __init__(self, prefix: str, where: Path | None, *, keep: bool) -> None:
        """`where`: for the files of the harness. `keep`: take what stands, and leave it standing."""
        self._prefix, self._where, self._keep = prefix, where, keep
        self._standing: Clusters | None = None
        self._whole: bool | None = None
        """Whether what stands was last seen whole, with isthmus (True) or bare (False); None: nobody knows."""
        self._refusal: IsthmusError | None = None

    def take(self, name: str, *, installed: bool) -> Clusters:
        """The clusters of the topology, whole. Raises the error of `up`, the same again where this machine lacks it."""
        from clusters.kind.faults import KindFaults
        from clusters.kind.harness import IMAGE, KindHarness
        from clusters.kind.leftovers import sweep
        from clusters.progress import Progress
        from clusters.topologyfile import find
        from federation.errors import IsthmusError

        if self._refusal is not None:
            raise self._refusal
        if self._standing is not None and self._standing.topology.name != name:
            self.close()
        if self._standing is None:
            if not self._keep:
                complete(sweep(SESSION))
            image = os.environ.get(IMAGE, "")
            harness = KindHarness(find(name), image=image, prefix=self._prefix, where=self._where, say=Progress())
            self._standing = Clusters(harness, KindFaults(harness))
        if self._whole or self._whole is installed:
            return self._standing
        try:
            complete(self._standing.harness.up(installed=installed))
        except IsthmusError as error:
            if error.error_code in NOT_HERE:
                self._refusal, self._standing = error, None
            raise
        self._whole = installed
        return self._standing

    def doubt(self) -> None:
        """What stands may be broken: it is looked at, and repaired, before the next test gets it."""
        self._whole = None

    def spend(self) -> None:
        """Nobody can go on with what stands: it goes, also where clusters are left standing."""
        if self._standing is not None:
            complete(self._standing.harness.down())
        self._standing = self._whole = None

    def close(self) -> None:
        """Take down what stands."""
        if not self._keep:
            self.spend()
        self._standing = self._whole = None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--keep-clusters", action="store_true", help="leave kind clusters standing, and go on with those that stand"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "clusters(topology, installed=False, anew=False, spent=False): runs on real clusters of that topology, with"
        " isthmus where it says so; `anew`: it leaves them otherwise, so that they are looked at again before the next"
        " test; `spent`: it leaves them so that there is no next one",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = grouped(items)


def grouped(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Those that need no clusters, then topology by topology those that do: bare clusters before installed ones."""
    found: dict[str, list[pytest.Item]] = {}
    others = []
    for item in items:
        mark = item.get_closest_marker("clusters")
        if mark is None:
            others.append(item)
        else:
            found.setdefault(str(mark.args[0]), []).append(item)
    for group in found.values():
        group.sort(key=lambda item: (spends(item), wants_installed(item), leaves_otherwise(item)))
    return [*others, *(item for group in found.values() for item in group)]


def wants_installed(item: pytest.Item) -> bool:
    """Whether the test wants clusters with isthmus in them."""
    return _says(item, "installed")


def leaves_otherwise(item: pytest.Item) -> bool:
    """Whether the test leaves the clusters otherwise than it got them."""
    return _says(item, "anew")


def spends(item: pytest.Item) -> bool:
    """Whether nobody can go on with the clusters after the test."""
    return _says(item, "spent")


def _says(item: pytest.Item, what: str) -> bool:
    mark = item.get_closest_marker("clusters")
    return mark is not None and bool(mark.kwargs.get(what, False))


@pytest.fixture(scope="session")
def _cluster_pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    keep = bool(request.config.getoption("--keep-clusters"))
    prefix = os.environ.get(PREFIX) or ("isthmus" if keep else f"{SESSION}-{os.getpid()}")
    pool = Pool(prefix, None if keep else tmp_path_factory.mktemp("clusters"), keep=keep)
    yield pool
    pool.close()


@pytest.fixture
def clusters(request: pytest.FixtureRequest, _cluster_pool: Pool) -> Iterator[Clusters]:
    """What the mark of the test asks for."""
    from federation.errors import IsthmusError

    mark = request.node.get_closest_marker("clusters")
    if mark is None or not mark.args:
        pytest.fail('mark the test: @pytest.mark.clusters("two-kind")', pytrace=False)
    try:
        found = _cluster_pool.take(str(mark.args[0]), installed=wants_installed(request.node))
    except IsthmusError as error:
        if error.error_code in NOT_HERE and not required(os.environ):
            pytest.skip(str(error))
        pytest.fail(f"no clusters: {error} [{error.error_code}]", pytrace=False)
    failed = request.session.testsfailed
    yield found
    if found.faults.broken:
        complete(found.faults.heal())
    if spends(request.node):
        _cluster_pool.spend()
    elif request.session.testsfailed > failed or leaves_otherwise(request.node):
        _cluster_pool.doubt()


def required(environ: Any) -> bool:
    """Whether clusters have to be had."""
    return bool(environ.get("CI")) or environ.get(REQUIRED, "") not in ("", "0")


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end apart from the event loops of the tests."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()
