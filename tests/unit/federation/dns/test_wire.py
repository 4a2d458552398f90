from __future__ import annotations

from collections.abc import Callable

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import pytest

from federation.dns import wire
from federation.dns.wire import Malformed, Query
from federation.errors import InvalidName

Make = Callable[..., bytes]


@pytest.mark.parametrize(
    "name", ["a", "echo.shop.global", "_http._tcp.Echo.shop.svc.clusterset.local.", "", ".", "a" * 63 + ".b"]
)
def test_names_are_encoded_as_dnspython_does(name: str) -> None:
    expected = dns.name.from_text(name or ".").canonicalize().to_wire()
    assert wire.encode_name(name) == expected
    assert wire.decode_name(wire.encode_name(name)) == name.rstrip(".").lower()


@pytest.mark.parametrize("name", ["a..b", "a" * 64, ".a", "é.b", "a?b", ".".join(["a" * 60] * 5)])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        wire.encode_name(name)


def test_bytes_that_are_no_text_are_escaped() -> None:
    assert wire.decode_name(b"\x04a.\\\x00\x01b\x00") == "a\\046\\092\\000.b"


def test_parents_are_nearest_first() -> None:
    assert [wire.decode_name(p) for p in wire.parents(wire.encode_name("a.b.c"))] == ["b.c", "c"]
    assert wire.parents(b"\x00") == []


def test_a_plain_query(query: Make) -> None:
    parsed = wire.parse_query(query("EcHo.shop.global", "AAAA", id=7, flags=dns.flags.RD))
    assert isinstance(parsed, Query)
    assert parsed.id == 7
    assert parsed.flags & wire.RD
    assert parsed.question.startswith(b"\x04EcHo")
    assert parsed.name == wire.encode_name("echo.shop.global")
    assert (parsed.qtype, parsed.qclass, parsed.edns) == (28, 1, None)
    assert parsed.udp_limit == 512


@pytest.mark.parametrize(("payload", "limit"), [(0, 512), (512, 512), (1000, 1000), (1232, 1232), (4096, 1232)])
def test_the_payload_size_bounds_the_answer(query: Make, payload: int, limit: int) -> None:
    parsed = wire.parse_query(query("a.global", use_edns=0, payload=payload, ednsflags=dns.flags.DO))
    assert isinstance(parsed, Query)
    assert parsed.edns is not None
    assert (parsed.edns.payload, parsed.edns.version, parsed.edns.flags) == (payload, 0, wire.DO)
    assert parsed.udp_limit == limit


def test_unknown_options_are_ignored(query: Make) -> None:
    options = [dns.edns.GenericOption(65001, b"anything"), dns.edns.GenericOption(10, b"12345678")]
    assert isinstance(wire.parse_query(query("a.global", use_edns=0, options=options)), Query)


def _plain() -> bytes:
    return dns.message.make_query("a.global", "A", id=0x1234).to_wire()


OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"

