"""`scripts/conformance`: the conformance suite of the Multi-Cluster Services API against two clusters.

The suite is the folder `conformance` of the repository kubernetes-sigs/mcs-api. It is built in the user's cache and
runs there; what is kept of a whole run is its report and the command (docs/conformance).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clusters.images import delivery
from clusters.images.builder import SOURCE
from clusters.images.builder import Builder as ImageBuilder
from clusters.testbed.build import Builder, failure, go_environment, go_version
from clusters.testbed.components import least_go
from federation import __version__
from federation.errors import InvalidInput, IsthmusError, NotFound, StorageFailed, Unavailable

SUITE = "ISTHMUS_MCS_API"
"""The environment's variable that names a checkout of kubernetes-sigs/mcs-api."""

STAND_INS = ("netshoot", "socat")

_GET = "git clone https://github.com/kubernetes-sigs/mcs-api DIR, and give it by --suite DIR or ISTHMUS_MCS_API"
_TIMEOUT = "60m"
_PARTS = ("conformance", "pkg", "go.mod", "go.sum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The suite, built, and the commit that it was built from."""

    path: Path
    commit: str


def build(checkout: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> Program:
    """Build the suite of a checkout's HEAD, or of a bare repository's, in the user's cache, once for each commit.

    Raises NotFound where there is no such thing, BuildFailed, Unavailable, StorageFailed.
    """
    commit = _git(checkout, "rev-parse", "HEAD")
    go = Builder(say=say, environ=environ)
    cache = go.cache.parent / "conformance"
    program = Program(path=cache / commit / "conformance.test", commit=commit)
    if program.path.exists():
        return program
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=cache, ignore_cleanup_errors=True) as scratch:
            work = Path(scratch)
            _export(checkout, work)
            suite, ready = work / "conformance", work / "ready"
            toolchain = go.toolchain(least_go((suite / "go.mod").read_text()))
            say(f"building the suite of {commit[:12]} with {go_version(toolchain)}, a minute or two …")
            ready.mkdir()
            log = work / "log"
            with log.open("w") as said:
                done = subprocess.run(
                    ["nice", "-n", "10", toolchain, "test", "-c", "-vet=off", "-o", ready / program.path.name, "."],
                    cwd=suite,
                    env=go_environment(environ, jobs=2),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
            if done.returncode:
                shutil.copyfile(log, cache / "log")
                raise failure("the conformance suite", cache / "log")
            shutil.rmtree(program.path.parent, ignore_errors=True)
            ready.rename(program.path.parent)
    except OSError as error:
        raise StorageFailed(f"cannot write to {cache}: {error.strerror or error}") from error
    return program


def version(source: Path = SOURCE) -> str:
    """What of Isthmus runs: its version and the commit of the source, `.dirty` where that was changed since.

    Without git, or outside of a checkout, the version alone.
    """
    words = ["git", "-C", str(source), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=.dirty"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return __version__
    return f"{__version__}+g{done.stdout.strip()}" if done.returncode == 0 else __version__


def command(
    program: Program,
    *,
    kubeconfig: Path | None,
    contexts: Sequence[str],
    more: Sequence[str],
    version: str = __version__,
) -> list[str]:
    """How the suite is run: every test of it, as it stands; `version`: of Isthmus, for its report."""
    return [
        str(program.path),
        *((f"-kubeconfig={kubeconfig}",) if kubeconfig is not None else ()),
        f"-contexts={','.join(contexts)}",
        "-organization=Isthmus",
        "-project=Isthmus",
        f"-version={version}",
        f"-test.timeout={_TIMEOUT}",
        "-ginkgo.v",
        "-ginkgo.no-color",
        *more,
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a report says."""

    passed: int
    total: int
    others: tuple[str, ...]
    """The tests that did not pass, each with the reason."""


def read(report: bytes) -> Result:
    """The result of a report.yaml; raises InvalidInput for what is none."""
    try:
        tree: Any = yaml.safe_load(report)
        tests = [test for group in tree["groups"] for test in group["tests"]]
        others = [
            f"{test['desc']} ({'skipped' if test['skipped'] else 'failed'}{test['message']})"
            for test in tests
            if not test["passed"]
        ]
        return Result(passed=int(tree["passed"]), total=int(tree["total"]), others=tuple(others))
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"that is no report of the suite: {error}") from error


def kept_command(words: Sequence[str], program: Program, contexts: Sequence[str], version: str = __version__) -> str:
    """The command as it is kept: without folders of the machine that it ran on."""
    shown = [program.path.name if word == str(program.path) else word for word in words]
    shown = ["-kubeconfig=…" if word.startswith("-kubeconfig=") else word for word in shown]
    return (
        f"# kubernetes-sigs/mcs-api {program.commit}, folder conformance: go test -c -o {program.path.name} .\n"
        f"# isthmus {version}; contexts: {' '.join(contexts)}\n"
        f"./{shlex.join(shown)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Progress and what the suite prints go to stderr, the result to stdout; returns the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(options, os.environ)
    except IsthmusError as error:
        _say(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        _say("interrupted; namespaces mcs-conformance-… may be left in the clusters")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/conformance",
        description="Builds the conformance suite of the Multi-Cluster Services API outside of this folder and runs it"
        " against two clusters. Of a whole run the report and the command are kept (docs/conformance/README.md).",
        epilog="What follows -- goes to the suite: -- -ginkgo.focus 'headless'. Such a run is not kept.",
    )
    parser.add_argument("--contexts", nargs=2, metavar=("A", "B"), required=True, help="of the kubeconfig")
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: that of kubectl")
    parser.add_argument("--suite", type=Path, metavar="DIR", help=f"a checkout of kubernetes-sigs/mcs-api (or {SUITE})")
    parser.add_argument("--output", type=Path, metavar="DIR", default=SOURCE / "docs" / "conformance")
    parser.add_argument(
        "--real-images",
        action="store_true",
        help="let the nodes pull the images of the suite's pods; otherwise stand-ins are loaded into kind clusters",
    )
    parser.add_argument("more", nargs="*", metavar="-- OPTION", help=argparse.SUPPRESS)
    return parser


def _run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    given = options.suite or (Path(environ[SUITE]) if environ.get(SUITE) else None)
    if given is None:
        raise NotFound("where the suite is was not said", hint=_GET, code="suite_missing")
    program = build(given, environ, _say)
    if not options.real_images:
        _load_stand_ins(options.contexts)
    kubeconfig = options.kubeconfig.absolute() if options.kubeconfig is not None else None
    ours = version()
    words = command(program, kubeconfig=kubeconfig, contexts=options.contexts, more=options.more, version=ours)
    with tempfile.TemporaryDirectory(prefix="isthmus-conformance-") as folder:
        status = subprocess.run(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode
        try:
            report = (Path(folder) / "report.yaml").read_bytes()
        except FileNotFoundError:
            raise Unavailable("the suite ended without a report", hint="see what it printed") from None
    result = read(report)
    for line in result.others:
        print(line)
    print(f"{result.passed} of {result.total} passed")
    if not options.more:
        _keep(options.output, report, kept_command(words, program, options.contexts, ours))
    return 0 if status == 0 and result.passed == result.total else 1


def _load_stand_ins(contexts: Sequence[str]) -> None:
    """Into kind clusters, by the names of their contexts; others pull the images themselves."""
    kinds = [context.removeprefix("kind-") for context in contexts if context.startswith("kind-")]
    if not kinds:
        return
    images = [ImageBuilder(say=_say).image(name) for name in STAND_INS]
    for kind in kinds:
        delivery.load_into_kind(images, kind)
    _say(f"{' and '.join(image.reference for image in images)}: stand-ins are in the nodes of {' and '.join(kinds)}")


def _keep(folder: Path, report: bytes, words: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.yaml").write_bytes(report)
        (folder / "command.txt").write_text(words)
    except OSError as error:
        raise StorageFailed(f"cannot write to {folder}: {error.strerror or error}") from error


def _export(checkout: Path, into: Path) -> None:
    """The files of HEAD that the suite is built from; what was changed in a work tree does not count."""
    with tempfile.TemporaryFile() as file:
        git = subprocess.run(
            ["git", "-C", checkout, "archive", "--format=tar", "HEAD", *_PARTS],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if git.returncode:
            told = git.stderr.strip().splitlines() or [f"status {git.returncode}"]
            raise NotFound(f"{checkout} is no checkout of kubernetes-sigs/mcs-api: {told[-1]}", hint=_GET)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            archive.extractall(into, filter="data")


def _git(checkout: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", checkout, *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotFound(f"git cannot be run: {error.strerror}", hint="install git") from error
    found = done.stdout.strip()
    if done.returncode or not re.fullmatch(r"[0-9a-f]{40,64}", found):
        raise NotFound(f"{checkout} is no git repository", hint=_GET, code="suite_missing")
    return found


def _say(line: str) -> None:
    print(f"scripts/conformance: {line}", file=sys.stderr, flush=True)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
