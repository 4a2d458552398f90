"""One version, told in two places."""

from __future__ import annotations

import tomllib
from pathlib import Path

import federation


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((Path(federation.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert federation.__version__ == project["version"]
