"""One GET, and as much of the answer as tells who gave it."""

from __future__ import annotations

import pytest

from discovery.probe import http
from discovery.probe.http import Answer, Broken


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(4, 0, 0, b"")
SPECIFIED = {302: b"\x48\x82\x64\x02", 307: b"\x48\x83\x64\x0e\xff", 200: b"\x88"}
"""Header blocks of RFC 7541, C.6."""


def huffman(status: int) -> bytes:
    codes = {0: "00000", 1: "00001", 2: "00010"} | {d: f"{0b011001 + d - 3:06b}" for d in range(3, 10)}
    bits = "".join(codes[int(d)] for d in str(status))
    bits += "1" * (-len(bits) % 8)
    value = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return b"\x48" + bytes([0x80 | len(value)]) + value


@pytest.mark.parametrize(
    ("raw", "ended", "answer"),
    [
        (b"", False, None),
        (b"HTTP/1.1 200 OK\r\n", False, None),
        (b"HTTP/1.1 200 OK\r\n\r\n", False, Answer(200)),
        (b"HTTP/1.1 404\r\nX: y\r\n\r\n", True, Answer(404)),
        (b"HTTP/1.1 503 Unavailable\r\n\r\nisth", False, None),
        (b"HTTP/1.1 503 Unavailable\r\n\r\nisthmus: 503: no", False, Answer(503, "isthmus: 503: no")),
        (b"HTTP/1.0 500 Oh\r\n\r\nno", True, Answer(500, "no")),
    ],
)
def test_http_1(raw: bytes, ended: bool, answer: Answer | None) -> None:
    assert http.read_1(raw, ended=ended) == answer


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 20", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 xx no\r\n\r\n", b"HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_http_1(raw: bytes) -> None:
    with pytest.raises(Broken):
        http.read_1(raw, ended=True)


@pytest.mark.parametrize("status", [200, 204, 206, 304, 400, 404, 500, 301, 403, 421, 429, 503, 999])
def test_http_2_says_its_status_by_an_index_or_by_digits(status: int) -> None:
    plain = b"\x08\x03" + str(status).encode()
    for block in (plain, huffman(status), b"\x20" + plain):
        raw = SETTINGS + frame(1, 5, 1, block)
        assert http.read_2(raw, ended=False) == Answer(status)


def test_the_digits_are_those_of_the_specification() -> None:
    for status, block in SPECIFIED.items():
        assert http.read_2(frame(1, 5, 1, block), ended=False) == Answer(status)


def test_http_2_in_pieces() -> None:
    """A refusal is read when its words are there, whatever arrives at once."""
    whole = (
        SETTINGS
        + frame(4, 1, 0, b"")
        + frame(8, 0, 0, b"\0\0\1\0")
        + frame(1, 4, 1, huffman(503))
        + frame(0, 8, 1, b"\x02isthmus: 503: cluster west has\0\0")
        + frame(0, 1, 1, b" no ready endpoint\n")
    )
    answers = [http.read_2(whole[:n], ended=False) for n in range(len(whole) + 1)]
    first = next(n for n, answer in enumerate(answers) if answer is not None)
    assert all(answer is None for answer in answers[:first])
    found = answers[-1]
    assert found is not None
    assert (found.status, found.own_words) == (503, True)
    assert found.text == "isthmus: 503: cluster west has no ready endpoint\n"


def test_an_interim_answer_and_other_streams_are_passed_over() -> None:
    raw = frame(1, 4, 1, b"\x08\x03103") + frame(1, 5, 3, b"\x8d") + frame(1, 5, 1, b"\x88")
    assert http.read_2(raw, ended=False) == Answer(200)


@pytest.mark.parametrize(
    ("raw", "ended"),
    [
        (b"", True),
        (SETTINGS, True),
        (frame(7, 0, 0, b"\0" * 8), False),
        (frame(3, 0, 1, b"\0" * 4), False),
        (frame(1, 5, 1, b""), False),
        (frame(1, 5, 1, b"\x48"), False),
        (frame(1, 5, 1, b"\x48\x83\xff\xff\xff"), False),
        (frame(1, 5, 1, b"\x41\x03200"), False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
    ],
)
def test_what_is_no_http_2(raw: bytes, ended: bool) -> None:
    with pytest.raises(Broken):
        http.read_2(raw, ended=ended)


def test_a_request_says_who_asks() -> None:
    assert b"User-Agent: isthmus-verify/" in http.ask_1("echo.shop.global:80")
    assert b"Host: echo.shop.global:80\r\n" in http.ask_1("echo.shop.global:80")
    assert http.ask_2("echo.shop.global:80").startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    long = "a" * 200
    assert long.encode() in http.ask_2(long)
