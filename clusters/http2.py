"""HTTP/2 by hand (RFC 9113), for callers that say what no client library would: tests send it to a real proxy.

Every header field is sent literally and never indexed (RFC 7541, 6.2.3), and just enough of an answer is read.
"""

from __future__ import annotations

import asyncio

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
RESET = 599
"""The status of a stream that was reset, or whose connection was given up."""

Headers = list[tuple[str, str]]


def headers(host: str, method: str = "GET", *extra: tuple[str, str], path: str = "/") -> Headers:
    """Those of a request to `host`."""
    return [(":method", method), (":scheme", "https"), (":authority", host), (":path", path), *extra]


def request(headers: Headers) -> bytes:
    """All that a client says that has one request without a body."""
    block = b"".join(b"\x10" + _text(k) + _text(v) for k, v in headers)
    return PREFACE + _frame(4, 0, 0, b"") + _frame(1, 5, 1, block)


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    return bytes([127, (len(raw) - 127) % 128 | 128, (len(raw) - 127) // 128]) + raw


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def answer(raw: bytes) -> tuple[int, str]:
    """Status and body once stream 1 has ended, or has been reset (RESET); (0, "") before."""
    status, body = 0, b""
    while len(raw) >= 9:
        length, kind, flags = int.from_bytes(raw[:3], "big"), raw[3], raw[4]
        payload, rest = raw[9 : 9 + length], raw[9 + length :]
        if len(payload) < length:
            break
        if kind == 1:
            status = _status(payload)
        if kind == 0:
            body += payload
        if kind in (3, 7):
            return RESET, ""
        if kind in (0, 1) and flags & 1:
            return status, body.decode()
        raw = rest
    return 0, ""


def _status(block: bytes) -> int:
    """The :status at the head of a header block: indexed, or literal with name 8, plain or Huffman (digits)."""
    known = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
    if block[0] in known:
        return known[block[0]]
    size, value = block[1] & 127, block[2 : 2 + (block[1] & 127)]
    if not block[1] & 128:
        return int(value)
    bits = f"{int.from_bytes(value, 'big'):0{size * 8}b}"
    codes = {f"{d:05b}": str(d) for d in range(3)} | {f"{0b011001 + d - 3:06b}": str(d) for d in range(3, 10)}
    digits, at = "", 0
    while len(digits) < 3:
        width = 5 if bits[at : at + 5] in codes else 6
        digits += codes[bits[at : at + width]]
        at += width
    return int(digits)


class Kept:
    """Requests one after the other on one HTTP/2 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        # Without a table of headers (SETTINGS_HEADER_TABLE_SIZE 0) each answer can be read by itself.
        writer.write(PREFACE + _frame(4, 0, 0, b"\x00\x01\x00\x00\x00\x00"))
        self._stream = -1

    async def ask(self, headers: Headers, body: bytes = b"") -> tuple[int, str]:
        """Status and body; RESET without an answer."""
        self._stream += 2
        block = b"".join(b"\x10" + _text(k) + _text(v) for k, v in headers)
        self._writer.write(_frame(1, 4 if body else 5, self._stream, block))
        if body:
            self._writer.write(_frame(0, 1, self._stream, body))
        status, text = 0, b""
        async with asyncio.timeout(30):
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                if stream != self._stream:
                    continue
                if kind == 3:
                    return RESET, ""
                if kind == 1 and not status:
                    status = _status(payload.lstrip(b" "))  # 0x20: the table has the size 0
                if kind == 0:
                    text += payload
                if kind in (0, 1) and flags & 1:
                    return status, text.decode()
