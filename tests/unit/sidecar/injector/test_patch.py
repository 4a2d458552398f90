from __future__ import annotations

from typing import Any

import pytest

from sidecar.injector.patch import diff


@pytest.mark.parametrize(
    ("old", "new", "operations"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [{"op": "replace", "path": "/a", "value": 2}]),
        ({}, {"a": {"b": 1}}, [{"op": "add", "path": "/a", "value": {"b": 1}}]),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, [{"op": "add", "path": "/a/c", "value": 2}]),
        ({"a": 1, "b": 2}, {"b": 2}, [{"op": "remove", "path": "/a"}]),
        ({"a": [1]}, {"a": [2, 1]}, [{"op": "replace", "path": "/a", "value": [2, 1]}]),
        ({"a": None}, {"a": {"b": 1}}, [{"op": "replace", "path": "/a", "value": {"b": 1}}]),
        ({"m": {"x": 0}}, {"m": {"a/b~c": 1, "x": 0}}, [{"op": "add", "path": "/m/a~1b~0c", "value": 1}]),
    ],
)
def test_what_makes_one_of_the_other(old: Any, new: Any, operations: list[dict[str, Any]]) -> None:
    assert diff(old, new) == operations
