"""The redirect way in a network namespace of its own, with the real nft and ip."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from clusters.namespace import NetworkNamespace
from federation.errors import Unavailable

pytestmark = pytest.mark.integration

PROBE = """
import json, socket, struct, sys
from sidecar.intercept.redirect import Redirect, apply, remove

def dial(host, port):
    with socket.socket() as client:
        client.settimeout(3)
        try:
            client.connect((host, port))
            client.sendall(b"hello")
        except OSError as error:
            return type(error).__name__
        conn, _ = listener.accept()
        with conn:
            original = struct.unpack("!2xH4s8x", conn.getsockopt(socket.SOL_IP, 80, 16))
            return [socket.inet_ntoa(original[1]), original[0], conn.recv(5).decode()]

listener = socket.create_server(("0.0.0.0", 15001))
other = socket.create_server(("127.0.0.1", 8080))
result = {}
plan = Redirect()
remove(plan)
apply(plan)
apply(plan)
result["http half"] = dial("240.72.3.4", 80)
result["opaque half"] = dial("240.64.0.1", 5432)
result["last address"] = dial("240.79.255.254", 65535)
result["beside the range"] = dial("240.80.0.1", 80)
with socket.create_connection(("127.0.0.1", 8080), timeout=3):
    result["loopback"] = "untouched"
result["closed port"] = dial("127.0.0.1", 81)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.connect(("240.64.0.1", 53))
    udp.settimeout(3)
    try:
        udp.send(b"x")
        udp.recv(1)
    except OSError as error:
        result["udp"] = type(error).__name__
remove(plan)
remove(plan)
result["removed"] = dial("240.64.0.1", 5432)
json.dump(result, sys.stdout)
"""


@pytest.fixture
def inside() -> Iterator[Callable[[str], str]]:
    """Runs Python code in a fresh network namespace in which only loopback is up."""
    try:
        made = NetworkNamespace()
    except Unavailable as error:
        pytest.skip(f"{error.message}: run scripts/test as root")
    yield made.python
    made.close()


def test_one_range_is_redirected_and_nothing_else(inside: Callable[[str], str]) -> None:
    assert json.loads(inside(PROBE)) == {
        "http half": ["240.72.3.4", 80, "hello"],
        "opaque half": ["240.64.0.1", 5432, "hello"],
        "last address": ["240.79.255.254", 65535, "hello"],
        "beside the range": "OSError",
        "loopback": "untouched",
        "closed port": "ConnectionRefusedError",
        "udp": "ConnectionRefusedError",
        "removed": "OSError",
    }


def test_other_tables_are_left_alone(inside: Callable[[str], str]) -> None:
    out = inside("""
import subprocess
from sidecar.intercept.redirect import Redirect, apply, remove
subprocess.run(["nft", "add table ip foreign"], check=True)
apply(Redirect())
print(subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout)
remove(Redirect())
print(subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout)
""")
    assert out.split("\n\n")[0].splitlines() == ["table ip foreign", "table ip isthmus"]
    assert out.split("\n\n")[1].strip() == "table ip foreign"
