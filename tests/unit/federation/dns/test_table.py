from __future__ import annotations

import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from federation.dns import wire
from federation.dns.answer import NameRecords, Srv
from federation.dns.table import Table
from federation.dns.wire import Query
from federation.errors import InvalidInput, InvalidName


def ask(table: Table, name: str, rtype: str = "A") -> dns.message.Message | None:
    """The table's answer as dnspython reads it, or None where the name does not exist."""
    query = wire.parse_query(dns.message.make_query(name, rtype).to_wire())
    assert isinstance(query, Query)
    zone = table.zone_of(query.name)
    assert zone is not None
    answer = table.answer(query.name, query.qtype, zone)
    if answer is None:
        return None
    whole = bytes(2) + answer.heads[0] + query.question + answer.bodies[0]
    assert answer.size == len(whole)
    return dns.message.from_wire(whole)


def lines(message: dns.message.Message | None) -> list[str]:
    assert message is not None
    return sorted(f"{rrset.ttl} {rrset.rdtype.name} {rdata}" for rrset in message.answer for rdata in rrset)


@pytest.mark.parametrize(
    ("name", "rtype", "expected"),
    [
        ("echo.shop.global", "A", ["5 A 127.128.0.1"]),
        ("ECHO.shop.Global", "SRV", ["5 SRV 0 100 80 echo.shop.global."]),
        ("many.shop.global", "AAAA", ["5 AAAA fd00::1"]),
        ("_http._tcp.echo.shop.svc.clusterset.local", "SRV", ["5 SRV 0 50 80 echo.shop.global."]),
        ("say.shop.global", "TXT", ['5 TXT ""', '5 TXT "hello"', f'5 TXT "{"x" * 255}" "{"x" * 45}"']),
        ("dns-version.clusterset.local", "TXT", ['5 TXT "1.0.0"']),
        ("global", "NS", ["5 NS ns.dns.global."]),
        (
            "clusterset.local",
            "SOA",
            ["5 SOA ns.dns.clusterset.local. hostmaster.clusterset.local. 1 7200 1800 86400 5"],
        ),
        ("echo.shop.global", "ANY", ['5 HINFO "RFC8482" ""']),
    ],
)
def test_answers(table: Table, name: str, rtype: str, expected: list[str]) -> None:
    assert lines(ask(table, name, rtype)) == expected


@pytest.mark.parametrize(
    ("name", "rtype"),
    [
        ("echo.shop.global", "AAAA"),
        ("echo.shop.global", "HTTPS"),  # type 65, an upper-case letter to bytes.lower()
        ("echo.shop.global", "MX"),
        ("shop.global", "A"),  # names are below it
        ("_tcp.echo.shop.svc.clusterset.local", "A"),
        ("svc.clusterset.local", "ANY"),
        ("ns.dns.global", "A"),
        ("global", "A"),
    ],
)
def test_nodata_names_the_zone(table: Table, name: str, rtype: str) -> None:
    message = ask(table, name, rtype)
    assert lines(message) == []
    assert message is not None
    assert message.rcode() == dns.rcode.NOERROR
    (soa,) = message.authority
    assert soa.rdtype == dns.rdatatype.SOA
    assert name.endswith(soa.name.to_text(omit_final_dot=True))
    assert soa.ttl == 5


def test_what_does_not_exist(table: Table) -> None:
    assert ask(table, "nope.shop.global") is None
    assert ask(table, "x.echo.shop.global") is None
    nxdomain = table.nxdomain(wire.encode_name("nope.shop.global"), wire.encode_name("global"))
    assert nxdomain.heads[0][1] & 15 == 3


def test_type_codes_that_differ_only_by_case_are_not_confused(table: Table) -> None:
    assert lines(ask(table, "echo.shop.global", "TYPE97")) == []
    assert all(key == key.lower() for key in table.hot)
    assert lines(ask(table, "echo.shop.global", "TYPE65")) == []


def test_a_changed_name_is_answered_anew(table: Table) -> None:
    assert lines(ask(table, "echo.shop.global")) == ["5 A 127.128.0.1"]
    table.put("Echo.Shop.global.", NameRecords(a=("127.128.0.9",)))
    assert lines(ask(table, "echo.shop.global")) == ["5 A 127.128.0.9"]
    table.remove("echo.shop.global")
    table.remove("echo.shop.global")
    assert ask(table, "echo.shop.global") is None
    assert table.get("echo.shop.global") is None


