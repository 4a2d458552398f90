import argparse
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from federation.errors import InvalidSettings
from federation.settings import MAX_BYTES, add_set, load


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    port: int = 1


@dataclass(frozen=True)
class Plain:
    name: str


def test_a_file_becomes_a_frozen_value(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text("name: east\nport: 7\n")
    assert load(path, Strict) == Strict("east", 7)
    path.write_text("name: east\n")
    assert load(path, Plain) == Plain("east")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name"),
        ("name: 3", r"Expected `str`, got `int` - at `\$.name`"),
        ("name: a\nport: x", r"\$.port"),
        ("name: a\ncolour: red", "colour"),
        ("name: [", "s.yaml:[12]: no YAML"),
        ("- a\n- b", "Expected `object`"),
        ("name: !!python/object:os.system x", "no YAML"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, says: str):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSettings, match=says):
        load(path, Strict)


def test_unreadable_and_oversized_files(tmp_path: Path):
    with pytest.raises(InvalidSettings, match="No such file"):
        load(tmp_path / "absent", Strict)
    (tmp_path / "big").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidSettings, match="at most"):
        load(tmp_path / "big", Strict)


class Nested(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = ""
    told: str | tuple[str, ...] = ""


class Wide(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    port: int = 1
    ttl: float = 1.0
    json: bool | None = None
    nested: Nested = Nested()
    maybe: Nested | None = None
    users: dict[int | str, list[str]] = {}
    ports: tuple[int, int] = (1, 2)


def wide(tmp_path: Path, *changes: str, text: str = "name: east\n") -> Wide:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return load(path, Wide, changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("name=west",), Wide(name="west")),
        (("port=7", "port=8"), Wide(name="east", port=8)),
        (("ttl=2",), Wide(name="east", ttl=2)),
        (("json=true",), Wide(name="east", json=True)),
        (("json=",), Wide(name="east")),
        (("ports=[3, 4]",), Wide(name="east", ports=(3, 4))),
        (("nested.listen=0.0.0.0:1",), Wide(name="east", nested=Nested("0.0.0.0:1"))),
        (("nested.told=[a:1, 'b:2']",), Wide(name="east", nested=Nested(told=("a:1", "b:2")))),
        (("maybe.listen=x", "maybe.told=y"), Wide(name="east", maybe=Nested("x", "y"))),
        (("maybe={listen: x}",), Wide(name="east", maybe=Nested("x"))),
        (("users.991=[a/b]", "users.ann=[c/*]"), Wide(name="east", users={991: ["a/b"], "ann": ["c/*"]})),
        # What a pod or a Service is called or has for an address, YAML would take for something else.
        (("name=0123",), Wide(name="0123")),
        (("name=true",), Wide(name="true")),
        (("name=1e5",), Wide(name="1e5")),
        (("name=2026-01-01",), Wide(name="2026-01-01")),
        (("name=10:20:30:40:50:51:52:53",), Wide(name="10:20:30:40:50:51:52:53")),
        (("nested.told=[fd00::1]:7445",), Wide(name="east", nested=Nested(told="[fd00::1]:7445"))),
        (("name=",), Wide(name="")),
        (("name=a=b",), Wide(name="a=b")),
        (("name='a b'",), Wide(name="a b")),
    ],
)
def test_the_command_line_sets_keys(tmp_path: Path, changes: tuple[str, ...], expected: Wide):
    assert wide(tmp_path, *changes) == expected


def test_the_command_line_stands_above_the_file_and_leaves_the_rest(tmp_path: Path):
    text = "name: east\nport: 7\nmaybe:\nnested: {listen: a, told: b}\n"
    assert wide(tmp_path, "nested.told=c", "maybe.listen=d", text=text) == Wide(
        name="east", port=7, nested=Nested("a", "c"), maybe=Nested("d")
    )
    assert wide(tmp_path, "name=east", text="") == Wide(name="east")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("port=x", r"--set port=x: Expected `int`, got `str`"),
        ("port=[", "--set port=\\[: no YAML"),
        ("colour=red", "--set colour: there is no key colour"),
        ("nested.colour=red", "--set nested.colour: there is no key nested.colour"),
        ("maybe={colour: red}", "--set maybe=.*colour"),
        ("port.x=1", "--set port.x: there is no key port.x"),
        ("users.x=1", "--set users.x=1: Expected `array`"),
        ("name", "--set name: not of the form KEY=VALUE"),
        ("=x", "not of the form KEY=VALUE"),
        ("nested.=x", "not of the form KEY=VALUE"),
        ("ports=[1]", "--set ports="),
    ],
)
def test_what_the_command_line_cannot_set_is_named(tmp_path: Path, change: str, says: str):
    with pytest.raises(InvalidSettings, match=says):
        wide(tmp_path, change)


def test_a_file_that_is_wrong_is_told_as_before(tmp_path: Path):
    with pytest.raises(InvalidSettings, match="nested in the settings has no keys"):
        wide(tmp_path, "nested.listen=x", text="name: a\nnested: 3\n")
    with pytest.raises(InvalidSettings, match="Expected `object`"):
        wide(tmp_path, "port=1", text="- a\n")
    with pytest.raises(InvalidSettings, match=r"s\.yaml: .*name"):
        wide(tmp_path, "port=1", text="port: 2\n")


def test_the_option_is_repeatable():
    parser = argparse.ArgumentParser()
    add_set(parser)
    assert parser.parse_args(["--set", "a=1", "--set", "b=2"]).changes == ["a=1", "b=2"]
    assert parser.parse_args([]).changes == []
