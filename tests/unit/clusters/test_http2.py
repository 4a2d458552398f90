"""What is written by hand is HTTP/2, and what is read of an answer is what it says."""

from __future__ import annotations

import pytest

from clusters import http2


def frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def test_a_request_is_one_block_of_headers_that_ends_its_stream() -> None:
    raw = http2.request(http2.headers("echo.shop.global", "GET", ("x-a", "b" * 130), path="/p"))
    assert raw.startswith(http2.PREFACE + frame(4, 0, b"", 0))
    block = raw[len(http2.PREFACE) + 9 :]
    assert block[3:9] == bytes([1, 5, 0, 0, 0, 1])
    assert int.from_bytes(block[:3], "big") == len(block) - 9
    assert b"\x10\x0a:authority\x10echo.shop.global" in block
    assert b"\x10\x03x-a\x7f\x83\x00" + b"b" * 130 in block  # RFC 7541, 5.1: 127 + 3 + 0 * 128


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([], (0, "")),
        ([frame(4, 0, b"", 0), frame(1, 4, b"\x88")], (0, "")),
        ([frame(1, 5, b"\x88")], (200, "")),
        ([frame(1, 4, b"\x88"), frame(0, 0, b"he"), frame(0, 1, b"llo")], (200, "hello")),
        ([frame(1, 5, b"\x48\x03421")], (421, "")),
        ([frame(1, 5, b"\x48\x82\x68\x41")], (421, "")),  # the same by Huffman
        ([frame(3, 0, b"\0\0\0\0")], (http2.RESET, "")),
        ([frame(7, 0, b"\0" * 8, 0)], (http2.RESET, "")),
    ],
)
def test_an_answer_is_read_when_it_has_ended(frames: list[bytes], expected: tuple[int, str]) -> None:
    raw = b"".join(frames)
    assert http2.answer(raw) == expected
    if expected[0]:
        assert http2.answer(raw[:-1]) == (0, "")
