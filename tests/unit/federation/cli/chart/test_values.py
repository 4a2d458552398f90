"""Values from files and options, laid above each other and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from federation.cli.chart import values as trees
from federation.cli.chart.source import chart
from federation.cli.chart.values import InvalidValues, assignment, gather, layers, merge, parse, read


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a=1", {"a": 1}),
        ("a.b.c=x", {"a": {"b": {"c": "x"}}}),
        ("a=", {"a": ""}),
        ("a=true", {"a": True}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a={b: c}", {"a": {"b": "c"}}),
        ("a=[::1]:7400", {"a": "[::1]:7400"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=2026-11-26", {"a": "2026-11-26"}),
    ],
)
def test_assignments(text: str, wanted: dict[str, Any]) -> None:
    assert assignment(text) == wanted


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", ""])
def test_what_is_no_assignment(text: str) -> None:
    with pytest.raises(InvalidValues, match="KEY=VALUE"):
        assignment(text)


def test_files_and_options_lie_above_each_other(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("a: {b: 1, c: 2}\nd: [1, 2]\n")
    (tmp_path / "two").write_text("a: {c: 3}\nd: [3]\n")
    assert layers([tmp_path / "one", tmp_path / "two"], ["a.b=9"]) == {"a": {"b": 9, "c": 3}, "d": [3]}


def test_null_reaches_the_defaults_and_takes_them_away() -> None:
    given = gather({"a": {"b": 1}}, {"a": {"c": None}})
    assert given == {"a": {"b": 1, "c": None}}
    base = {"a": {"c": 2, "d": 3}}
    assert merge(base, given) == {"a": {"b": 1, "d": 3}}
    assert base == {"a": {"c": 2, "d": 3}}


def test_keys_are_text_as_in_json() -> None:
    assert parse("a: {991: [x], true: y}", where="f") == {"a": {"991": ["x"], "true": "y"}}


@pytest.mark.parametrize(
    ("text", "why"),
    [("a: [", "f:1: no YAML"), ("- a", "f: these are no values"), ("text", "f: these are no values")],
)
def test_files_that_are_none(text: str, why: str) -> None:
    with pytest.raises(InvalidValues, match=why):
        parse(text, where="f")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidValues, match="cannot read the values"):
        read(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidValues, match="cannot read the values"):
        read(tmp_path / "binary")


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"agnet": {}}, "there is no value agnet", "did you mean agent?"),
        ({"agent": {"replicsa": 1}}, "there is no value agent.replicsa", "did you mean agent.replicas?"),
        ({"gateway": {"service": {"nodeport": 1}}}, "there is no value gateway.service.nodeport", "did you mean"),
        ({"zzzzzzz": 1}, "there is no value zzzzzzz", "known are agent, "),
        ({"agent": {"replicas": "2"}}, "agent.replicas: '2' is not of type 'integer'", "see values.yaml"),
        ({"gateway": {"service": {"nodePort": 70000}}}, "gateway.service.nodePort: 70000 is greater", "see"),
        ({"gateway": {"address": "gw.example.com"}}, "gateway.address: 'gw.example.com' does not match", "see"),
        ({"injector": {"failurePolicy": "ignore"}}, "injector.failurePolicy: 'ignore' is not one of", "see"),
        ({"image": {"digest": "latest"}}, "image.digest", "see"),
    ],
)
def test_what_the_schema_refuses(given: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(InvalidValues) as it:
        chart().values(given, where="mine.yaml")
    assert it.value.message.startswith("mine.yaml: ")
    assert message in it.value.message
    assert hint in it.value.hint


def test_every_default_is_known_to_the_schema_and_every_key_of_the_schema_has_a_default() -> None:
    def keys(schema: Any, before: str = "") -> set[str]:
        found: set[str] = set()
        for key, below in schema.get("properties", {}).items():
            found |= keys(below, f"{before}{key}.") if "properties" in below else {f"{before}{key}"}
        return found

    free = {"global"}  # helm's own
    defaults = {key for key, _ in trees.paths(chart().defaults)}
    known = keys(chart().schema) - free
    assert {key for key in known if not any(one == key or one.startswith(f"{key}.") for one in defaults)} == set()
    chart().values({})


def test_text_that_a_values_file_holds_comes_back() -> None:
    tree = {"a": {"b": ["x", 1, True, "yes", "1e3", ""]}, "c": {}}
    assert parse(trees.dump(tree), where="f") == tree
