from pathlib import Path

import pytest

from federation.cli.home import Home
from federation.cli.main import run


def offered(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the shell is told for a line whose last word is not complete."""
    monkeypatch.setenv("_FEDCTL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    run([])
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    "option",
    [
        *("export shop/echo --cluster", "unexport shop/echo --from", "export shop/echo --to"),
        *("vm bootstrap web-1 --cluster", "vm list --cluster", "vm remove web-1 --cluster"),
    ],
)
def test_clusters_that_are_known_are_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
):
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    line = f"fedctl {option} we"
    assert offered(line, monkeypatch, capsys) == []
    Home(directory=tmp_path, clusters={name: tmp_path / name for name in ("east", "west", "west2")}).save()
    assert offered(line, monkeypatch, capsys) == ["west", "west2"]
    (tmp_path / "contexts.yaml").write_text("operator: [}\n")
    assert offered(line, monkeypatch, capsys) == []


def test_options_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    assert "--dry-run" in offered("fedctl unexport shop/echo --", monkeypatch, capsys)
