"""What the chart is rendered with: its defaults, files and `--set` laid above them, checked by its schema.

What a person gave stays apart from the defaults, since it is what a later `fedctl upgrade` starts from.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from federation.cli.chart import yamltext
from federation.errors import InvalidInput

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

Values = dict[str, Any]


class InvalidValues(InvalidInput):
    """A value that the chart does not know, or that cannot be what it is."""

    code = "invalid_values"


def read(path: Path) -> Values:
    """The values in a YAML file; raises InvalidValues naming it."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValues(f"cannot read the values {path}: {getattr(error, 'strerror', None) or error}") from error
    return parse(text, where=str(path))


def parse(text: str, *, where: str) -> Values:
    """A mapping in YAML; raises InvalidValues naming `where`."""
    try:
        tree = yamltext.load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{where}:{mark.line + 1}" if mark is not None else where
        raise InvalidValues(f"{line}: no YAML: {getattr(error, 'problem', error)}") from error
    if tree is not None and not isinstance(tree, dict):
        raise InvalidValues(f"{where}: these are no values", hint="a values file is a mapping, as values.yaml")
    return tree or {}


def assignment(text: str) -> Values:
    """`a.b=value` as a tree; the value is YAML. Raises InvalidValues."""
    key, equals, value = text.partition("=")
    path = key.split(".")
    if not equals or not all(path):
        raise InvalidValues(f"--set {text[:80]}: not of the form KEY=VALUE", hint="such as --set agent.replicas=1")
    try:
        tree: Any = yamltext.load(value)
    except yaml.YAMLError:
        tree = value
    if tree is None:
        tree = ""
    for part in reversed(path):
        tree = {part: tree}
    assert isinstance(tree, dict)  # noqa: S101 - there is one part at least
    return tree


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Values:
    """`over` above `base`, key by key; null takes a key of `base` away, as helm has it. Neither is changed."""
    out = dict(base)
    for key, value in over.items():
        below = out.get(key)
        if value is None:
            out.pop(key, None)
        elif isinstance(value, Mapping):
            out[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            out[key] = value
    return out


def gather(*layers: Mapping[str, Any]) -> Values:
    """Layers of what a person gave, the last one on top; a null stays, since it is to reach the defaults."""
    out: Values = {}
    for layer in layers:
        for key, value in layer.items():
            below = out.get(key)
            if isinstance(value, Mapping) and isinstance(below, Mapping):
                out[key] = gather(below, value)
            else:
                out[key] = value
    return out


def check(values: Mapping[str, Any], schema: Mapping[str, Any], *, where: str) -> None:
    """Raises InvalidValues for the first key that the schema refuses, with the nearest key that it knows."""
    from jsonschema import Draft202012Validator

    errors = sorted(Draft202012Validator(schema).iter_errors(values), key=lambda error: [str(p) for p in error.path])
    if errors:
        raise _refusal(errors[0], where)


def _refusal(error: ValidationError, where: str) -> InvalidValues:
    path = ".".join(str(part) for part in error.absolute_path)
    instance: Any = error.instance
    if error.validator == "additionalProperties" and isinstance(error.schema, dict) and isinstance(instance, dict):
        known = list(error.schema.get("properties", ()))
        key = next(key for key in instance if key not in known)
        full = f"{path}.{key}" if path else str(key)
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        before = f"{path}." if path else ""
        hint = f"did you mean {before}{near[0]}?" if near else f"known are {', '.join(sorted(known))}"
        return InvalidValues(f"{where}: there is no value {full}", hint=hint, code="unknown_value")
    said = error.message.partition("\n")[0][:200]
    return InvalidValues(f"{where}: {path or 'values'}: {said}", hint="see values.yaml of the chart")


def paths(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping, with its dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from paths(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def schema_of(text: str) -> dict[str, Any]:
    """The schema in `text`, which is ours."""
    tree = json.loads(text)
    assert isinstance(tree, dict)  # noqa: S101
    return tree


def dump(values: Mapping[str, Any]) -> str:
    """As a values file."""
    return yamltext.dump(values) + "\n"


def layers(files: Sequence[Path], sets: Sequence[str]) -> Values:
    """What the options --values and --set give, later ones on top."""
    return gather(*(read(path) for path in files), *(assignment(text) for text in sets))
