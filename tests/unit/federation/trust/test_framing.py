"""Frames of a pipe: whole, cut off, and none."""

from __future__ import annotations

import io

import pytest

from federation.trust.framing import MAX_FRAME, frame_from


@pytest.mark.parametrize(
    ("data", "frame"),
    [
        (b"\x00\x00\x00\x03abc", b"abc"),
        (b"\x00\x00\x00\x03abcdef", b"abc"),
        (b"\x00\x00\x00\x03ab", b""),
        (b"\x00\x00", b""),
        (b"", b""),
        ((MAX_FRAME + 1).to_bytes(4, "big") + bytes(MAX_FRAME + 1), b""),
    ],
)
def test_a_frame_of_a_pipe(data: bytes, frame: bytes) -> None:
    assert frame_from(io.BytesIO(data)) == frame
