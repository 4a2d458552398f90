"""What Consul answers, as errors that say what to do. The bodies are Consul's own."""

from __future__ import annotations

import pytest

from discovery.consul import errors
from federation.errors import IsthmusError

SECRET = "5f1c6c2e-0000-4000-8000-2b9a7d3c1f00"


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "says"),
    [
        (403, b"ACL not found", errors.TokenUnknown, "consul_forbidden", "does not know our token"),
        (
            403,
            b"Permission denied: token with AccessorID '00000000-0000-0000-0000-000000000002' lacks permission "
            b"'service:read' on \"web\"",
            errors.Forbidden,
            "consul_forbidden",
            "its policy lacks service:read",
        ),
        (500, b"rpc error making call: Permission denied", errors.Forbidden, "consul_forbidden", "may not do that"),
        (500, b"No cluster leader", errors.NoLeader, "consul_no_leader", "have no leader"),
        (500, b"rpc error making call: No cluster leader", errors.NoLeader, "consul_no_leader", "have no leader"),
        (500, b"No path to datacenter", errors.NoDatacenter, "consul_no_datacenter", "no way to that datacenter"),
        (500, b"disk on fire", errors.ServerFailed, "consul_server_failed", "disk on fire"),
        (429, b"", errors.TooMany, "consul_busy", "http_max_conns_per_client"),
        (400, b"Invalid index", errors.Refused, "consul_refused", "Invalid index"),
        (404, b"", errors.Refused, "consul_refused", "404"),
    ],
)
def test_translate(status: int, body: bytes, kind: type[IsthmusError], code: str, says: str) -> None:
    error = errors.translate(status, body, what="instances of web", needs="service:read")
    assert type(error) is kind
    assert error.error_code == code
    assert says in str(error)
    assert "instances of web" in str(error)


def test_no_token_gets_into_a_message() -> None:
    error = errors.translate(403, f"no such token {SECRET}".encode(), what="x", secret=SECRET)
    assert SECRET not in str(error)
    assert "no such token …" in str(error)


def test_a_long_or_binary_answer_becomes_one_short_line() -> None:
    error = errors.translate(500, b"\xff\n\n" + b"x" * 10_000, what="x")
    assert len(str(error)) < 500
    assert "\n" not in str(error)
