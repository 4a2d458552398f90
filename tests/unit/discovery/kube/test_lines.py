"""Cutting a watch into lines."""

from __future__ import annotations

import pytest

from discovery.kube.lines import Lines
from federation.errors import InvalidInput


@pytest.mark.parametrize(
    ("chunks", "expected", "partial"),
    [
        ([b""], [], False),
        ([b"a\n"], [b"a"], False),
        ([b"a\nb\n"], [b"a", b"b"], False),
        ([b"a", b"b\nc", b"\n"], [b"ab", b"c"], False),
        ([b"\n\na\n\n"], [b"a"], False),
        ([b"a\nb"], [b"a"], True),
        ([b"x" * 70_000, b"y" * 70_000 + b"\n"], [b"x" * 70_000 + b"y" * 70_000], False),
    ],
)
def test_lines(chunks: list[bytes], expected: list[bytes], partial: bool) -> None:
    lines = Lines()
    assert [line for chunk in chunks for line in lines.feed(chunk)] == expected
    assert lines.partial is partial


def test_a_line_without_end_is_refused() -> None:
    lines = Lines(limit=10)
    assert lines.feed(b"12345\n67890") == [b"12345"]
    with pytest.raises(InvalidInput):
        lines.feed(b"123456")
