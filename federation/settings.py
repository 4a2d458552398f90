"""Reads a process's settings: one YAML file, parsed once into frozen types. Nothing else reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from federation.errors import InvalidSettings

T = TypeVar("T")

MAX_BYTES = 1 << 20


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


def load(path: Path, kind: type[T]) -> T:
    """Parse the YAML file at `path` into the frozen dataclass (or msgspec Struct) `kind`.

    Raises InvalidSettings, naming the file and the key, for an unreadable file, for YAML that is none, for a missing or
    mistyped key. Unknown keys are refused when `kind` is a Struct with `forbid_unknown_fields`.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidSettings(f"cannot read the settings {path}: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise InvalidSettings(f"the settings {path} have {len(raw)} bytes; at most {MAX_BYTES} are read")
    try:
        tree = yaml.load(raw, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise InvalidSettings(f"{where}: no YAML: {getattr(error, 'problem', error)}") from error
    return convert(tree if tree is not None else {}, kind, where=str(path))


def convert(tree: object, kind: type[T], *, where: str) -> T:
    """`tree` (dicts, lists, scalars) as a `kind`; raises InvalidSettings naming `where` and the key."""
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as error:
        raise InvalidSettings(f"{where}: {error}", hint="see docs/settings.md") from error
