import json

import pytest
import yaml

from federation.cli.output import Format, Printer, cell
from federation.errors import NotFound

ROWS = [{"name": "east", "gateways": 1, "ports": [80, 90]}, {"name": "w" * 150, "gateways": 0, "ports": []}]


def test_rows_as_a_table_are_never_cut_when_piped(capsys: pytest.CaptureFixture[str]):
    Printer().rows(("name", "gateways", "ports"), ROWS, empty="none")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "GATEWAYS", "PORTS"]
    assert "80, 90" in lines[1]
    assert "w" * 150 in lines[2]


@pytest.mark.parametrize(("format", "load"), [(Format.JSON, json.loads), (Format.YAML, yaml.safe_load)])
def test_rows_for_programs_are_whole(format: Format, load, capsys: pytest.CaptureFixture[str]):
    Printer(format).rows(("name",), ROWS, empty="none")
    assert load(capsys.readouterr().out) == ROWS
    Printer(format).rows(("name",), [], empty="none")
    assert load(capsys.readouterr().out) == []


def test_nothing_yet_says_what_to_do(capsys: pytest.CaptureFixture[str]):
    Printer().rows(("name",), [], empty="no clusters yet: fedctl token issue")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "fedctl token issue" in printed.err


def test_errors(capsys: pytest.CaptureFixture[str]):
    error = NotFound("no cluster 'x'", hint="see fedctl get clusters")
    Printer().error(error)
    assert capsys.readouterr().err == "error: no cluster 'x'\n  next: see fedctl get clusters\n"
    Printer(Format.JSON).error(error)
    assert json.loads(capsys.readouterr().err) == {
        "error": {"code": "not_found", "message": "no cluster 'x'", "hint": "see fedctl get clusters"}
    }


def test_cells():
    assert [cell(v) for v in (None, "", [], True, False, 0, ["a", 1])] == ["-", "-", "-", "yes", "no", "0", "a, 1"]
