"""Cuts a stream of bytes into lines. No I/O; lines may be longer than any buffer of the library that reads them."""

from __future__ import annotations

from federation.errors import InvalidInput

MAX_LINE = 16 << 20
"""An object in etcd has at most 1.5 MiB (its default limit); JSON of it is not ten times as long."""


class Lines:
    """Feed it chunks; it returns the lines that are complete, without their ends. Empty lines are left out."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Raises InvalidInput when a line is longer than the limit."""
        if b"\n" not in chunk:
            self._keep(chunk)
            return []
        if self._parts:
            self._parts.append(chunk)
            chunk = b"".join(self._parts)
            self._parts, self._size = [], 0
        *lines, rest = chunk.split(b"\n")
        self._keep(rest)
        return [line for line in lines if line]

    @property
    def partial(self) -> bool:
        """A line has begun and not ended: the stream was cut in the midst of it."""
        return self._size > 0

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise InvalidInput(f"a line of more than {self._limit} bytes", code="kube_line_too_long")
        if part:
            self._parts.append(part)
