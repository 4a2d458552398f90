"""gRPC knows the switches that the package sets for it, and prints nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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
COMPLAINING = """
import federation, grpc
channel = grpc.secure_channel("127.0.0.1:1", grpc.ssl_channel_credentials(b"no certificate"))
try:
    channel.unary_unary("/a/b")(b"", timeout=30)
except grpc.RpcError:
    pass
"""
IMPORTING = """
import importlib, importlib.abc, os, sys
class First(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            assert "GRPC_VERBOSITY" in os.environ, "gRPC is imported before the package federation"
sys.meta_path.insert(0, First())
importlib.import_module({!r})
import grpc
"""
ROOT = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists())
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def run(program: str = PROGRAM, **environment: str) -> tuple[str, str]:
    rest = {k: v for k, v in os.environ.items() if not k.startswith("GRPC_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=rest | environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip(), done.stderr


def test_every_switch_is_known() -> None:
    switches, errors = run(GRPC_VERBOSITY="INFO")
    assert switches.count("event_engine") == 4
    assert "Unknown experiment" not in errors


def test_the_operators_own_choice_stays() -> None:
    assert run(GRPC_EXPERIMENTS="") == ("", "")


def test_it_prints_nothing_unless_somebody_asks_for_it() -> None:
    assert run(COMPLAINING) == ("", "")
    _, errors = run(COMPLAINING, GRPC_VERBOSITY="INFO")
    assert "ssl" in errors


@pytest.mark.parametrize("module", [*{entry.partition(":")[0] for entry in SCRIPTS.values()}, "clusters.__main__"])
def test_every_program_sets_them_in_time(module: str) -> None:
    assert run(IMPORTING.format(module)) == ("", "")
