"""fedctl check and fedctl verify: wrong usage in one line, and nothing known yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from federation.cli.main import run

TOKEN = "isthmus1.nonsense"


@pytest.mark.parametrize(
    ("words", "status", "code", "message"),
    [
        (["check"], 3, "no_registry", "neither a registry nor an agent is known here"),
        (["check", "--token", TOKEN], 2, "invalid_input", "--token is for a look before the installation"),
        (["check", "--cluster", "east"], 2, "invalid_input", "--cluster is for a look before the installation"),
        (["check", "--pre", "--cluster", "No Name"], 2, "invalid_name", "No Name"),
        (["check", "--pre", "--token", TOKEN], 2, "token_malformed", "typing error"),
        (["check", "--pre", "--token", TOKEN, "--registry", "h:1"], 2, "invalid_input", "not both"),
        (["check", "--pre", "--registry", "nowhere"], 2, "invalid_address", "nowhere"),
        (["check", "--pre", "--listen", "127.0.0.1:0"], 2, "invalid_port", "port 0"),
        (["check", "--configmap", "coredns"], 2, "invalid_input", "--configmap coredns is not NAMESPACE/NAME"),
        (["check", "--configmap", "/coredns"], 2, "invalid_input", "is not NAMESPACE/NAME"),
        (["check", "--timeout", "0"], 2, "invalid_input", "--timeout 0 is not above 0"),
        (["verify"], 3, "unknown_cluster", "no agent is known here"),
        (["verify", "--timeout", "99"], 2, "invalid_input", "--timeout 99 is not 0.1 to 30"),
        (["verify", "--service", "echo"], 2, "invalid_name", "echo"),
        (["verify", "--cluster", "No Name"], 2, "invalid_name", "No Name"),
    ],
)
def test_wrong_usage(
    words: list[str], status: int, code: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--home", str(tmp_path), *words, "-o", "json"]) == status
    error: dict[str, Any] = json.loads(capsys.readouterr().err)["error"]
    assert (error["code"], message in error["message"]) == (code, True), error


def test_a_plain_host(tmp_path: Path, capsys: pytest.CaptureFixture[str], free: str) -> None:
    assert run(["--home", str(tmp_path), "check", "--pre", "--listen", free]) == 0
    told = capsys.readouterr().out
    assert f"✓ ports: {free}: free for --listen" in told
    assert told.splitlines()[-1].endswith("0 errors")


@pytest.fixture
def free() -> str:
    from clusters.network import free_port

    return f"127.0.0.1:{free_port()}"


def test_a_port_that_is_taken_has_its_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str], free: str) -> None:
    import socket

    host, _, port = free.partition(":")
    with socket.create_server((host, int(port))):
        assert run(["--home", str(tmp_path), "check", "--pre", "--listen", free]) == 6
    told = capsys.readouterr()
    assert f"✗ ports: {free}: --listen cannot listen on {free}: Address already in use" in told.out
    assert "    next: end what uses it (ss -lntup)" in told.out
    assert "    see: docs/checks.md#ports" in told.out
    assert "next: begin with docs/checks.md#ports" in told.err
