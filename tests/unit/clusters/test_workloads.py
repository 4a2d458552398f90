"""What workloads say of clients that do not behave, on real sockets."""

from __future__ import annotations

import re
import socket
import struct
import sys
from pathlib import Path

import pytest

from clusters.children import start_child
from clusters.network import free_port
from clusters.waiting import START, until_now


@pytest.mark.parametrize(
    ("kind", "half", "whole", "answer"),
    [
        ("http", b"GET / HT", b"GET / HTTP/1.0\r\n\r\n", b'"cluster": "east"'),
        ("tcp", b"one\n", b"two\n", b"east\ntwo\n"),
    ],
)
def test_a_client_that_is_killed_is_nothing_to_report(
    kind: str, half: bytes, whole: bytes, answer: bytes, tmp_path: Path
) -> None:
    where, log = ("127.0.0.1", free_port()), tmp_path / "log"
    words = ["--cluster=east", f"--address={where[0]}", f"--port={where[1]}"]
    server = start_child([sys.executable, "-m", "clusters.workloads", kind, *words], log)
    try:
        until_now(lambda: "ready" in log.read_text(), seconds=START, what="the workload")
        for _ in range(5):
            with socket.create_connection(where, timeout=START) as client:
                client.sendall(half)
                # Closed so, its peer is told by a reset.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with socket.create_connection(where, timeout=START) as client:
            client.sendall(whole)
            client.shutdown(socket.SHUT_WR)
            assert answer in b"".join(iter(lambda: client.recv(4096), b""))
    finally:
        server.kill()
        server.wait(timeout=30)
    assert re.fullmatch(rf"ready {re.escape(where[0])}:{where[1]}\n", log.read_text())
