"""The edge processes import nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("aiohttp", "kubernetes_asyncio", "rich", "typer", "pygments", "dns", "discovery", "dashboard")
OURS = (
    *("federation.store", "federation.cli", "federation.registry.server", "federation.trust.petition"),
    *("federation.registry.machine", "federation.registry.pod", "federation.registry.door"),
    *("federation.trust.enrolment", "federation.trust.token"),
)
BY_THE_WAY = (
    *("cryptography", "_cffi_backend", "ssl", "_ssl", "_hashlib", "http.server", "http.client", "wsgiref.handlers"),
    *("socketserver", "urllib.request", "email", "unittest", "xml", "tempfile", "sqlite3", "structlog._rich"),
)

CODE = """
import sys
import {process}.__main__ as process
with process.lean.imports():
    import {process}.agent
print(*[name for name in {names!r} if sys.modules.get(name) is not None])
with open("/proc/self/maps") as maps:
    print(*[name for name in ("libssl", "libcrypto", "cryptography") if name in maps.read()])
import ssl, urllib.request, hashlib
ssl.create_default_context()
print(hashlib.sha256(b"").hexdigest()[:8], urllib.request.Request.__name__)
"""

MISUSE = """
from federation.registry.edge import lean
with lean.imports():
    import gateway.agent, uvloop
import asyncio, prometheus_client, socket, ssl
async def dial(tls):
    with socket.create_server(("127.0.0.1", 0)) as server:
        await asyncio.open_connection(*server.getsockname(), ssl=tls, server_hostname="x")
for loop in (asyncio.new_event_loop, uvloop.new_event_loop):
    with asyncio.Runner(loop_factory=loop) as runner:
        for tls in (True, ssl.create_default_context()):
            try:
                runner.run(dial(tls))
            except RuntimeError as error:
                print(error)
try:
    prometheus_client.start_http_server(0)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize("process", ["gateway", "sidecar"])
def test_the_edge_processes_import_nothing_heavy(process: str) -> None:
    code = CODE.format(process=process, names=(*HEAVY, *OURS, *BY_THE_WAY))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    modules, libraries, afterwards = done.stdout.split("\n")[:3]
    assert modules == ""
    assert libraries == ""
    assert afterwards == "e3b0c442 Request", "what was kept out can be had later"


def test_who_needs_what_was_kept_out_is_told_so() -> None:
    """Nothing goes on as if it were there; above all, nothing that asks for TLS goes without."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", MISUSE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"this process does without {what}: see federation.registry.edge.lean"
        for what in (*["create_default_context", "MemoryBIO"] * 2, "make_server")
    ]
