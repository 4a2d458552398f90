"""What a preview looks like, and the grants that are asked for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from federation.cli.export import Looked, parse_consumers, show
from federation.cli.output import Format, Printer
from federation.cli.preview import Known
from federation.errors import IsthmusError
from federation.model.cluster import Link
from federation.model.ids import ServiceName
from federation.model.service import Grant, Port, Protocol, Service

ECHO = ServiceName("shop", "echo")
OURS = Service(
    name=ECHO,
    exported_at_ns=20,
    ports=(Port(name="sig", port=7, protocol=Protocol.SCTP), Port(name="http", port=80), Port(name="admin", port=81)),
    grants=(Grant("moon"), Grant("north"), Grant("west", (80, 99))),
)
THEIRS = Service(name=ECHO, exported_at_ns=10, ports=(Port(name="http", port=80),), headless=True)
LOOKED = Looked(
    known=Known(
        origin="east",
        name=ECHO,
        after=OURS,
        links=[Link(a="east", b=name) for name in ("far", "north", "west")],
        others={"north": THEIRS},
        uncarried=[(7, "SCTP")],
    ),
    withdraw=False,
    path="ServiceExport shop/echo",
    changed=True,
    peers={"far": ("live", ""), "north": ("stale", "its last report counts"), "west": ("live", "")},
    namespaces={"north": "exists", "west": "missing"},
)


def table(looked: Looked, capsys: pytest.CaptureFixture[str]) -> tuple[list[list[str]], list[str]]:
    """The cells of the rows, and the notes."""
    show(looked, Printer(Format.TABLE))
    printed = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in printed.out.splitlines()[1:]]
    return rows, printed.err.splitlines()


def test_the_table_says_who_sees_what_and_why(capsys: pytest.CaptureFixture[str]):
    rows, notes = table(LOOKED, capsys)
    north = "stale: its last report counts; also from north"
    assert rows == [
        ["far", "7/SCTP sig", "no", "export's grant", "-", "-", "-"],
        ["far", "80/TCP http", "no", "export's grant", "-", "-", "-"],
        ["far", "81/TCP admin", "no", "export's grant", "-", "-", "-"],
        ["moon", "-", "no", "no link", "-", "-", "-"],
        ["north", "7/SCTP sig", "yes", "export's grant", "gains", "Headless", north],
        ["north", "80/TCP http", "yes", "export's grant", "gains", "Headless", north],
        ["north", "81/TCP admin", "yes", "export's grant", "gains", "Headless", north],
        ["west", "7/SCTP sig", "no", "export's grant", "-", "-", "-"],
        [
            "west",
            "80/TCP http",
            "yes",
            "export's grant",
            "gains",
            "ClusterSetIP",
            "it has no namespace shop: no ServiceImport",
        ],
        ["west", "81/TCP admin", "no", "export's grant", "-", "-", "-"],
    ]
    assert notes == [
        "shop/echo of east would be exported (ServiceExport shop/echo); nothing is written",
        "port 7/SCTP is not carried by gateways and sidecars: they carry TCP",
        "west is granted port 99, which shop/echo does not have",
        "conflict: PortConflict: east: has 7/SCTP, 81/TCP, which north has not (as seen by east, north)",
        "conflict: TypeConflict: east: type is Headless as in north, not ClusterSetIP (as seen by east, north)",
    ]


def test_the_documentation_shows_just_that(capsys: pytest.CaptureFixture[str]):
    root = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists())
    page = (root / "docs" / "exporting.md").read_text().splitlines()
    start = next(n for n, line in enumerate(page) if line.startswith("fedctl export") and line.endswith("--dry-run"))
    example = page[start + 1 : page.index("```", start)]
    show(LOOKED, Printer(Format.TABLE))
    printed = capsys.readouterr()
    first, *rest = printed.err.splitlines()
    assert example == [first, *(line.rstrip() for line in printed.out.splitlines()), *rest]


def test_a_withdrawal_says_who_loses_it(capsys: pytest.CaptureFixture[str]):
    known = replace(LOOKED.known, before=OURS, after=None, uncarried=())
    rows, notes = table(replace(LOOKED, known=known, withdraw=True), capsys)
    assert [row for row in rows if row[4] == "loses"] == [
        ["north", "7/SCTP sig", "no", "withdrawn", "loses", "-", "still from north"],
        ["north", "80/TCP http", "no", "withdrawn", "loses", "-", "-"],
        ["north", "81/TCP admin", "no", "withdrawn", "loses", "-", "-"],
        ["west", "80/TCP http", "no", "withdrawn", "loses", "-", "-"],
    ]
    assert notes == ["shop/echo of east would be withdrawn (ServiceExport shop/echo); nothing is written"]


@pytest.mark.parametrize(
    ("looked", "says"),
    [
        (replace(LOOKED, changed=False), "already exported like this"),
        (replace(LOOKED, changed=False, withdraw=True), "is not exported; nothing would be written"),
        (replace(LOOKED, partly="the registry is away"), "the registry is away"),
        (replace(LOOKED, known=Known(origin="east", name=ECHO, after=OURS)), "east is linked to no cluster"),
        (
            replace(LOOKED, known=Known(origin="east", name=ECHO, after=replace(OURS, grants=()))),
            "east is linked to no cluster",
        ),
    ],
)
def test_what_else_is_said(looked: Looked, says: str, capsys: pytest.CaptureFixture[str]):
    _, notes = table(looked, capsys)
    assert any(says in note for note in notes), notes


def test_json_and_yaml_say_the_same_in_codes(capsys: pytest.CaptureFixture[str]):
    show(LOOKED, Printer(Format.JSON))
    tree = json.loads(capsys.readouterr().out)
    show(LOOKED, Printer(Format.YAML))
    assert yaml.safe_load(capsys.readouterr().out) == tree
    by_name = {c.pop("cluster"): c for c in tree.pop("consumers")}
    conflicts = tree.pop("conflicts")
    assert tree == {
        "cluster": "east",
        "service": "shop/echo",
        "action": "export",
        "path": "ServiceExport shop/echo",
        "would_change": True,
        "complete": True,
        "refused_ports": [{"port": 7, "protocol": "SCTP"}],
        "stray_ports": [{"consumer": "west", "port": 99}],
    }
    assert [(c["reason"], c["at"], c["new"]) for c in conflicts] == [
        ("PortConflict", ["east", "north"], True),
        ("TypeConflict", ["east", "north"], True),
    ]
    assert by_name["west"].pop("ports")[1] == {
        "port": 80,
        "protocol": "TCP",
        "name": "http",
        "sees": True,
        "rule": "export_grant",
        "change": "gains",
    }
    assert by_name["west"] == {
        "linked": True,
        "sees": True,
        "rule": "export_grant",
        "change": "gains",
        "type": "ClusterSetIP",
        "namespace": "missing",
        "state": "live",
        "detail": "",
        "others": [],
    }
    assert (by_name["moon"]["rule"], by_name["moon"]["namespace"]) == ("no_link", "unknown")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], []),
        (["west"], [Grant("west")]),
        (["west:81,80", "east"], [Grant("east"), Grant("west", (80, 81))]),
        (["west:80", "west:443"], [Grant("west", (80, 443))]),
        (["west:80", "west"], [Grant("west")]),
        (["*:80"], [Grant("*", (80,))]),
    ],
)
def test_grants_are_put_together(texts: list[str], expected: list[Grant]):
    assert parse_consumers(texts) == expected


@pytest.mark.parametrize(
    ("text", "code"), [("We st", "invalid_name"), ("west:http", "invalid_input"), ("west:0", "invalid_port")]
)
def test_grants_that_make_no_sense(text: str, code: str):
    with pytest.raises(IsthmusError) as caught:
        parse_consumers([text])
    assert caught.value.error_code == code
