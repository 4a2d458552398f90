"""What is told once more at the end of a run of tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clusters.failures import MOST, WIDE, asserted

TESTS = """
import pytest

def test_well(): pass

def test_wrong():
    found, wanted = [1, 2], [1, 3]
    assert found == wanted, "of the list"

@pytest.fixture
def broken(): raise OSError("no such thing")

def test_not_made(broken): pass
"""


def test_a_run(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "clusters.failures", "-p", "no:cacheprovider", "--noconftest"]
    command += ["--rootdir", str(tmp_path), "--failures", str(tmp_path / "told"), str(tmp_path / "test_it.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    first, *others = (tmp_path / "told").read_text().splitlines()
    assert first == "1 passed, 2 failed; exit status 1"
    assert [line for line in others if line.startswith("FAILED")] == [
        "FAILED test_it.py::test_not_made (setup)",
        "FAILED test_it.py::test_wrong (call)",
    ]
    assert "  E   OSError: no such thing" in others
    assert "  E       AssertionError: of the list" in others
    assert "  E       assert [1, 2] == [1, 3]" in others
    assert [line for line in others if line.endswith("test_it.py:8: AssertionError")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", []),
        ("nothing may be skipped in CI: no tmpfs", ["  nothing may be skipped in CI: no tmpfs"]),
        ("\n".join(f"E   {n}" for n in range(99)), [f"  E   {n}" for n in range(MOST)]),
        ("E   " + "x" * 999, ["  E   " + "x" * (WIDE - 4)]),
        (
            "    assert x\nE   assert 0\n\na/test_b.py:7: AssertionError",
            ["  E   assert 0", "  a/test_b.py:7: AssertionError"],
        ),
    ],
)
def test_what_is_told_of_one(text: str, told: list[str]) -> None:
    assert asserted(text) == told
