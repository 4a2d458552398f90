from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from federation import log
from federation.aio.clock import FakeClock
from federation.dns.upstream import Upstream
from sidecar.upstreams import MOST, UpstreamFile, nameservers


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", []),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", ["192.0.2.1"]),
        ("# nameserver 192.0.2.9\nsearch a.example\nnameserver 2001:db8::1 # ours\n", ["2001:db8::1"]),
        ("nameserver 127.0.0.55\nnameserver 192.0.2.1\n", ["192.0.2.1"]),
        ("nameserver\nnameserver dns.example\n", []),
        ("".join(f"nameserver 192.0.2.{n}\n" for n in range(20)), [f"192.0.2.{n}" for n in range(MOST)]),
    ],
)
def test_nameservers(text: str, servers: list[str]):
    assert nameservers(text, own=["127.0.0.55"]) == [(host, 53) for host in servers]


class Followed:
    """An upstream that follows a file."""

    def __init__(self, path: Path, *fixed: tuple[str, int]) -> None:
        self.path = path
        clock = FakeClock()
        self.upstream = Upstream(fixed, clock=clock)
        self._file = UpstreamFile(path, self.upstream, own=["127.0.0.55"], clock=clock, log=log.get("test"))

    def write(self, *servers: str) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text("".join(f"nameserver {s}\n" for s in servers))
        beside.replace(self.path)

    def look(self) -> list[str]:
        self._file.look()
        return [host for host, _ in self.upstream.servers]


def test_a_file_that_changes_is_followed(tmp_path: Path):
    followed = Followed(tmp_path / "resolv.conf", ("192.0.2.9", 5353))
    followed.write("192.0.2.1")
    assert followed.look() == ["192.0.2.9", "192.0.2.1"]
    followed.write("127.0.0.55", "192.0.2.2", "192.0.2.9")
    assert followed.look() == ["192.0.2.9", "192.0.2.2", "192.0.2.9"], "the fixed one has another port"
    with (tmp_path / "resolv.conf").open("a") as file:
        file.write("nameserver 192.0.2.3\n")
    assert followed.look()[-1] == "192.0.2.3"


@pytest.mark.parametrize("loss", ["gone", "empty", "unreadable"])
def test_nothing_is_lost_because_a_file_says_nothing(tmp_path: Path, loss: str):
    followed = Followed(tmp_path / "resolv.conf")
    followed.write("192.0.2.1")
    assert followed.look() == ["192.0.2.1"]
    followed.path.unlink()
    if loss == "empty":
        followed.path.write_text("# nothing\n")
    elif loss == "unreadable":
        followed.path.mkdir()
    with capture_logs() as logs:
        assert followed.look() == followed.look() == ["192.0.2.1"]
    assert len(logs) == 1, "told once"
    if loss == "unreadable":
        followed.path.rmdir()
    followed.write("192.0.2.2")
    assert followed.look() == ["192.0.2.2"]


def test_a_file_that_is_not_there_yet_is_read_when_it_comes(tmp_path: Path):
    followed = Followed(tmp_path / "resolv.conf")
    assert followed.look() == []
    followed.write("192.0.2.1")
    os.utime(followed.path, ns=(0, 0))
    assert followed.look() == ["192.0.2.1"]
