"""The rule file: what it says, and that commands change no line but their own."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from discovery.consul.rules import Rule, add, parse, remove, rule_for
from federation.errors import Conflict, InvalidSettings
from federation.model.service import Grant

TEXT = b"""\
# who may see what
exports:
  # the web, to everyone
  - service: web-*
    consumers: west, edge:80

  - {service: db, datacenter: dc1, name: database, ports: {"": 5432}}  # old
# the end
"""
SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_first_rule_that_matches_decides() -> None:
    rules = parse(TEXT, where="rules.yaml")
    assert rules.lines == (4, 7)
    assert rules.first("dc2", "web-1") is rules.rules[0]
    assert rules.rules[0].grants == (Grant("edge", (80,)), Grant("west"))
    assert rules.first("dc1", "db") == Rule(service="db", datacenter="dc1", name="database", ports={"": 5432})
    assert rules.first("dc2", "db") is None
    assert parse(b"", where="x").rules == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"exports: [{}]", "missing required field `service`"),
        (b"exports: [{service: a, colour: red}]", "unknown field `colour`"),
        (b"export: []", "unknown field `export`"),
        (b"exports:\n- {service: a, name: A_b}", "r.yaml:2: name 'A_b' is no DNS label"),
        (b"exports:\n- service: ok\n- {service: a, ports: {x: 0}}", "r.yaml:3: port 'x': 0 is out of range"),
        (b"exports: [{service: a, protocol: smtp}]", "protocol 'smtp' is not known"),
        (b"exports: [{service: a, consumers: ''}]", "consumer '' is no DNS label"),
        (b"exports: [{service: ''}]", "service is empty"),
        (b"exports: [", "no YAML"),
        (b"\xff\xfe\x00", "no YAML"),
        (b"x" * 2_000_000, "at most 1048576"),
    ],
)
def test_bad_files_are_refused_with_the_line(text: bytes, says: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        parse(text, where="r.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [TEXT, b"", b"exports: []\n", b"# only this\n", b"exports:\n- service: a\n"])
def test_a_rule_goes_in_and_out_and_nothing_else_changes(text: bytes) -> None:
    rule = rule_for("dc1", "api[1]", (Grant("west", (80,)),), since=SINCE)
    there = add(text, rule, where="r.yaml")
    rules = parse(there, where="r.yaml")
    assert rules.rules == (rule, *parse(text, where="r.yaml").rules)
    assert rules.first("dc1", "api[1]") == rule
    assert rules.first("dc1", "api1") is None
    assert rule.since_ns == 1_767_323_045_000_000_000
    for line in text.splitlines():
        if line.startswith((b"#", b"  ")):
            assert line in there
    back = remove(there, 0, where="r.yaml")
    assert parse(back, where="r.yaml").rules == parse(text, where="r.yaml").rules
    if parse(text, where="r.yaml").rules:
        assert back == text


def test_rules_that_share_a_line_are_not_cut() -> None:
    with pytest.raises(Conflict, match="edit that file"):
        remove(b"exports: [{service: a}, {service: b}]\n", 0, where="r.yaml")
    with pytest.raises(Conflict, match="edit that file"):
        add(b"exports: [{service: a}]\n", Rule(service="b"), where="r.yaml")
