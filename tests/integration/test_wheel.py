"""The wheel, built and installed by docs/vms.md: it stays within its virtual environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists())
SOURCES = ("federation", "gateway", "discovery", "sidecar", "clusters", "pyproject.toml", "README.md", "LICENSE")
PROGRAMS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Of its own, because a wheel leaves something in it."""
    made = tmp_path / "isthmus"
    made.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, made)
    return made


def listing(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() and "__pycache__" not in p.parts}


def test_the_wheel_installs_nothing_outside_its_folders(checkout: Path, tmp_path: Path) -> None:
    """1. the page's commands, on a machine that is a folder  2. all that is new there: packages, programs, one link."""
    found = re.search(
        r"^## Install the programs\n.*?^```sh\n(.*?)^```", (ROOT / "docs/vms.md").read_text(), re.M | re.S
    )
    assert found
    machine = tmp_path / "machine"
    for folder in ("root", "opt", "usr/local/bin", "commands"):
        (machine / folder).mkdir(parents=True)
    commands = tmp_path / "commands"
    commands.mkdir()
    # Of the machine these are other paths, and its Python is the one below the environment of the tests.
    there = f"sed 's,/opt/,{machine}/opt/,g; s,/usr/local/bin,{machine}/usr/local/bin,g'"
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    (machine / "commands/python3").symlink_to(python)
    for name, text in {
        "ssh": f'test "$1" = root@web-1 && shift && cd {machine}/root && PATH={machine}/commands:$PATH && '
        f'PIP_NO_DEPS=1 exec sh -c "$(echo "$*" | {there})"',
        "scp": f'test "$2" = root@web-1: && cp "$1" {machine}/root/',
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    environ = {
        **os.environ,
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_NO_COMPILE": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # which pip reads as: none
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    lines = found[1].splitlines()
    install = next(n for n, line in enumerate(lines) if " install " in line)
    before: set[str] = set()
    for part in (lines[:install], lines[install:]):
        script = "\n".join(["set -eux", *part])
        done = subprocess.run(
            ["bash", "-c", script], cwd=checkout, env=environ, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        before, last = listing(machine), before
    new = before - last
    site = next((machine / "opt/isthmus/lib").iterdir()).relative_to(machine) / "site-packages"
    packages = {name for name in new if name.startswith(f"{site}/")}
    assert new - packages == {f"opt/isthmus/bin/{name}" for name in PROGRAMS} | {"usr/local/bin/fedctl"}
    ours = {Path(name).relative_to(site).parts[0] for name in packages}
    assert ours == {"federation", "gateway", "discovery", "sidecar", "clusters", "isthmus-0.1.0.dist-info"}
    assert os.readlink(machine / "usr/local/bin/fedctl") == f"{machine}/opt/isthmus/bin/fedctl"
