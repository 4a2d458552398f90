import contextlib
import socket
import time
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


def ask(server: MetricsServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        reply = b""
        while piece := connection.recv(65536):
            reply += piece
    return reply


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    made = MetricsServer(
        CollectorRegistry(), host="127.0.0.1", port=0, alive=lambda: (True, ""), ready=lambda: (True, "")
    )
    made.start()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /healthz?verbose HTTP/1.1", b"200 OK"),
        (b"HEAD /metrics HTTP/1.1", b"200 OK"),
        (b"POST /metrics HTTP/1.1", b"405 Method Not Allowed"),
        (b"GET /../etc/passwd HTTP/1.1", b"404 Not Found"),
        (b"GET http://other/metrics HTTP/1.1", b"400 Bad Request"),
        (b"\xff\xfe", b"400 Bad Request"),
    ],
)
def test_requests_of_every_kind(server: MetricsServer, request_line: bytes, status: bytes) -> None:
    head, _, body = ask(server, request_line + b"\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 " + status)
    assert bool(body) == (not request_line.startswith(b"HEAD") and request_line != b"GET /metrics HTTP/1.1")


def test_a_scraper_gets_the_format_that_it_asks_for(served: tuple[Process, str]) -> None:
    _, url = served
    for accept, kind in (("application/openmetrics-text; version=1.0.0, text/plain", "openmetrics"), ("*/*", "text/")):
        request = urllib.request.Request(url + "/metrics", headers={"Accept": accept})  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310 - loopback
            assert kind in reply.headers["Content-Type"]
            assert b"isthmus_pushes_total 3.0" in reply.read()


def test_an_endless_request_is_not_read_to_its_end(server: MetricsServer) -> None:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    with connection, contextlib.suppress(ConnectionError):
        for _ in range(100):
            connection.sendall(b"x: " + b"y" * 4096 + b"\r\n")
        assert connection.recv(1) == b""


def test_who_is_too_many_is_turned_away_and_room_comes_back(server: MetricsServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(40)]
    ends = [s for s in silent[32:] if _ended(s)]
    assert len(ends) == 8
    for one in silent:
        one.close()
    deadline = time.monotonic() + 30
    while b"200 OK" not in _try(server):
        assert time.monotonic() < deadline


def _ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def _try(server: MetricsServer) -> bytes:
    try:
        return ask(server, b"GET /healthz HTTP/1.0\r\n\r\n")
    except OSError:
        return b""


def test_a_taken_port_is_an_error_and_a_closed_one_is_free_again() -> None:
    def make(port: int) -> MetricsServer:
        return MetricsServer(
            CollectorRegistry(), host="127.0.0.1", port=port, alive=lambda: (True, ""), ready=lambda: (True, "")
        )

    first = make(0)
    with pytest.raises(OSError, match="in use"):
        make(first.port)
    port = first.port
    first.close()  # it never started
    again = make(port)
    again.start()
    again.close()
