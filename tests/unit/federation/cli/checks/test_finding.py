"""Every code has its paragraph, and no paragraph is without its code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from discovery.probe import dial, words
from federation.cli.checks.finding import PAGE, Code, Level, error, ok, shown, warning, worst

TEXT = (Path(__file__).parents[5] / PAGE).read_text()
SECTIONS = dict(re.findall(r"^### ([a-z-]+)\n\n(.*?)(?=^#|\Z)", TEXT, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("code", list(Code))
def test_each_code_has_its_anchor_and_its_paragraph(code: Code) -> None:
    assert code.anchor == f"docs/checks.md#{code}"
    assert len(SECTIONS[code.value].strip()) > 40


def test_no_paragraph_is_about_a_code_that_does_not_exist() -> None:
    assert SECTIONS.keys() == {code.value for code in Code}


def test_each_code_is_used() -> None:
    folder = Path(__file__).parents[5] / "federation/cli/checks"
    sources = "".join((folder / f"{name}.py").read_text() for name in ("before", "after"))
    assert {code for code in Code if f"Code.{code.name}" not in sources} == set()


def test_each_code_of_a_call_is_in_the_table() -> None:
    codes = {value for module in (words, dial) for name, value in vars(module).items() if name.isupper()}
    told = set(re.findall(r"`([a-z_]+)`", TEXT.partition("### Codes of calls")[2]))
    assert {code for code in codes if isinstance(code, str)} <= told


def test_levels() -> None:
    well, warned = ok(Code.AGENT, "east", "it answers"), warning(Code.CLOCK, "east", "3 s", "NTP")
    failed = error(Code.PINS, "east", "none", "link")
    assert worst([]) is Level.OK
    assert worst([well, warned]) is Level.WARNING
    assert worst([warned, failed, well]) is Level.ERROR
    assert failed.as_dict() == {
        "code": "pins",
        "level": "error",
        "subject": "east",
        "detail": "none",
        "next": "link",
        "see": "docs/checks.md#pins",
    }


def test_many_names_are_cut() -> None:
    assert shown(["b", "a"]) == "a, b"
    assert shown("abcde") == "a, b, c and 2 more"
