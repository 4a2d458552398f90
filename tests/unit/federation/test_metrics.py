import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from federation.metrics import MetricsServer


class Process:
    ready = (True, "")
    alive = (True, "")


@pytest.fixture
def served() -> Iterator[tuple[Process, str]]:
    process = Process()
    registry = CollectorRegistry()
    Counter("isthmus_pushes", "Pushes.", registry=registry).inc(3)
    server = MetricsServer(registry, host="127.0.0.1", port=0, alive=lambda: process.alive, ready=lambda: process.ready)
    server.start()
    yield process, f"http://127.0.0.1:{server.port}"
    server.close()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - loopback
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_and_checks(served: tuple[Process, str]):
    process, url = served
    assert "isthmus_pushes_total 3.0" in get(url + "/metrics")[1]
    assert get(url + "/healthz") == (200, "ok\n")
    process.ready = (False, "no view yet")
    assert get(url + "/readyz") == (503, "no view yet\n")
    assert get(url + "/")[0] == 404


def test_connections_that_say_nothing_do_not_hold_up_a_probe() -> None:
    server = MetricsServer(
        CollectorRegistry(), host="127.0.0.1", port=0, alive=lambda: (True, ""), ready=lambda: (True, "")
    )
    server.start()
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=2) as reply:
            assert reply.status == 200
    finally:
        for one in silent:
            one.close()
        server.close()
