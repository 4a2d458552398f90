"""`python -m clusters`: what is asked for wrongly, or of a machine that lacks something, is said in one coded line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clusters import __main__
from clusters.__main__ import main
from clusters.kind.folder import Folder
from clusters.topologyfile import NAMED


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["up"], 3, "no_topology"),
        (["up", "--topology", "tow-kind"], 2, "no_topology"),
        (["up", "--kind", "0"], 2, "invalid_topology"),
        (["up", "--kind", "17"], 2, "invalid_topology"),
        (["up", "--topology", "no/such.yaml"], 2, "invalid_settings"),
        (["up", "--topology", "two-kind"], 3, "kind_missing"),
        (["status", "--topology", "two-kind"], 3, "docker_missing"),
        (["down", "--topology", "two-kind"], 3, "docker_missing"),
        (["down", "--topology", "whatever"], 3, "docker_missing"),
        (["status", "--topology", "whatever"], 2, "no_topology"),
        (["status"], 3, "docker_missing"),
        (["logs", "--topology", "two-kind", "east", "kitchen"], 2, "invalid_input"),
    ],
)
def test_refused(
    words: list[str],
    status: int,
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([*words, "--state", str(tmp_path / "state"), "-o", "json"]) == status
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error["code"] == code
    assert error["hint"]
    assert "\n" not in error["message"]


def test_people_get_a_line_and_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["down", "--kind", "2", "--state", str(tmp_path)]) == 3
    assert capsys.readouterr().err == (
        "error: docker is not on PATH\n"
        "  next: install a Docker engine (apt-get install docker.io, or docs.docker.com/engine/install)\n"
    )


def test_what_was_brought_up_from_a_file_is_known_by_its_name(tmp_path: Path) -> None:
    folder = Folder("lab", where=tmp_path)
    folder.make()
    folder.save(NAMED["three-kind"])
    options = __main__._parser().parse_args(["status", "--topology", "lab", "--state", str(tmp_path)])
    assert __main__._known("lab", options).names == ["east", "west", "edge"]
