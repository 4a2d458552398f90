"""YAML as helm's `toYaml` writes it, to the byte: a test compares both."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?\Z")


class _Dumper(yaml.SafeDumper):
    """Go's library quotes with double quotes what would not be text, and writes several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    tag = dumper.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    style = None
    if tag != "tag:yaml.org,2002:str" or _BASE_60.match(text) or text in ("y", "Y", "n", "N"):
        style = '"'
    elif "\n" in text:
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _number(dumper: _Dumper, number: float) -> yaml.ScalarNode:
    text = json.dumps(number)
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, _number)


def dump(value: Any) -> str:
    """`value` with sorted keys, without a newline at the end."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=True, allow_unicode=True, width=1 << 30).removesuffix("\n")
