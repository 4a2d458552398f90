"""Reads queries and writes messages in the DNS wire format, without any I/O.

Arrives: the bytes of one message. Leaves: a `Query`, or the answer's bytes. Nothing here knows what exists; `table`
does. Only what a server of A, AAAA, SRV, TXT, SOA and NS needs is here (RFC 1035 4, 6891, 8914); dnspython is the
reference in the tests and is not imported at run time, because sidecars must stay small.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Literal

from federation.errors import InvalidName

HEADER = Struct("!HHHHHH")
_RR_FIXED = Struct("!HHIH")
_PAIR = Struct("!HH")

QR, AA, TC, RD, RA, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
OPCODE = 0x7800
CLASS_IN = 1
OPT = 41
PAYLOAD = 1232
"""The largest UDP answer in bytes: what passes unfragmented practically everywhere (DNS flag day 2020)."""
MINIMUM_PAYLOAD = 512
MAX_MESSAGE = 65535
DO = 0x8000


class Type(enum.IntEnum):
    """The record types that are answered, or that need a rule of their own."""

    A = 1
    NS = 2
    SOA = 6
    HINFO = 13
    TXT = 16
    AAAA = 28
    SRV = 33
    IXFR = 251
    AXFR = 252
    ANY = 255


class Rcode(enum.IntEnum):
    """Response codes (RFC 1035 4.1.1, RFC 6891 9)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Ede(enum.IntEnum):
    """Extended DNS Errors (RFC 8914 4)."""

    OTHER = 0
    NOT_READY = 14
    BLOCKED = 15
    PROHIBITED = 18
    NOT_AUTHORITATIVE = 20
    NOT_SUPPORTED = 21
    NO_REACHABLE_AUTHORITY = 22
    NETWORK_ERROR = 23


@dataclass(frozen=True, slots=True)
class Edns:
    """What the OPT record of a query says: the sender's UDP payload size, the version and the flags (DO)."""

    payload: int
    version: int
    flags: int


