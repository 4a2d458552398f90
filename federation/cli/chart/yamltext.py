"""YAML as helm's `fromYaml` reads it and its `toYaml` writes it, to the byte: a test compares both."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

_NUMBERS = re.compile(
    r"""[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?\Z   # to the base of 60
    | [-+]?0o[0-7_]+\Z
    | [-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z""",
    re.X,
)
"""What Go's library takes for a number beside what PyYAML does."""


class _Dumper(yaml.SafeDumper):
    """Go's library quotes with double quotes what would not be text, and writes several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    tag = dumper.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    style = None
    if tag != "tag:yaml.org,2002:str" or _NUMBERS.match(text) or text in ("y", "Y", "n", "N"):
        style = '"'
    elif "\n" in text:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _number(dumper: _Dumper, number: float) -> yaml.ScalarNode:
    text = json.dumps(number)
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, _number)


class _Loader(yaml.SafeLoader):
    """What looks like a date is text: JSON has no dates, and that is what helm makes of all values."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the class above
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load(text: str) -> Any:
    """What YAML says, as JSON could say it: keys are text. Raises yaml.YAMLError."""
    return _plain(yaml.load(text, Loader=_Loader))  # noqa: S506 - it is safe


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else json.dumps(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def dump(value: Any) -> str:
    """`value` with sorted keys, without a newline at the end."""
    text = yaml.dump(_sorted(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=80)
    return text.removesuffix("\n")


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value, key=functools.cmp_to_key(compare))}
    return [_sorted(one) for one in value] if isinstance(value, list | tuple) else value


def compare(one: str, other: str) -> int:
    """The order of keys: what differs first decides. Letters follow everything else; numbers go by their value."""
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if at is None:
        return len(one) - len(other)
    a, b = one[at], other[at]
    if a.isalpha() or b.isalpha():
        return ord(a) - ord(b) if a.isalpha() and b.isalpha() else (1 if a.isalpha() else -1)
    within = "0" in (a, b) and re.search(r"[1-9][0-9]*\Z", one[:at]) is not None
    (x, left), (y, right) = (_number_at(text, at, within) for text in (one, other))
    return (x - y) or (left - right) or (ord(a) - ord(b))


def _number_at(text: str, at: int, within: bool) -> tuple[int, int]:
    """The number that begins there, or goes on, and how many digits of it follow."""
    digits = re.compile(r"[0-9]*").match(text, at)
    found = digits[0] if digits else ""
    return int(("1" if within else "0") + found), len(found)
