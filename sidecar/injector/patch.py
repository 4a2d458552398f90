"""The difference of two JSON values as a patch (RFC 6902). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Operation = dict[str, Any]


def diff(old: Any, new: Any) -> list[Operation]:
    """What makes `new` of `old`. Lists that differ are replaced whole: they are short, and order counts in them."""
    return list(_diff("", old, new))


def _diff(path: str, old: Any, new: Any) -> Iterator[Operation]:
    if old == new:
        return
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        yield {"op": "replace", "path": path, "value": new}
        return
    for key in old:
        if key not in new:
            yield {"op": "remove", "path": f"{path}/{_escape(key)}"}
    for key, value in new.items():
        at = f"{path}/{_escape(key)}"
        if key in old:
            yield from _diff(at, old[key], value)
        else:
            yield {"op": "add", "path": at, "value": value}


def _escape(key: str) -> str:
    """A member's name within a pointer (RFC 6901, 3)."""
    return key.replace("~", "~0").replace("/", "~1")
