from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
import structlog

from federation.dns.answer import NameRecords
from federation.dns.resolve import Resolver
from federation.dns.table import Table
from federation.errors import Unavailable

Make = Callable[..., bytes]
Ask = Callable[..., Awaitable[dns.message.Message]]


def resolver(table: Table, **options: Any) -> Resolver:
    defaults: dict[str, Any] = {
        "upstream": None,
        "miss": None,
        "branch": None,
        "miss_timeout": 5.0,
        "max_misses": 10,
        "max_waiting": 20,
        "log": structlog.get_logger(),
    }
    return Resolver(table, **(defaults | options))


async def ask(resolver: Resolver, message: bytes, *, stream: bool = False) -> dns.message.Message:
    late: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    reply = resolver.handle(message, late.set_result, stream=stream)
    if reply is None:
        async with asyncio.timeout(5):
            reply = await late
    return dns.message.from_wire(reply)


def ede(message: dns.message.Message) -> tuple[int, str] | None:
    for option in message.options:
        if isinstance(option, dns.edns.EDEOption):
            return int(option.code), option.text or ""
    return None


async def test_the_question_is_echoed_byte_for_byte(table: Table, query: Make) -> None:
    message = query("eChO.ShOp.GlObAl", "A")
    reply = resolver(table).handle(message, print, stream=False)
    assert reply is not None
    assert reply[12 : len(message)] == message[12:]
    answer = dns.message.from_wire(reply)
    assert answer.flags & dns.flags.AA
    assert answer.flags & dns.flags.RD
    assert not answer.flags & dns.flags.RA
    assert answer.answer[0].name.to_text() == "eChO.ShOp.GlObAl."


@pytest.mark.parametrize(
    ("name", "rtype", "options", "rcode", "code"),
    [
        ("www.example.com", "A", {}, dns.rcode.REFUSED, 20),
        ("echo.shop.global", "A", {"rdclass": "CH"}, dns.rcode.REFUSED, 21),
        ("echo.shop.global", "A", {"rdclass": "ANY"}, dns.rcode.REFUSED, 21),
        ("global", "AXFR", {}, dns.rcode.REFUSED, 18),
        ("www.example.com", "IXFR", {}, dns.rcode.REFUSED, 18),
        ("echo.shop.global", "A", {"use_edns": 1}, dns.rcode.BADVERS, None),
        ("nope.shop.global", "A", {}, dns.rcode.NXDOMAIN, None),
        ("x.nope.shop.global", "SRV", {}, dns.rcode.NXDOMAIN, None),
    ],
)
async def test_errors_say_why(
    table: Table, query: Make, name: str, rtype: str, options: dict[str, Any], rcode: int, code: int | None
) -> None:
    answer = await ask(resolver(table), query(name, rtype, **({"use_edns": 0} | options)))
    assert answer.rcode() == rcode
    reason = ede(answer)
    assert (reason[0] if reason else None) == code
    assert bool(answer.authority) == (rcode == dns.rcode.NXDOMAIN)


async def test_without_edns_there_is_no_opt_in_the_answer(table: Table, query: Make) -> None:
    answer = await ask(resolver(table), query("www.example.com"))
    assert answer.rcode() == dns.rcode.REFUSED
    assert answer.edns == -1


@pytest.mark.parametrize(
    ("payload", "stream", "cut"), [(None, False, True), (1232, False, True), (65535, False, True), (None, True, False)]
)
async def test_large_answers_are_cut_for_udp(
    table: Table, query: Make, payload: int | None, stream: bool, cut: bool
) -> None:
    options = {} if payload is None else {"use_edns": 0, "payload": payload}
    answer = await ask(resolver(table), query("many.shop.global", **options), stream=stream)
    assert bool(answer.flags & dns.flags.TC) == cut
    assert sum(len(rrset) for rrset in answer.answer) == (0 if cut else 300)


async def test_an_answer_may_use_the_room_that_edns_gives(table: Table, query: Make) -> None:
    table.put("some.shop.global", NameRecords(a=tuple(f"10.0.0.{i}" for i in range(40))))
    small = await ask(resolver(table), query("some.shop.global"))
    large = await ask(resolver(table), query("some.shop.global", use_edns=0, payload=1232))
    assert small.flags & dns.flags.TC
    assert not large.flags & dns.flags.TC
    assert len(large.answer[0]) == 40


async def test_the_order_follows_the_id(table: Table, query: Make) -> None:
    table.put("two.shop.global", NameRecords(a=("10.0.0.1", "10.0.0.2")))
    firsts = {(await ask(resolver(table), query("two.shop.global", id=i))).answer[0][0].to_text() for i in (0, 1)}
    assert firsts == {"10.0.0.1", "10.0.0.2"}


