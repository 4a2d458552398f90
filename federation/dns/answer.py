"""The records of a name, and their answers encoded once, so that answering is joining bytes.

Owner names are compressed to the question (pointer 0xC00C); names inside SRV are not compressed (RFC 2782, RFC 3597 4).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from functools import lru_cache

from federation.dns import wire
from federation.dns.wire import AA, CD, QR, RD, Rcode, Type
from federation.errors import InvalidInput

_QUESTION = b"\xc0\x0c"
_ROTATIONS = 8


@dataclass(frozen=True, slots=True, order=True)
class Srv:
    """The data of an SRV record (RFC 2782); `target` is a domain name."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRecords:
    """All that exists at one name. Each text is one TXT record.

    `detached`: the names above it do not exist because of it. What explains why a name does not exist must not make it
    exist; it is the one exception from RFC 8020.
    """

    a: tuple[str, ...] = ()
    aaaa: tuple[str, ...] = ()
    srv: tuple[Srv, ...] = ()
    txt: tuple[str, ...] = ()
    detached: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What answers one question, whoever asks: the header after the id in eight forms, and the records.

    `heads` is indexed by 4·(with EDNS) + 2·RD + CD. `bodies` are the same records in several orders; which one is sent
    follows the query's id, so that clients that take the first address spread. `size`: of the message without OPT.
    """

    heads: tuple[bytes, ...]
    bodies: tuple[bytes, ...]
    size: int


@lru_cache(maxsize=1024)
def heads(flags: int, rcode: int, answers: int, authorities: int) -> tuple[bytes, ...]:
    """The ten header bytes after the id, for every combination of EDNS, RD and CD."""
    return tuple(
        wire.HEADER.pack(0, QR | flags | rcode | rd | cd, 1, answers, authorities, edns)[2:]
        for edns in (0, 1)
        for rd in (0, RD)
        for cd in (0, CD)
    )


def rdatas(records: NameRecords, qtype: int) -> list[bytes]:
    """The data of the records of type `qtype`; raises InvalidInput for what is no address, port or text."""
    try:
        if qtype == Type.A:
            return [socket.inet_pton(socket.AF_INET, a) for a in records.a]
        if qtype == Type.AAAA:
            return [socket.inet_pton(socket.AF_INET6, a) for a in records.aaaa]
        if qtype == Type.SRV:
            return [
                wire.HEADER.pack(s.priority, s.weight, s.port, 0, 0, 0)[:6] + wire.encode_name(s.target)
                for s in records.srv
            ]
    except (ValueError, OSError, OverflowError, struct.error) as error:
        raise InvalidInput(f"cannot be a DNS record: {error}") from error
    if qtype == Type.TXT:
        return [_text(t) for t in records.txt]
    return []


def positive(qname: bytes, rtype: int, ttl: int, data: list[bytes], *, flags: int) -> Answer:
    """The authoritative answer that holds `data`."""
    records = [wire.record(_QUESTION, rtype, ttl, d) for d in data]
    turns = min(len(records), _ROTATIONS)
    step = len(records) / turns
    starts = [int(i * step) for i in range(turns)]
    bodies = tuple(b"".join(records[s:] + records[:s]) for s in starts)
    return Answer(heads(AA | flags, Rcode.NOERROR, len(records), 0), bodies, 12 + len(qname) + 4 + len(bodies[0]))


def negative(qname: bytes, rcode: int, soa: bytes, *, flags: int) -> Answer:
    """NODATA (NOERROR) or NXDOMAIN with the zone's SOA in the authority section (RFC 2308 2)."""
    return Answer(heads(AA | flags, rcode, 0, 1), (soa,), 12 + len(qname) + 4 + len(soa))


def compressed(qname: bytes, target: bytes) -> bytes:
    """`target` shortened by a pointer into the question's name, where they share an end."""
    at = 0
    while target[at]:
        if qname.endswith(target[at:]) and len(qname) - len(target) + at >= 0:
            offset = 12 + len(qname) - (len(target) - at)
            if _at_label(qname, offset - 12):
                return target[:at] + (0xC000 | offset).to_bytes(2, "big")
        at += 1 + target[at]
    return target


def soa(qname: bytes, zone: bytes, *, ttl: int, negative_ttl: int, owner_is_question: bool = False) -> bytes:
    """The SOA record of `zone`; its minimum is how long a negative answer may be kept (RFC 2308 4)."""
    owner = _QUESTION if owner_is_question else compressed(qname, zone)
    return wire.record(owner, Type.SOA, ttl, soa_rdata(qname, zone, negative_ttl))


def soa_rdata(qname: bytes, zone: bytes, negative_ttl: int) -> bytes:
    """The zone is never transferred, so its serial stands still and the timers are those of common practice."""
    numbers = b"".join(n.to_bytes(4, "big") for n in (1, 7200, 1800, 86400, negative_ttl))
    mname, rname = (compressed(qname, label + zone) for label in (b"\x02ns\x03dns", b"\x0ahostmaster"))
    return mname + rname + numbers


def _at_label(name: bytes, offset: int) -> bool:
    at = 0
    while at < offset:
        at += 1 + name[at]
    return at == offset


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if len(raw) > 4096:
        raise InvalidInput(f"a TXT record of {len(raw)} bytes", hint="at most 4096")
    parts = [raw[i : i + 255] for i in range(0, len(raw), 255)] or [b""]
    return b"".join(bytes([len(p)]) + p for p in parts)
