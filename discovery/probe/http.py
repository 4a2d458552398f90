"""One GET without a body, by HTTP/1.1 and by HTTP/2, and as much of the answer as tells who answered. Without I/O.

HTTP/2 (RFC 9113) by hand, because one request needs a hundred lines and no library: every header field is sent
literally (RFC 7541, 6.2.3), and of the answer's header block only :status is read, which comes first (RFC 9113, 8.3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from federation import __version__

AGENT = f"isthmus-verify/{__version__}"
"""User-Agent: by this a workload tells a probe from a caller."""
WORDS = "isthmus: "
"""How every answer begins that a gateway gives by itself."""
MOST_BYTES = 64 * 1024

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 1, 4, 8, 32
_INDEXED = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
_DIGITS = {f"{d:05b}": str(d) for d in range(3)} | {f"{0b011001 + d - 3:06b}": str(d) for d in range(3, 10)}


@dataclass(frozen=True, slots=True)
class Answer:
    """`text`: the beginning of the body."""

    status: int
    text: str = ""

    @property
    def own_words(self) -> bool:
        """Whether an Envoy of ours said it, and no workload."""
        return self.text.startswith(WORDS)


class Broken(Exception):
    """What arrives is no answer."""


class Ended(Broken):
    """The connection was closed before there was one."""


def ask_1(host: str) -> bytes:
    """GET / by HTTP/1.1; the other end is asked to close."""
    return (
        f"GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    ).encode()


def read_1(raw: bytes, *, ended: bool) -> Answer | None:
    """The answer once its head and the beginning of its body are there; raises Broken."""
    head, found, body = raw.partition(b"\r\n\r\n")
    if not found:
        if ended or len(raw) > MOST_BYTES:
            raise Broken("no HTTP answer") if raw else Ended("the connection was closed before an answer")
        return None
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if not words[0].startswith(b"HTTP/1") or len(words) < 2 or not words[1].isdigit():
        raise Broken("no HTTP answer")
    status = int(words[1])
    if not ended and len(body) < len(WORDS) and status >= 400:
        return None  # who says it is in the body
    return Answer(status, body[:1024].decode(errors="replace"))


def ask_2(host: str) -> bytes:
    """GET / by HTTP/2, on stream 1."""
    fields = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", "/"), ("user-agent", AGENT)]
    block = b"".join(b"\x10" + _text(key) + _text(value) for key, value in fields)
    # Without a table of headers (SETTINGS_HEADER_TABLE_SIZE 0) :status can be read by itself.
    settings = _frame(_SETTINGS, 0, 0, b"\x00\x01\x00\x00\x00\x00")
    return _PREFACE + settings + _frame(_HEADERS, _END_STREAM | _END_HEADERS, 1, block)


def read_2(raw: bytes, *, ended: bool) -> Answer | None:
    """As `read_1`, of what the other end has said since the connection began; raises Broken."""
    status, body, done = 0, b"", False
    while len(raw) >= 9:
        length, kind, flags = int.from_bytes(raw[:3], "big"), raw[3], raw[4]
        stream = int.from_bytes(raw[5:9], "big") & 0x7FFFFFFF
        payload, raw = raw[9 : 9 + length], raw[9 + length :]
        if length > MOST_BYTES:
            raise Broken("no HTTP/2 answer")
        if len(payload) < length:
            break
        if kind == _GOAWAY or (kind == _RESET and stream == 1):
            raise Broken("the request was reset")
        if stream == 1 and kind == _HEADERS and not status:
            status = _status(_unpadded(payload, flags))
            if status < 200:
                status = 0  # an interim answer
        if stream == 1 and kind == _DATA:
            body += _unpadded(payload, flags & ~_PRIORITY)
        done = done or (stream == 1 and kind in (_DATA, _HEADERS) and bool(flags & _END_STREAM))
    if status and (done or ended or status < 400 or len(body) >= len(WORDS)):
        return Answer(status, body[:1024].decode(errors="replace"))
    if ended:
        raise Ended("the connection was closed before an answer")
    return None


def _unpadded(payload: bytes, flags: int) -> bytes:
    if flags & _PADDED:
        payload = payload[1 : len(payload) - payload[0]] if payload else b""
    return payload[5:] if flags & _PRIORITY else payload


def _text(text: str) -> bytes:
    raw, size = text.encode(), len(text.encode())
    if size < 127:
        return bytes([size]) + raw
    return bytes([127, (size - 127) % 128 | 128, (size - 127) // 128]) + raw


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _status(block: bytes) -> int:
    """:status at the head of a header block: indexed, or literal with name 8, plain or Huffman (digits)."""
    block = block.lstrip(b" ")  # 0x20: the size of the table is 0
    if not block:
        raise Broken("an HTTP/2 answer without a status")
    if block[0] in _INDEXED:
        return _INDEXED[block[0]]
    size = block[1] & 127 if len(block) > 1 else 0
    value = block[2 : 2 + size]
    if block[0] & 0x0F != 8 or not value or len(value) < size:
        raise Broken("an HTTP/2 answer whose status is not understood")
    text = value.decode(errors="replace")
    if block[1] & 128:
        bits, text = f"{int.from_bytes(value, 'big'):0{size * 8}b}", ""
        while len(text) < 3 and bits:
            width = 5 if bits[:5] in _DIGITS else 6
            text, bits = text + _DIGITS.get(bits[:width], "x"), bits[width:]
    if len(text) != 3 or not text.isdigit():
        raise Broken("an HTTP/2 answer whose status is not understood")
    return int(text)