def test_names_above_come_and_go_with_what_is_below(table: Table) -> None:
    assert ask(table, "new.global") is None
    table.put("a.new.global", NameRecords(a=("127.128.0.1",)))
    table.put("b.new.global", NameRecords(a=("127.128.0.2",)))
    assert lines(ask(table, "new.global")) == []
    table.remove("a.new.global")
    assert lines(ask(table, "new.global")) == []
    table.remove("b.new.global")
    assert ask(table, "new.global") is None
    assert lines(ask(table, "global")) == []


def test_a_detached_name_exists_by_itself(table: Table) -> None:
    name = wire.encode_name("pay.shop.svc.clusterset.local")
    table.put("_why.pay.shop.svc.clusterset.local", NameRecords(txt=("nothing ready",), detached=True))
    assert not table.exists(name)
    assert table.exists(wire.encode_name("_why.pay.shop.svc.clusterset.local"))
    table.put("_why.pay.shop.svc.clusterset.local", NameRecords(txt=("here",)))
    assert table.exists(name)
    table.put("_why.pay.shop.svc.clusterset.local", NameRecords(txt=("nothing ready",), detached=True))
    assert not table.exists(name)
    table.remove("_why.pay.shop.svc.clusterset.local")
    table.put("_http._tcp.pay.shop.svc.clusterset.local", NameRecords(txt=("x",)))
    table.remove("_http._tcp.pay.shop.svc.clusterset.local")
    assert not table.exists(name)


def test_a_name_above_that_has_records_itself_survives(table: Table) -> None:
    table.put("shop.global", NameRecords(a=("127.128.0.7",)))
    assert lines(ask(table, "shop.global")) == ["5 A 127.128.0.7"]
    table.remove("shop.global")
    assert lines(ask(table, "shop.global")) == []


def test_answers_with_many_records_are_rotated(table: Table) -> None:
    ask(table, "many.shop.global")
    answer = table.hot[wire.encode_name("many.shop.global") + b"\0\1\0\1"]
    assert len({body[12:16] for body in answer.bodies}) == 8
    assert len({len(body) for body in answer.bodies}) == 1


def test_names_lists_what_was_put() -> None:
    table = Table(["clusterset.local", "fed.example.org"], nameserver=NameRecords(a=("10.0.0.1",)))
    assert list(table.names()) == []
    table.put("a.b.fed.example.org", NameRecords())
    assert list(table.names()) == ["a.b.fed.example.org"]
    assert lines(ask(table, "ns.dns.fed.example.org")) == ["5 A 10.0.0.1"]


@pytest.mark.parametrize(
    ("name", "records", "error"),
    [
        ("www.example.com", NameRecords(), InvalidInput),
        ("local", NameRecords(), InvalidInput),
        ("a..global", NameRecords(), InvalidName),
        ("a.global", NameRecords(a=("fd00::1",)), InvalidInput),
        ("a.global", NameRecords(aaaa=("10.0.0.1",)), InvalidInput),
        ("a.global", NameRecords(srv=(Srv(0, 0, 70000, "a.global"),)), InvalidInput),
        ("a.global", NameRecords(srv=(Srv(0, 0, 80, "a..b"),)), InvalidName),
        ("a.global", NameRecords(txt=("x" * 5000,)), InvalidInput),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    table: Table, name: str, records: NameRecords, error: type[Exception]
) -> None:
    before = set(table.names())
    with pytest.raises(error):
        table.put(name, records)
    assert set(table.names()) == before


def test_a_table_needs_a_zone() -> None:
    with pytest.raises(InvalidInput):
        Table([])


def test_the_longest_zone_wins() -> None:
    table = Table(["org", "fed.org"])
    assert table.zone_of(wire.encode_name("a.fed.org")) == wire.encode_name("fed.org")
    assert table.zone_of(wire.encode_name("fedx.org")) == wire.encode_name("org")
    assert table.zone_of(b"\0") is None
