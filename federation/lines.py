"""Where in a YAML file something stands that msgspec or a check refused: from its words to a path, and to a line."""

from __future__ import annotations

import re
from typing import TypeAlias

import msgspec
import yaml

Step: TypeAlias = str | int
"""A key or an index."""

_PATH = re.compile(r" - at `(?:key in )?\$(.*)`\Z")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")


def steps(error: msgspec.ValidationError) -> tuple[tuple[Step, ...], str]:
    """The path in msgspec's message, as far as it is known, and the message without it."""
    text = str(error)
    at = _PATH.search(text)
    if at is None:
        return (), text
    return tuple(int(m[2]) if m[2] else m[1] for m in _STEP.finditer(at[1]) if m[1] or m[2]), text[: at.start()]


def shown(path: tuple[Step, ...]) -> str:
    """A path for people: "spec.ports[0].port"."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def line_of(node: yaml.Node, path: tuple[Step, ...]) -> int:
    """The line of what `path` leads to, or of the nearest thing around it that exists."""
    line: int = node.start_mark.line + 1
    for step in path:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == step:
                    found, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = node.value[step]
            line = found.start_mark.line + 1
        if found is None:
            break
        node = found
    return line
