"""Where the options of several commands lead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from federation.cli.options import place_of


def test_without_options_it_runs_here() -> None:
    assert place_of("", None) is None


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [
        (None, "one{sep}missing{sep}two", "one{sep}two"),  # all of kubectl's that are there: any may have the context
        (None, "missing", "missing"),  # it is named by the error that follows
        ("two", "one", "two"),
        ("one{sep}two", "", "one{sep}two"),
    ],
)
def test_which_kubeconfigs(
    given: str | None, variable: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", variable.format(sep=os.pathsep))
    place = place_of("there", None if given is None else given.format(sep=os.pathsep))
    assert place is not None
    assert place.kubeconfig == os.pathsep.join(
        str(tmp_path / name) for name in expected.format(sep=os.pathsep).split(os.pathsep)
    )
