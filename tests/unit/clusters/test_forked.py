"""Commands in forks of one interpreter: words, folder, environment, streams and status are those of the command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters.children import start_child
from clusters.forked import command
from clusters.waiting import START, until_now

SERVER = """
import os, sys
from clusters.forked import serve

def tell(words):
    print(os.getcwd(), os.environ.get("WHO"), sys.stdin.read(), *words)
    print("aside", file=sys.stderr)
    return 7

def end(words):
    sys.exit("so it ends")

def fail(words):
    raise ValueError("no")

serve(sys.argv[1], {"tell": tell, "end": end, "fail": fail})
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("f")
    server = start_child([sys.executable, "-c", SERVER, folder / "socket"], folder / "log")
    try:
        for name in ("tell", "end", "fail"):
            command(folder, name, folder / "socket")
        until_now((folder / "socket").exists, seconds=START, what="the server of commands")
        yield folder
    finally:
        server.kill()
        server.wait()


def run(commands: Path, name: str, *words: str, cwd: Path = Path("/"), who: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [commands / name, *words], input="in", capture_output=True, text=True, cwd=cwd, env={"WHO": who}, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_a_command_is_what_it_would_be_by_itself(commands: Path, tmp_path: Path) -> None:
    assert run(commands, "tell", "a b", "-c", cwd=tmp_path, who="me") == (7, f"{tmp_path} me in a b -c\n", "aside\n")
    assert run(commands, "tell", who="you") == (7, "/ you in\n", "aside\n")  # nothing stays of the one before


def test_how_a_command_ends(commands: Path) -> None:
    assert run(commands, "end") == (1, "", "so it ends\n")
    status, _, told = run(commands, "fail")
    assert status == 125
    assert "ValueError: no" in told
