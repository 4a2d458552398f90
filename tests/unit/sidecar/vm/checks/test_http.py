"""What an HTTP check sends."""

from __future__ import annotations

from sidecar.vm.checks.http import request
from sidecar.vm.definition import Http


def probe(host: str = "127.0.0.1", *headers: tuple[str, str]) -> Http:
    return Http(host, 8080, "/healthz?full=1", "HEAD", headers, ((200, 299),))


def test_a_request_is_whole() -> None:
    assert request(probe()) == (
        b"HEAD /healthz?full=1 HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nuser-agent: isthmus-check\r\naccept: */*\r\n"
        b"connection: close\r\n\r\n"
    )


def test_own_headers_stand_instead_and_the_connection_ends_all_the_same() -> None:
    made = request(probe("::1", ("host", "db.shop"), ("connection", "keep-alive"), ("x-key", "1")))
    assert b"host: db.shop\r\n" in made
    assert b"x-key: 1\r\n" in made
    assert made.endswith(b"connection: close\r\n\r\n") or b"connection: close\r\n" in made
    assert b"keep-alive" not in made
    assert b"host: [::1]:8080\r\n" in request(probe("::1"))
