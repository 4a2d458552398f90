"""gRPC knows the switches that the package sets for it."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import federation, asyncio, grpc, os
async def main():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await server.stop(0)
asyncio.run(main())
print(os.environ["GRPC_EXPERIMENTS"])
"""


def run(**environment: str) -> tuple[str, str]:
    rest = {k: v for k, v in os.environ.items() if k != "GRPC_EXPERIMENTS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=rest | environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip(), done.stderr


def test_every_switch_is_known() -> None:
    switches, errors = run()
    assert switches.count("event_engine") == 4
    assert "Unknown experiment" not in errors


def test_the_operators_own_choice_stays() -> None:
    assert run(GRPC_EXPERIMENTS="") == ("", "")
