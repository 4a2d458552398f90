"""From what was refused to the line on which it stands."""

from __future__ import annotations

import msgspec
import pytest
import yaml

from federation.lines import Step, line_of, shown, steps

TEXT = """\
name: echo
ports:
- port: 80
- port: 81
  name: admin
"""


class Port(msgspec.Struct, forbid_unknown_fields=True):
    port: int
    name: str = ""


class Service(msgspec.Struct):
    ports: list[Port]
    labels: dict[str, int] = {}


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 1),
        (("ports",), 2),
        (("ports", 0), 3),
        (("ports", 1, "name"), 5),
        (("ports", 1, "target"), 4),  # the nearest thing that is there
        (("ports", 7), 2),
        (("name", "deeper"), 1),
    ],
)
def test_the_line_of_a_path(path: tuple[Step, ...], line: int) -> None:
    assert line_of(yaml.compose(TEXT), path) == line


@pytest.mark.parametrize(
    ("given", "path", "words"),
    [
        ({"ports": [{"port": "x"}]}, ("ports", 0, "port"), "Expected `int`, got `str`"),
        ({"ports": 1}, ("ports",), "Expected `array`, got `int`"),
        ({"ports": [], "labels": {"a": "b"}}, ("labels",), "Expected `int`, got `str`"),  # msgspec names no key
        (1, (), "Expected `object`, got `int`"),
    ],
)
def test_the_path_of_an_error(given: object, path: tuple[Step, ...], words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(given, Service)
    assert steps(caught.value) == (path, words)


def test_a_path_for_people() -> None:
    assert shown(("spec", "ports", 0, "port")) == "spec.ports[0].port"
    assert shown(()) == ""
