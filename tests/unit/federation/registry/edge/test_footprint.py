"""The edge processes import nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("aiohttp", "kubernetes_asyncio", "rich", "typer", "pygments", "dns", "discovery", "dashboard")
OURS = ("federation.store", "federation.cli", "federation.registry.server", "federation.trust.petition")
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


@pytest.mark.parametrize("process", ["gateway", "sidecar"])
def test_the_edge_processes_import_nothing_heavy(process: str) -> None:
    code = CODE.format(process=process, names=(*HEAVY, *OURS, *BY_THE_WAY))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    modules, libraries, afterwards = done.stdout.split("\n")[:3]
    assert modules == ""
    assert libraries == ""
    assert afterwards == "e3b0c442 Request", "what was kept out can be had later"
