"""Faults of processes under constant load: what is killed or stands still, who notices, and that all of it heals.

Three clusters; east calls. Where another cluster is paused, east's own copy is gone, so that west answers, then edge.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clusters import manifests
from clusters.load import HttpLoad, Outcome
from clusters.processes import HTTP_PORT, NAMESPACE, TCP_SERVICE, ProcessFederation
from clusters.stage import GLOBAL_NAME
from clusters.topology import DEMO
from federation.cli.clients import agent
from federation.cli.status import Finding

pytestmark = pytest.mark.e2e

HEAL_SECONDS = 30


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessFederation]:
    federation = ProcessFederation(DEMO, tmp_path_factory.mktemp("f"))
    yield federation
    federation.stop()


@pytest.fixture(autouse=True)
def healed(running: ProcessFederation, findings: Any, eventually: Any) -> Iterator[None]:
    """Everything is whole within 30 s of the end of a fault, and nobody has written a traceback."""
    yield
    eventually(lambda: not findings(), what="a whole federation", seconds=HEAL_SECONDS)
    for log in (running.directory / "logs").iterdir():
        assert "Traceback" not in log.read_text(errors="replace"), log


@contextlib.contextmanager
def load(east: Any, name: str, *, timeout: float = 10.0) -> Iterator[HttpLoad]:
    """Requests from east for `name`, all the while."""
    requests = HttpLoad(east.address(name), HTTP_PORT, name, clients=3, rate=20, fresh_every=10, timeout=timeout)
    requests.start()
    try:
        yield requests
    finally:
        requests.stop()


def failed(outcomes: list[Outcome]) -> list[str]:
    return [f"{o.error} after {o.end - o.begin:.1f} s" for o in outcomes if o.error]


def goes_on(requests: HttpLoad, eventually: Any, *, cluster: str, number: int = 30) -> None:
    """Wait for so many more answers of `cluster`."""
    since = len(requests)
    eventually(
        lambda: sum(1 for o in requests.outcomes(since) if o.cluster == cluster) >= number,
        what=f"{number} answers of {cluster}",
    )


@pytest.fixture
def holds(running: ProcessFederation) -> Callable[[str], list[bytes]]:
    """What a cluster imports, as its agent holds it."""

    def ask(cluster: str) -> list[bytes]:
        async def imports() -> list[bytes]:
            async with agent(running.home, cluster) as client:
                return sorted(i.SerializeToString(deterministic=True) for i in await client.imports())

        return asyncio.run(imports())

    return ask


def of(found: list[Finding]) -> set[tuple[str, str]]:
    return {(f.code, f.subject) for f in found}


@pytest.mark.parametrize("cluster", ["east", "west"])
def test_an_agent_is_killed_and_started_again(
    running: ProcessFederation, east: Any, eventually: Any, findings: Any, holds: Any, cluster: str
) -> None:
    """The caller's agent, then the one of the cluster that is called: nobody notices but the status."""
    before = holds(cluster)
    with load(east, "echo.shop.west.global") as requests:
        goes_on(requests, eventually, cluster="west")
        running.kill(f"{cluster}-agent")
        eventually(lambda: ("agent_unreachable", cluster) in of(findings()), what="the truth about the agent")
        assert east.get(GLOBAL_NAME) == "east"
        goes_on(requests, eventually, cluster="west")
        running.restart(f"{cluster}-agent")
        asyncio.run(running.wait_ready(f"{cluster}-agent"))
        eventually(lambda: not findings(), what="a whole federation", seconds=HEAL_SECONDS)
        goes_on(requests, eventually, cluster="west")
    assert failed(requests.outcomes()) == []
    eventually(lambda: holds(cluster) == before, what="the same view as before")


def test_a_registry_is_killed_and_started_again(
    running: ProcessFederation, east: Any, eventually: Any, findings: Any, holds: Any
) -> None:
    """Everybody keeps everything; what changed meanwhile arrives after it, and nothing that was deleted comes back."""
    place = running.places["west"]
    path = manifests.endpoints_path(place.manifests, TCP_SERVICE)
    good = path.read_text()
    before = {name: holds(name) for name in running.places}
    with load(east, "echo.shop.west.global") as requests:
        goes_on(requests, eventually, cluster="west")
        running.kill("registry")
        lost = {("registry_unreachable", "registry"), *(("registry_lost", name) for name in running.places)}
        eventually(lambda: lost <= of(findings()), what="the truth about the registry")
        assert {name: holds(name) for name in running.places} == before
        copies = [manifests.Copy(address=place.address, port=place.tcp_port, ready=False)]
        manifests.write(path, manifests.slice_(NAMESPACE, TCP_SERVICE, app="tcp", copies=copies))
        goes_on(requests, eventually, cluster="west")
        running.restart("registry")
        eventually(lambda: not findings(), what="a whole federation", seconds=HEAL_SECONDS)
        eventually(lambda: holds("east") != before["east"], what="the change that was made meanwhile")
        path.write_text(good)
        eventually(lambda: {n: holds(n) for n in running.places} == before, what="the same views as before")
        goes_on(requests, eventually, cluster="west")
    assert failed(requests.outcomes()) == []


def test_a_whole_cluster_stands_still(
    running: ProcessFederation, east: Any, eventually: Any, findings: Any, holds: Any
) -> None:
    """west is paused while it answers east: edge takes over, the status tells it, and west comes back by itself."""
    before = {name: holds(name) for name in running.places}
    running.kill("east-http")
    try:
        with load(east, GLOBAL_NAME, timeout=20) as requests:
            goes_on(requests, eventually, cluster="west")
            since = len(requests)
            paused = running.pause("west")
            try:
                goes_on(requests, eventually, cluster="edge")
                eventually(lambda: ("agent_unreachable", "west") in of(findings()), what="the truth about west")
                goes_on(requests, eventually, cluster="edge")
                assert time.monotonic() - paused < 60  # the longest that a silent peer may pass for a live one
            finally:
                running.resume("west")
            goes_on(requests, eventually, cluster="west")
            eventually(lambda: not findings(), what="a whole federation", seconds=HEAL_SECONDS)
            end = len(requests)
        outcomes = requests.outcomes(since)
        assert failed(outcomes) == []
        assert end > since
    finally:
        running.restart("east-http")
    eventually(lambda: east.answers(GLOBAL_NAME) == "east", what="an answer of east's own copy")
    eventually(lambda: {name: holds(name) for name in running.places} == before, what="the same views as before")


def test_a_sidecar_is_killed_and_comes_back_with_its_names(
    running: ProcessFederation, east: Any, eventually: Any
) -> None:
    virtual = east.address(GLOBAL_NAME)
    running.kill("east-sidecar", signal.SIGKILL)
    running.restart("east-sidecar")
    asyncio.run(running.wait_ready("east-sidecar"))
    assert east.address(GLOBAL_NAME) == virtual
    eventually(lambda: east.answers(GLOBAL_NAME) == "east", what="an answer of east")
    eventually(lambda: east.answers("echo.shop.edge.global") == "edge", what="an answer of edge")
