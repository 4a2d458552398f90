"""`--failures FILE`: what failed in a run of tests, in few lines each: of a long output only the end is kept.

A plugin of pytest; scripts/test prints the files of all its runs last.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

MOST, WIDE = 12, 300
"""Lines of one failure that are told, and their characters."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--failures", type=Path, metavar="FILE", help="write what failed, and what was asserted, there")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path: Path | None = session.config.getoption("--failures")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if path is None or reporter is None:
        return
    failed = [*reporter.stats.get("error", ()), *reporter.stats.get("failed", ())]
    lines = [f"{len(reporter.stats.get('passed', ()))} passed, {len(failed)} failed; exit status {int(exitstatus)}"]
    for report in failed:
        lines += [f"FAILED {report.nodeid} ({report.when})", *asserted(report.longreprtext)]
    path.write_text("\n".join(lines) + "\n")


def asserted(text: str) -> list[str]:
    """Of a traceback what was asserted or raised, and where; of what has no such lines the last ones."""
    lines = text.splitlines()
    told = [line for line in lines if re.match(r"E( |$)", line)] or lines[-MOST:]
    where = [line for line in lines if re.match(r"\S+\.py:\d+: ", line)]
    return [f"  {line[:WIDE]}" for line in (*told[:MOST], *where[-1:])]
