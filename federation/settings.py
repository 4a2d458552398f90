"""Reads a process's settings: one YAML file and the keys that its command line sets, parsed once into frozen types.

Nothing else reads the environment.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec
import yaml

from federation.errors import InvalidSettings

T = TypeVar("T")

MAX_BYTES = 1 << 20
_HINT = "see docs/settings.md"


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`level`: debug, info, warning or error. `json` null: JSON unless stderr is a terminal."""

    level: str = "info"
    json: bool | None = None

    def check(self) -> None:
        """Raises InvalidSettings."""
        if self.level not in ("debug", "info", "warning", "error"):
            raise InvalidSettings(f"log.level is {self.level!r}", hint="use debug, info, warning or error")


class LocalitySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where this process runs."""

    region: str = ""
    zone: str = ""


def add_set(parser: ArgumentParser) -> None:
    """`--set KEY=VALUE`, repeatable; what is given stands in `changes` of the options, for `load`."""
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one key of the settings, such as log.level=debug; the value is YAML; the last one counts",
    )


def load(path: Path, kind: type[T], changes: Sequence[str] = ()) -> T:
    """Parse the YAML file at `path` into the frozen dataclass (or msgspec Struct) `kind`.

    `changes` are "KEY=VALUE" and stand above the file: dots lead into nested keys, values are YAML. Raises
    InvalidSettings, naming the file (or `--set`) and the key, for an unreadable file, for YAML that is none, for a
    missing or mistyped key. Unknown keys are refused when `kind` is a Struct with `forbid_unknown_fields`, those of
    `changes` always.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidSettings(f"cannot read the settings {path}: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise InvalidSettings(f"the settings {path} have {len(raw)} bytes; at most {MAX_BYTES} are read")
    try:
        tree = _parse(raw)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise InvalidSettings(f"{where}: no YAML: {getattr(error, 'problem', error)}") from error
    tree = tree if tree is not None else {}
    if isinstance(tree, dict):  # what else it may be is told below
        for change in changes:
            _change(tree, kind, change)
    return convert(tree, kind, where=str(path))


def convert(tree: object, kind: type[T], *, where: str) -> T:
    """`tree` (dicts, lists, scalars) as a `kind`; raises InvalidSettings naming `where` and the key."""
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as error:
        raise InvalidSettings(f"{where}: {error}", hint=_HINT) from error


# --- one key of the command line


def _parse(text: str | bytes) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe


def _change(tree: dict[Any, Any], kind: Any, change: str) -> None:
    """Set in `tree`, which becomes a `kind`, what `change` ("KEY=VALUE") says. Raises InvalidSettings."""
    key, found, text = change.partition("=")
    if not found or not all(key.split(".")):
        raise InvalidSettings(f"--set {change[:80]}: not of the form KEY=VALUE", hint="such as --set log.level=debug")
    *parents, last = key.split(".")
    table, wanted = tree, kind
    for part in parents:
        name, wanted = _below(wanted, part, key)
        if table.get(name) is None:
            table[name] = {}
        table = table[name]
        if not isinstance(table, dict):
            raise InvalidSettings(f"--set {key}: {part} in the settings has no keys of its own", hint=_HINT)
    name, wanted = _below(wanted, last, key)
    table[name] = _value(text, wanted, key)


def _below(kind: Any, part: str, key: str) -> tuple[Any, Any]:
    """What `part` is as a key of a `kind`, and the type of what stands there."""
    for one in _alternatives(kind):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            for field in msgspec.structs.fields(one):
                if field.encode_name == part:
                    return part, field.type
        if isinstance(get_origin(one), type) and issubclass(get_origin(one), Mapping):
            keys, values = get_args(one)
            return _value(part, keys, key), values
    raise InvalidSettings(f"--set {key}: there is no key {key}", hint=_HINT)


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _value(text: str, kind: Any, key: str) -> Any:
    """`text` as YAML; or as it is, where it is wanted as text and YAML would make something else of it (`[::1]:7400`,
    `0123`, nothing)."""
    refused = "no YAML"
    try:
        value = _parse(text)
        msgspec.convert(value, kind, strict=True)
        return value
    except msgspec.ValidationError as error:
        refused = str(error)
    except yaml.YAMLError:
        pass
    try:
        msgspec.convert(text, kind, strict=True)
    except msgspec.ValidationError:
        raise InvalidSettings(f"--set {key}={text[:80]}: {refused}", hint=_HINT) from None
    return text