@dataclass(frozen=True, slots=True)
class Query:
    """One well-formed query. `question` is as it was sent; `name` and `key` are lower-cased for look-ups."""

    id: int
    flags: int
    question: bytes
    name: bytes
    qtype: int
    qclass: int
    edns: Edns | None

    @property
    def key(self) -> bytes:
        """The question in the form that tables are keyed by."""
        return self.name + self.question[-4:]

    @property
    def udp_limit(self) -> int:
        """How many bytes an answer by UDP may have."""
        return MINIMUM_PAYLOAD if self.edns is None else min(max(self.edns.payload, MINIMUM_PAYLOAD), PAYLOAD)


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that is no query we answer; `reply` is the short answer it deserves, or None: say nothing."""

    reply: bytes | None


@lru_cache(maxsize=2048)  # the targets of SRV records stand in several answers
def encode_name(name: str) -> bytes:
    """`name` (with or without the final dot) lower-cased in wire format, uncompressed; raises InvalidName."""
    text = name.rstrip(".").lower()
    if not text:
        return b"\0"
    out = bytearray()
    for label in text.split("."):
        raw = label.encode("ascii", "replace")
        if not 1 <= len(raw) <= 63 or b"?" in raw:
            raise InvalidName(f"{name[:80]!r} is no domain name", hint="labels have 1 to 63 ASCII characters")
        out.append(len(raw))
        out += raw
    out.append(0)
    if len(out) > 255:
        raise InvalidName(f"{name[:80]!r} is longer than 255 bytes")
    return bytes(out)


def decode_name(name: bytes) -> str:
    """An uncompressed wire name as text without the final dot; bytes that need it are escaped (RFC 4343 2.1)."""
    labels = []
    at = 0
    while length := name[at]:
        label = name[at + 1 : at + 1 + length]
        labels.append("".join(chr(b) if 0x21 <= b <= 0x7E and b not in b'."\\' else f"\\{b:03d}" for b in label))
        at += 1 + length
    return ".".join(labels)


def parents(name: bytes) -> list[bytes]:
    """Every proper ancestor of an uncompressed wire name, nearest first, without the root."""
    out = []
    at = 1 + name[0]
    while at < len(name) - 1:
        out.append(name[at:])
        at += 1 + name[at]
    return out


def header_reply(message: bytes, rcode: int) -> bytes:
    """An answer of twelve bytes to whatever begins with a header: never longer than what it answers."""
    flags = int.from_bytes(message[2:4], "big")
    return message[:2] + (QR | (flags & (OPCODE | RD | CD)) | rcode).to_bytes(2, "big") + bytes(8)


def parse_query(message: bytes) -> Query | Malformed:
    """The query in `message`; Malformed for garbage, answers (QR=1) and whatever is no QUERY (RFC 1035 4.1)."""
    if len(message) < 12:
        return Malformed(None)
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(message)
    if flags & QR:
        return Malformed(None)
    if flags & OPCODE:
        return Malformed(header_reply(message, Rcode.NOTIMP))
    if questions != 1 or answers:
        return Malformed(header_reply(message, Rcode.FORMERR))
    end = _skip_plain_name(message, 12)
    if end is None or end + 4 > len(message):
        return Malformed(header_reply(message, Rcode.FORMERR))
    qtype, qclass = _PAIR.unpack_from(message, end)
    edns = _find_edns(message, end + 4, authorities, additionals)
    if edns is False:
        return Malformed(header_reply(message, Rcode.FORMERR))
    return Query(ident, flags, message[12 : end + 4], message[12:end].lower(), qtype, qclass, edns)


def _skip_plain_name(message: bytes, at: int) -> int | None:
    """The offset after the uncompressed name at `at`; None if it is none (a question has nothing to point to)."""
    start, size = at, len(message)
    while at < size:
        length = message[at]
        if length == 0:
            at += 1
            return at if at - start <= 255 else None
        if length > 63:
            return None
        at += 1 + length
    return None


def skip_name(message: bytes, at: int) -> int | None:
    """The offset after the name at `at`, which may end in a pointer (to anything earlier); None if it is broken."""
    size = len(message)
    start = at
    while at < size:
        length = message[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            pointer = (length & 0x3F) << 8 | message[at + 1] if at + 1 < size else size
            return at + 2 if 12 <= pointer < start else None
        if length > 63:
            return None
        at += 1 + length
    return None


def _find_edns(message: bytes, at: int, authorities: int, additionals: int) -> Edns | Literal[False] | None:
    """Walk the records after the question for the OPT; False if they are broken or it is not alone (RFC 6891 6.1.1)."""
    edns: Edns | None = None
    for index in range(authorities + additionals):
        start = at
        after = skip_name(message, at)
        if after is None or after + 10 > len(message):
            return False
        rtype, rclass, ttl, length = _RR_FIXED.unpack_from(message, after)
        at = after + 10 + length
        if at > len(message):
            return False
        if rtype == OPT:
            if edns is not None or after != start + 1 or index < authorities or not _options(message, after + 10, at):
                return False
            edns = Edns(rclass, (ttl >> 16) & 0xFF, ttl & 0xFFFF)
    if at != len(message):
        return False
    return edns


def _options(message: bytes, at: int, end: int) -> bool:
    """Whether the bytes are a list of (code, length, value); what the options say is ignored (RFC 6891 6.1.2)."""
    while at + 4 <= end:
        at += 4 + (message[at + 2] << 8 | message[at + 3])
    return at == end


def answered_addresses(message: bytes, at: int) -> list[bytes] | None:
    """The data of the A and AAAA records that a message answers with; its question ends at `at`. None: broken."""
    found = []
    for _ in range(int.from_bytes(message[6:8], "big")):
        after = skip_name(message, at)
        if after is None or after + 10 > len(message):
            return None
        rtype, _rclass, _ttl, length = _RR_FIXED.unpack_from(message, after)
        at = after + 10 + length
        if at > len(message):
            return None
        if rtype in (Type.A, Type.AAAA):
            found.append(message[after + 10 : at])
    return found


def opt_record(*, rcode: int = 0, flags: int = 0, ede: tuple[int, str] | None = None) -> bytes:
    """Our OPT record, with an Extended DNS Error where there is one; its text is cut at 120 bytes."""
    options = b""
    if ede is not None:
        text = ede[1].encode("utf-8", "replace")[:120].decode("utf-8", "ignore").encode()
        options = _PAIR.pack(15, 2 + len(text)) + ede[0].to_bytes(2, "big") + text
    ttl = (rcode >> 4) << 24 | (flags & DO)
    return b"\0" + _RR_FIXED.pack(OPT, PAYLOAD, ttl, len(options)) + options


def record(owner: bytes, rtype: int, ttl: int, rdata: bytes) -> bytes:
    """One resource record of class IN."""
    return owner + _RR_FIXED.pack(rtype, CLASS_IN, ttl, len(rdata)) + rdata


def reply(
    query: Query,
    *,
    rcode: int,
    flags: int = 0,
    answers: int = 0,
    authorities: int = 0,
    body: bytes = b"",
    ede: tuple[int, str] | None = None,
) -> bytes:
    """A whole answer: the question echoed byte for byte, `body` (answers, authorities), an OPT if asked with one."""
    bits = QR | flags | (query.flags & (RD | CD)) | (rcode & 15)
    if query.edns is None:
        return HEADER.pack(query.id, bits, 1, answers, authorities, 0) + query.question + body
    opt = opt_record(rcode=rcode, flags=query.edns.flags, ede=ede)
    return HEADER.pack(query.id, bits, 1, answers, authorities, 1) + query.question + body + opt
