from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from federation.errors import InvalidSettings
from federation.settings import MAX_BYTES, load


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
