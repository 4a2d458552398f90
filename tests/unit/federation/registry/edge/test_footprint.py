"""The edge processes import nothing heavy."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("aiohttp", "kubernetes_asyncio", "rich", "typer", "pygments", "dns", "discovery", "dashboard")

CODE = f"""
import sys
import federation.registry.edge.main, gateway.agent, gateway.settings, sidecar.agent, sidecar.settings
print(*[name for name in {HEAVY!r} if sys.modules.get(name) is not None])
"""


def test_the_edge_processes_import_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
