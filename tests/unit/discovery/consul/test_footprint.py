"""An agent without Consul does not pay for it."""

from __future__ import annotations

import subprocess
import sys


def test_no_http_client_is_imported_before_a_connection_is_opened() -> None:
    code = "import discovery.agent, sys; print([m for m in ('aiohttp', 'consul', 'requests') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