FORMERR = {
    "no question": b"\x12\x34\x01\x00" + bytes(8),
    "two questions": _plain()[:4] + b"\0\2" + _plain()[6:] + _plain()[12:],
    "an answer in a query": _plain()[:6] + b"\0\1" + _plain()[8:] + b"\xc0\x0c\0\1\0\1\0\0\0\0\0\0",
    "cut in the name": _plain()[:15],
    "cut in the type": _plain()[:-3],
    "a pointer in the question": _plain()[:12] + b"\xc0\x0c\0\1\0\1",
    "a label of 64 bytes": _plain()[:12] + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
    "a name of 256 bytes": _plain()[:12] + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",
    "trailing bytes": _plain() + b"x",
    "additional record missing": _plain()[:10] + b"\0\1" + _plain()[12:],
    "additional record cut": _plain()[:10] + b"\0\1" + _plain()[12:] + OPT[:-1],
    "record data cut": _plain()[:10] + b"\0\1" + _plain()[12:] + OPT[:-1] + b"\5abc",
    "two OPT": _plain()[:10] + b"\0\2" + _plain()[12:] + OPT * 2,
    "OPT with a name": _plain()[:10] + b"\0\1" + _plain()[12:] + b"\1a" + OPT,
    "OPT among the authorities": _plain()[:8] + b"\0\1\0\0" + _plain()[12:] + OPT,
    "option cut": _plain()[:10] + b"\0\1" + _plain()[12:] + OPT[:-1] + b"\5\0\x0a\0\x08a",
    "pointer forwards": _plain()[:10] + b"\0\1" + _plain()[12:] + b"\xc0\xff\0\1\0\1\0\0\0\0\0\0",
    "pointer into the header": _plain()[:10] + b"\0\1" + _plain()[12:] + b"\xc0\x02\0\1\0\1\0\0\0\0\0\0",
    "pointer cut": _plain()[:10] + b"\0\1" + _plain()[12:] + b"\xc0",
}


@pytest.mark.parametrize("message", FORMERR.values(), ids=FORMERR.keys())
def test_broken_queries_get_a_short_formerr(message: bytes) -> None:
    verdict = wire.parse_query(message)
    assert isinstance(verdict, Malformed)
    assert verdict.reply is not None
    assert len(verdict.reply) == 12 <= len(message)
    answer = dns.message.from_wire(verdict.reply)
    assert answer.id == 0x1234
    assert answer.rcode() == dns.rcode.FORMERR
    assert answer.flags & dns.flags.QR


@pytest.mark.parametrize("message", [b"", b"\0", bytes(11), _plain()[:2] + b"\x81" + _plain()[3:]])
def test_no_header_and_answers_are_not_answered(message: bytes) -> None:
    assert wire.parse_query(message) == Malformed(None)


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_other_operations_are_not_implemented(opcode: int) -> None:
    message = _plain()[:2] + bytes([opcode << 3]) + _plain()[3:]
    verdict = wire.parse_query(message)
    assert isinstance(verdict, Malformed)
    assert verdict.reply is not None
    assert verdict.reply[:4] == b"\x12\x34" + bytes([0x80 | opcode << 3, 4])


def test_a_record_other_than_opt_may_be_there() -> None:
    message = _plain()[:10] + b"\0\2" + _plain()[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4abcd" + OPT
    parsed = wire.parse_query(message)
    assert isinstance(parsed, Query)
    assert parsed.edns is not None


def test_an_extended_error_is_cut_at_a_character() -> None:
    opt = wire.opt_record(ede=(wire.Ede.OTHER, "ü" * 100))
    message = dns.message.from_wire(b"\0\1\x80\0\0\0\0\0\0\0\0\1" + opt)
    (option,) = message.options
    assert isinstance(option, dns.edns.EDEOption)
    assert option.text == "ü" * 60


def test_badvers_needs_both_halves_of_the_code(query: Make) -> None:
    parsed = wire.parse_query(query("a.global", use_edns=1))
    assert isinstance(parsed, Query)
    answer = dns.message.from_wire(wire.reply(parsed, rcode=wire.Rcode.BADVERS))
    assert answer.rcode() == dns.rcode.BADVERS
    assert answer.edns == 0


def test_the_addresses_in_an_answer() -> None:
    records = "a. 1 IN CNAME b.\nb. 1 IN A 10.0.0.1\nb. 1 IN AAAA fd00::1\n"
    text = f"id 1\nopcode QUERY\nflags QR\n;QUESTION\na. IN A\n;ANSWER\n{records}"
    message = dns.message.from_text(text).to_wire()
    assert wire.answered_addresses(message, 12 + 7) == [bytes([10, 0, 0, 1]), bytes([0xFD, *[0] * 14, 1])]
    for end in range(19, len(message)):
        assert wire.answered_addresses(message[:end], 19) is None
