"""The script of the conformance suite, with a suite and a Go command that only pretend."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from clusters import conformance
from clusters.conformance import Program, Result, build, command, kept_command, read, version
from clusters.testbed.build import BuildFailed
from federation import __version__
from federation.errors import InvalidInput, NotFound

REPORT = """\
groups:
  - name: Required
    tests:
      - {desc: a headless service, passed: true, failed: false, skipped: false, conformant: true, message: ""}
      - {desc: "its name", passed: false, failed: false, skipped: false, conformant: false, message: " - was not there"}
  - name: Optional
    tests:
      - {desc: two clusters, passed: false, failed: false, skipped: true, conformant: true, message: " - one is there"}
passed: 1
total: 3
"""

GO = """#!/bin/sh
if [ "$1" = env ]; then echo go1.99.1; exit; fi
[ -z "$FAKE_FAILS" ] || { echo "$FAKE_FAILS" >&2; exit 1; }
grep -q committed ../pkg/file || exit 1
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\n%s\\n' "$FAKE_SUITE" > "$2"; chmod +x "$2"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository that looks like the suite's, with a change that is not committed."""
    folder = tmp_path / "mcs-api"
    for name, text in {
        "conformance/go.mod": "module m\n\ngo 1.23.0\n",
        "pkg/file": "committed",
        "go.mod": "module ..\n",
        "go.sum": "",
        "README.md": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    (folder / "pkg/file").write_text("changed")
    return folder


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "go").write_text(GO)
    (tools / "go").chmod(0o755)
    made = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": f"{tools}:/usr/bin:/bin", "FAKE_SUITE": "exit 0"}
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    return made


def test_the_commit_is_built_once(checkout: Path, environ: dict[str, str], tmp_path: Path) -> None:
    said: list[str] = []
    first = build(checkout, environ, said.append)
    assert first.path == tmp_path / "cache/isthmus/conformance" / first.commit / "conformance.test"
    assert len(said) == 1
    assert build(checkout / ".git", environ, said.append) == first, "a bare repository serves as well"
    assert len(said) == 1
    assert [path.name for path in first.path.parents[1].iterdir()] == [first.commit]


@pytest.mark.parametrize("given", ["nothing", "tools"])
def test_no_checkout(given: str, environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"is no git repository \(git clone https://github.com/kubernetes-sigs/mcs-api"):
        build(tmp_path / given, environ, print)


def test_a_build_that_fails(checkout: Path, environ: dict[str, str]) -> None:
    with pytest.raises(BuildFailed, match=r"the conformance suite could not be built: x.go:1: undefined: y"):
        build(checkout, {**environ, "FAKE_FAILS": "x.go:1: undefined: y"}, lambda _: None)


def test_what_a_report_says() -> None:
    assert read(REPORT.encode()) == Result(
        passed=1,
        total=3,
        others=("its name (failed - was not there)", "two clusters (skipped - one is there)"),
    )


@pytest.mark.parametrize("text", ["", "groups: 1", "{", "groups: []", "groups: [{tests: [{}]}]\npassed: 1\ntotal: 1"])
def test_what_is_no_report(text: str) -> None:
    with pytest.raises(InvalidInput, match="no report of the suite"):
        read(text.encode())


def test_the_command_is_kept_without_this_machine() -> None:
    program = Program(path=Path("/home/somebody/.cache/isthmus/conformance/abc/conformance.test"), commit="abc")
    ours, contexts = "0.1.0+g0123456789ab", ["kind-a", "kind-b"]
    words = command(program, kubeconfig=Path("/home/somebody/config"), contexts=contexts, more=[], version=ours)
    assert words[:3] == [str(program.path), "-kubeconfig=/home/somebody/config", "-contexts=kind-a,kind-b"]
    kept = kept_command(words, program, contexts, ours)
    assert f"# isthmus {ours}; contexts: kind-a kind-b" in kept
    assert f" -version={ours} " in kept
    assert "somebody" not in kept
    assert "mcs-api abc, " in kept
    assert " -contexts=kind-a,kind-b " in kept


def test_the_version_has_the_commit_and_what_was_changed(tmp_path: Path) -> None:
    assert version(tmp_path) == __version__
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    (tmp_path / "file").write_text("a")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "a"], check=True)
    subprocess.run([*git, "tag", "v9"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert version(tmp_path) == f"{__version__}+g{commit[:12]}"
    (tmp_path / "file").write_text("b")
    assert version(tmp_path) == f"{__version__}+g{commit[:12]}.dirty"


RUN = f"cat > report.yaml <<'END'\n{REPORT}END\necho \"$@\"\nexit ${{FAKE_STATUS:-1}}"
WHOLE = RUN.replace("passed: false", "passed: true").replace("passed: 1", "passed: 3")


@pytest.mark.parametrize(
    ("suite", "more", "status", "last", "kept"),
    [
        (RUN, [], 1, "1 of 3 passed", True),
        (WHOLE.replace(":-1", ":-0"), [], 0, "3 of 3 passed", True),
        (WHOLE, [], 1, "3 of 3 passed", True),  # its own status counts as well
        (RUN, ["--", "-ginkgo.focus", "headless"], 1, "1 of 3 passed", False),
        ("exit 3", [], 6, "", False),
    ],
)
def test_a_run(
    suite: str,
    more: list[str],
    status: int,
    last: str,
    kept: bool,
    checkout: Path,
    environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FAKE_SUITE", suite)
    loaded: list[list[str]] = []
    monkeypatch.setattr(conformance, "_load_stand_ins", loaded.append)
    output = tmp_path / "kept"
    given = ["--contexts", "kind-a", "b", "--suite", str(checkout), "--output", str(output), *more]

    assert conformance.main(given) == status

    out, err = capfd.readouterr()
    assert loaded == [["kind-a", "b"]]
    assert (out.splitlines() or [""])[-1] == last
    assert ("-contexts=kind-a,b" in err) == bool(last)
    assert output.is_dir() == kept
    if kept:
        assert read((output / "report.yaml").read_bytes()).total == 3
        assert "-contexts=kind-a,b" in (output / "command.txt").read_text()


def test_nobody_said_where_the_suite_is(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(conformance.SUITE, raising=False)
    assert conformance.main(["--contexts", "a", "b"]) == NotFound.exit_status
    assert "git clone https://github.com/kubernetes-sigs/mcs-api DIR" in capfd.readouterr().err