async def test_a_miss_is_asked_once_and_fills_the_table(table: Table, query: Make) -> None:
    asked: list[str] = []
    begun, gate = asyncio.Event(), asyncio.Event()

    async def miss(name: str) -> bool:
        asked.append(name)
        begun.set()
        await gate.wait()
        table.put(name, NameRecords(a=("127.128.0.5",)))
        return True

    under_test = resolver(table, miss=miss)
    queries = [asyncio.ensure_future(ask(under_test, query("New.Shop.global", rtype))) for rtype in ("A", "AAAA", "A")]
    async with asyncio.timeout(5):
        await begun.wait()
    assert under_test.misses == 1
    gate.set()
    first, second, third = await asyncio.gather(*queries)
    assert asked == ["new.shop.global"]
    assert first.answer[0][0].to_text() == third.answer[0][0].to_text() == "127.128.0.5"
    assert second.rcode() == dns.rcode.NOERROR
    assert second.authority
    assert (await ask(under_test, query("new.shop.global"))).answer
    assert asked == ["new.shop.global"]


async def test_a_refused_miss_is_nxdomain_with_its_reason(table: Table, query: Make) -> None:
    async def miss(name: str) -> bool | str:
        return "shop/new is not exported to this cluster" if name.startswith("new") else False

    under_test = resolver(table, miss=miss)
    answer = await ask(under_test, query("new.shop.global", use_edns=0))
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert ede(answer) == (0, "shop/new is not exported to this cluster")
    assert answer.authority[0].ttl == 5
    plain = await ask(under_test, query("other.shop.global", use_edns=0))
    assert plain.rcode() == dns.rcode.NXDOMAIN
    assert ede(plain) is None
    table.put("new.shop.global", NameRecords(a=("127.128.0.5",)))  # a later put wins at once
    assert (await ask(under_test, query("new.shop.global"))).answer


async def test_a_put_wins_over_a_miss_that_found_nothing(table: Table, query: Make) -> None:
    async def miss(name: str) -> bool:
        table.put(name, NameRecords(a=("127.128.0.5",)))
        return False

    assert (await ask(resolver(table, miss=miss), query("new.shop.global"))).answer


async def test_a_miss_that_found_only_names_below_is_nodata(table: Table, query: Make) -> None:
    async def miss(name: str) -> bool:
        table.put(f"x.{name}", NameRecords(a=("127.128.0.5",)))
        return False

    answer = await ask(resolver(table, miss=miss), query("new.global"))
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.authority


async def test_a_slow_miss_is_servfail(table: Table, query: Make) -> None:
    async def miss(name: str) -> bool:
        await asyncio.Event().wait()
        return True

    answer = await ask(resolver(table, miss=miss, miss_timeout=0.01), query("new.shop.global", use_edns=0))
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert ede(answer) == (14, "nobody could say in time whether the name exists")


async def test_a_miss_that_cannot_tell_is_servfail_with_its_reason(table: Table, query: Make) -> None:
    async def miss(name: str) -> bool:
        raise Unavailable("the registry was not heard of yet")

    answer = await ask(resolver(table, miss=miss), query("new.shop.global", use_edns=0))
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert ede(answer) == (14, "the registry was not heard of yet")


async def test_a_broken_miss_is_servfail(table: Table, query: Make) -> None:
    async def miss(name: str) -> bool:
        raise RuntimeError("no")

    under_test = resolver(table, miss=miss)
    assert (await ask(under_test, query("new.shop.global"))).rcode() == dns.rcode.SERVFAIL
    assert (await ask(under_test, query("echo.shop.global"))).answer


async def test_misses_are_bounded(table: Table, query: Make) -> None:
    async def miss(name: str) -> bool:
        await asyncio.Event().wait()
        return True

    under_test = resolver(table, miss=miss, max_misses=3)
    replies = [under_test.handle(query(f"n{i}.shop.global"), print, stream=False) for i in range(5)]
    assert [r is None for r in replies] == [True, True, True, False, False]
    assert dns.message.from_wire(replies[3] or b"").rcode() == dns.rcode.SERVFAIL
    assert under_test.counts["overloaded"] == 2
    await under_test.close()


async def test_a_branch_is_nodata_without_a_miss(table: Table, query: Make) -> None:
    async def miss(name: str) -> bool:
        raise AssertionError(name)

    answer = await ask(resolver(table, miss=miss, branch=lambda n: n == "ns.global"), query("NS.global"))
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.authority


@pytest.mark.parametrize("name", ["echo.shop.global", "echo.shop.east.global", "echo.shop.svc.clusterset.local"])
async def test_a_resolver_that_asks_label_by_label_gets_through(table: Table, query: Make, name: str) -> None:
    """RFC 9156: NXDOMAIN on the way would end the search (RFC 8020)."""

    async def miss(missed: str) -> bool:
        assert missed == name
        table.put(missed, NameRecords(a=("127.128.0.5",)))
        return True

    table.remove("echo.shop.global")
    table.remove("many.shop.global")
    table.remove("say.shop.global")
    table.remove("_http._tcp.echo.shop.svc.clusterset.local")
    branches = {"shop.global", "east.global", "shop.east.global", "svc.clusterset.local", "shop.svc.clusterset.local"}
    under_test = resolver(table, miss=miss, branch=branches.__contains__)
    labels = name.split(".")
    zone = 1 if name.endswith("global") else 2
    for count in range(zone, len(labels)):
        answer = await ask(under_test, query(".".join(labels[-count:]), "A"))
        assert answer.rcode() == dns.rcode.NOERROR
        assert not answer.answer
    assert (await ask(under_test, query(name, "A"))).answer
