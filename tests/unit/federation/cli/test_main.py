"""Whatever goes wrong: one clear line that says what to do, a coded error with -o json, a stable exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import shellingham

from federation.cli.main import run


def fedctl(home: Path, *arguments: str) -> int:
    return run(["--home", str(home), *arguments])


@pytest.mark.parametrize("words", [[], ["get"], ["cluster"]])
def test_without_a_command_it_tells_which_there_are(capsys: pytest.CaptureFixture[str], words: list[str]):
    assert run(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("Usage: fedctl")
    assert "error:" not in told


@pytest.mark.parametrize(
    ("arguments", "status", "code", "says"),
    [
        (["link", "east", "east"], 2, "self_link", "cannot be linked to itself"),
        (["link", "East", "west"], 2, "invalid_name", "is no DNS label"),
        (["link", "east", "west", "--grant", "moon:a/b"], 2, "invalid_input", "ORIGIN one of east, west"),
        (["link", "east", "west"], 3, "unknown_cluster", "no agent of a cluster 'east'"),
        (["unlink", "east", "west"], 3, "no_registry", "no registry is known"),
        (["token", "issue", "east"], 3, "no_registry", "no registry is known"),
        (["token", "issue", "e_st"], 2, "invalid_name", "is no DNS label"),
        (["token", "issue", "east", "--ttl", "901"], 2, "invalid_ttl", "out of range"),
        (["export", "echo", "--cluster", "east"], 2, "invalid_name", "NAMESPACE/SERVICE"),
        (["export", "shop/echo", "--cluster", "east", "--to", "west:x"], 2, "invalid_input", "ports are numbers"),
        (["export", "shop/echo", "--cluster", "east", "--to", "west:70000"], 2, "invalid_port", "out of range"),
        (["get", "clusters"], 3, "no_registry", "no registry is known"),
        (["resolve", "echo.shop.global", "--from", "moon"], 3, "unknown_cluster", "known: none"),
        (["status"], 3, "no_registry", "no registry is known"),
        (["registry", "serve", "nowhere"], 3, "not_found", "no registry in nowhere"),
        (["registry", "init", "r", "--federation", "Bad_Name"], 2, "invalid_name", "is no DNS label"),
        (["registry", "init", "r", "--federation", "f", "--listen", "x"], 2, "invalid_address", "not HOST:PORT"),
        (["vm", "bootstrap", "web-1", "--cluster", "moon"], 3, "unknown_cluster", "no agent of a cluster 'moon'"),
        (["vm", "bootstrap", "Web", "--cluster", "east"], 2, "invalid_name", "VM 'Web' is no DNS label"),
        (["vm", "bootstrap", "web-1", "--cluster", "east", "--ttl", "901"], 2, "invalid_ttl", "out of range"),
        (["vm", "bootstrap", "web-1", "--cluster", "east", "--gateway", "x"], 2, "invalid_address", "not HOST:PORT"),
        (
            ["vm", "bootstrap", "g", "--cluster", "east", "--gateway", "192.0.2.1:1", "--account", "web"],
            2,
            "invalid_input",
            "a gateway's identity is given",
        ),
        (["vm", "bootstrap", "web-1"], 2, "usage", "Missing option '--cluster'"),
        (["vm", "list", "--cluster", "moon"], 3, "unknown_cluster", "known: none"),
        (["vm", "remove", "web-1", "--cluster", "moon"], 3, "unknown_cluster", "known: none"),
        (["vm", "unpack", "nowhere.yaml", "out"], 10, "storage_failed", "cannot read nowhere.yaml"),
        (["cluster", "leave", "-x"], 2, "usage", "No such option"),
        (["cluster", "leave", "moon", "--dry-run"], 3, "unknown_cluster", "known: none"),
        (["unknown"], 2, "usage", "No such command"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    code: str,
    says: str,
):
    monkeypatch.chdir(tmp_path)
    assert fedctl(tmp_path / "home", *arguments) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err
    assert "Traceback" not in printed.err
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) <= 2  # the line, and what to do next

    if arguments[:2] not in (["registry", "serve"],):
        assert fedctl(tmp_path / "home", *arguments, "-o", "json") == status
        error = json.loads(capsys.readouterr().err)["error"]
        assert error["code"] == code
        assert says in error["message"]
    assert [p.name for p in tmp_path.iterdir()] == []


def test_a_damaged_contexts_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "contexts.yaml").write_text("operator: [}\n")
    assert fedctl(tmp_path, "get", "clusters") == 2
    assert "contexts.yaml:1" in capsys.readouterr().err


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]):
    for words in (
        ["registry", "init"],
        ["registry", "serve"],
        ["token", "issue"],
        ["cluster", "join"],
        ["cluster", "leave"],
        ["link"],
        ["unlink"],
        ["get", "clusters"],
        ["get", "links"],
        ["get", "services"],
        ["get", "endpoints"],
        ["get", "gateways"],
        ["export"],
        ["unexport"],
        ["resolve"],
        ["status"],
        ["demo"],
    ):
        assert run([*words, "--help"]) == 0
        assert "Example: fedctl " + " ".join(words) in " ".join(capsys.readouterr().out.split())


def test_the_demo_is_handed_on_to_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, words: started.append([program, *words]))
    fedctl(tmp_path, "demo", "--clusters", "apiserver", "--keep", "--changes", "7", "-o", "json")
    assert fedctl(tmp_path, "demo", "-o", "yaml") == 2
    words = ["-m", "clusters.demo", "--clusters=apiserver", "--changes=7", "--keep", "--json"]
    assert started == [[sys.executable, sys.executable, *words]]


def test_help_is_given_whatever_the_state_of_the_contexts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "contexts.yaml").write_text("operator: [}\n")
    assert fedctl(tmp_path, "link", "--help") == 0
    assert "Example: fedctl link" in capsys.readouterr().out


def test_version_and_completion(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fedctl ")
    # It is looked up among the parents of this process, and there need not be one: CI, nohup.
    monkeypatch.setattr(shellingham, "detect_shell", lambda *_: ("bash", "/bin/bash"))
    assert run(["--show-completion"]) == 0
    assert "_FEDCTL_COMPLETE" in capsys.readouterr().out
