"""The parser against dnspython, on random bytes and on valid messages that were damaged."""

from __future__ import annotations

import contextlib

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import structlog
from hypothesis import given
from hypothesis import strategies as st

from federation.dns import wire
from federation.dns.answer import NameRecords
from federation.dns.resolve import Resolver
from federation.dns.table import Table
from federation.dns.upstream import fits
from federation.dns.wire import Malformed, Query

labels = st.text("abcxyzABC019-_", min_size=1, max_size=63)
names = st.lists(labels, min_size=1, max_size=6).map(".".join).filter(lambda n: len(n) < 250)
options = st.lists(st.builds(dns.edns.GenericOption, st.integers(100, 65535), st.binary(max_size=20)), max_size=3)


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    edns = draw(st.sampled_from([False, 0, 0, 3]))
    message = dns.message.make_query(
        draw(names),
        draw(st.integers(1, 300)),
        draw(st.sampled_from([1, 1, 1, 3, 254, 255])),
        use_edns=edns,
        payload=draw(st.integers(0, 65535)),
        options=draw(options) if edns is not False else None,
        id=draw(st.integers(0, 65535)),
        flags=draw(st.sampled_from([0, dns.flags.RD, dns.flags.RD | dns.flags.CD, dns.flags.AD])),
    )
    return message.to_wire()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    message = bytearray(draw(queries()))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(message) - 1)) if message else 0
        match draw(st.sampled_from(["set", "cut", "insert", "delete"])):
            case "set" if message:
                message[at] = draw(st.integers(0, 255))
            case "cut":
                del message[at:]
            case "insert":
                message[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "delete" if message:
                del message[at]
    return bytes(message)


def resolver() -> Resolver:
    table = Table(["clusterset.local", "a"])
    table.put("b.a", NameRecords(a=("127.128.0.1",), txt=("x" * 600,)))
    return Resolver(
        table,
        upstream=None,
        miss=None,
        branch=None,
        miss_timeout=1,
        max_misses=1,
        max_waiting=1,
        log=structlog.get_logger(),
    )


RESOLVER = resolver()


@given(queries())
def test_every_query_that_dnspython_writes_is_read_alike(message: bytes) -> None:
    reference = dns.message.from_wire(message)
    parsed = wire.parse_query(message)
    assert isinstance(parsed, Query)
    (question,) = reference.question
    assert parsed.id == reference.id
    assert parsed.name == question.name.canonicalize().to_wire()
    assert parsed.question == question.name.to_wire() + parsed.question[-4:]
    assert (parsed.qtype, parsed.qclass) == (question.rdtype, question.rdclass)
    assert (parsed.edns is None) == (reference.edns < 0)
    if parsed.edns is not None:
        assert (parsed.edns.version, parsed.edns.payload) == (reference.edns, reference.payload)


@given(st.one_of(damaged(), st.binary(max_size=80), st.binary(min_size=12, max_size=600)))
def test_damaged_messages_never_crash_and_are_never_understood_otherwise(message: bytes) -> None:
    parsed = wire.parse_query(message)
    if isinstance(parsed, Malformed):
        assert parsed.reply is None or len(parsed.reply) <= len(message)
        return
    reference = dns.message.from_wire(message, question_only=True)  # must not raise
    (question,) = reference.question
    assert parsed.name == question.name.canonicalize().to_wire()
    assert (parsed.qtype, parsed.qclass) == (question.rdtype, question.rdclass)
    with contextlib.suppress(dns.exception.DNSException, ValueError):  # it also looks into the data of records
        whole = dns.message.from_wire(message)
        assert (parsed.edns is None) == (whole.edns < 0)
        if parsed.edns is not None:
            assert (parsed.edns.version, parsed.edns.payload) == (whole.edns, whole.payload)


@given(st.one_of(queries(), damaged(), st.binary(max_size=600)))
def test_whatever_comes_the_answer_is_a_message_within_its_limit(message: bytes) -> None:
    reply = RESOLVER.handle(message, lambda late: None, stream=False)
    if reply is None:
        return
    assert reply[:2] == message[:2]
    assert reply[2] & 0x80
    answer = dns.message.from_wire(reply)
    parsed = wire.parse_query(message)
    if isinstance(parsed, Query):
        assert len(reply) <= parsed.udp_limit
        assert reply[12 : 12 + len(parsed.question)] == parsed.question
        assert answer.edns == (0 if parsed.edns is not None else -1)
    else:
        assert len(reply) <= len(message)


@given(labels.filter(lambda s: s.lower() != "b"), st.sampled_from(["A", "AAAA", "SRV", "TXT", "SOA"]))
def test_names_are_found_whatever_their_case(label: str, rtype: str) -> None:
    table = Table(["a"])
    table.put(f"{label}.a", NameRecords(a=("127.128.0.1",)))
    key = wire.encode_name(f"{label.swapcase()}.A")
    answer = table.answer(key, dns.rdatatype.from_text(rtype), wire.encode_name("a"))
    assert answer is not None
    assert (answer.heads[0][5] == 1) == (rtype == "A")


@given(st.one_of(queries(), damaged(), st.binary(max_size=200)), st.integers(12, 60))
def test_no_answer_from_upstream_crashes(message: bytes, end: int) -> None:
    if len(message) >= 12:
        found = wire.answered_addresses(message, min(end, len(message)))
        assert found is None or all(raw in message for raw in found)
    fits(message[:end].ljust(end, b"\0"), message, end)
