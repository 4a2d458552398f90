from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from federation.aio.clock import FakeClock
from federation.dns import wire
from federation.dns.upstream import Upstream, UpstreamAnswer, UpstreamFailed, fits
from federation.dns.wire import Query

Make = Callable[..., bytes]
Reply = Callable[[bytes], list[bytes]]


def good(message: bytes, *, address: str = "192.0.2.7") -> bytes:
    response = dns.message.make_response(dns.message.from_wire(message))
    response.answer.append(dns.rrset.from_text(response.question[0].name, 60, "IN", "A", address))
    return response.to_wire()


def with_rcode(message: bytes, rcode: dns.rcode.Rcode) -> bytes:
    response = dns.message.make_response(dns.message.from_wire(message))
    response.set_rcode(rcode)
    return response.to_wire()


def cut(message: bytes) -> bytes:
    response = dns.message.make_response(dns.message.from_wire(message))
    response.flags |= dns.flags.TC
    return response.to_wire()


@dataclass
class Resolver(asyncio.DatagramProtocol):
    """An upstream resolver of the test: `udp` and `tcp` make the answers to a query."""

    udp: Reply
    tcp: Reply = lambda m: [good(m)]
    seen: list[tuple[bytes, Any]] = field(default_factory=list)
    streams: int = 0
    address: tuple[str, int] = ("", 0)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.seen.append((data, addr))
        for reply in self.udp(data):
            self.transport.sendto(reply, addr)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams += 1
        message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        for reply in self.tcp(message):
            writer.write(len(reply).to_bytes(2, "big") + reply)
        writer.close()


Start = Callable[..., Awaitable[Resolver]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(udp: Reply, tcp: Reply | None = None) -> Resolver:
            resolver = Resolver(udp) if tcp is None else Resolver(udp, tcp)
            for _ in range(20):
                transport, _protocol = await asyncio.get_running_loop().create_datagram_endpoint(
                    lambda: resolver, local_addr=("127.0.0.1", 0)
                )
                resolver.address = transport.get_extra_info("sockname")
                try:
                    server = await asyncio.start_server(resolver.stream, *resolver.address)
                except OSError:  # the port is taken for TCP
                    transport.close()
                    continue
                stack.callback(transport.close)
                stack.callback(server.close)
                return resolver
            raise AssertionError("no port is free for both")

        yield make


async def forward(upstream: Upstream, message: bytes, *, stream: bool = False) -> UpstreamAnswer:
    query = wire.parse_query(message)
    assert isinstance(query, Query)
    done: asyncio.Future[UpstreamAnswer] = asyncio.get_running_loop().create_future()
    assert upstream.ask(message, query, stream=stream, done=done.set_result)
    try:
        async with asyncio.timeout(10):
            return await done
    finally:
        await upstream.close()


def first_address(result: UpstreamAnswer) -> str:
    assert isinstance(result, bytes), result
    return dns.message.from_wire(result).answer[0][0].to_text()


async def test_a_query_is_forwarded_as_it_is_but_for_its_id(start: Start, query: Make) -> None:
    resolver = await start(lambda m: [good(m)])
    message = query("wWw.example.com", id=1, use_edns=0, payload=1400)
    upstream = Upstream([resolver.address], random_id=lambda: 0xBEEF)
    assert first_address(await forward(upstream, message)) == "192.0.2.7"
    ((seen, _),) = resolver.seen
    assert seen == b"\xbe\xef" + message[2:]


async def test_ids_and_ports_differ_between_queries(start: Start, query: Make) -> None:
    resolver = await start(lambda m: [good(m)])
    upstream = Upstream([resolver.address])
    for i in range(20):
        await forward(upstream, query(f"n{i}.example.com", id=1))
    assert len({m[:2] for m, _ in resolver.seen}) > 15
    assert len({port for _, (_, port) in resolver.seen}) > 10


async def test_answers_that_do_not_fit_are_dropped(start: Start, query: Make) -> None:
    def forged(m: bytes) -> list[bytes]:
        wrong_id = bytes([m[0] ^ 1]) + good(m, address="192.0.2.66")[1:]
        wrong_name = good(m[:12] + m[12:].replace(b"example", b"attackr"), address="192.0.2.66")
        wrong_type = good(m[:-3] + b"\x10" + m[-2:], address="192.0.2.66")
        return [b"", b"short", m, wrong_id, wrong_name, wrong_type, good(m)]

    resolver = await start(forged)
    assert first_address(await forward(Upstream([resolver.address]), query("www.example.com"))) == "192.0.2.7"


async def test_an_answer_in_other_letters_fits(start: Start, query: Make) -> None:
    resolver = await start(lambda m: [good(m[:12] + m[12:-4].lower() + m[-4:])])
    assert first_address(await forward(Upstream([resolver.address]), query("WWW.Example.COM"))) == "192.0.2.7"


async def test_the_next_resolver_is_asked_and_the_silent_one_comes_last_then(start: Start, query: Make) -> None:
    silent, working = await start(lambda m: []), await start(lambda m: [good(m)])
    clock = FakeClock()
    upstream = Upstream([silent.address, working.address], timeout=0.05, clock=clock)
    for name in ("a.example.com", "b.example.com"):
        assert first_address(await forward(upstream, query(name))) == "192.0.2.7"
    assert len(silent.seen) == 1
    clock.advance(60)
    await forward(upstream, query("c.example.com"))
    assert len(silent.seen) == 2


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP])
async def test_a_resolver_that_refuses_is_passed_over(start: Start, query: Make, rcode: dns.rcode.Rcode) -> None:
    refusing, working = await start(lambda m: [with_rcode(m, rcode)]), await start(lambda m: [good(m)])
    upstream = Upstream([refusing.address, working.address])
    assert first_address(await forward(upstream, query("a.example.com"))) == "192.0.2.7"
    alone = await forward(Upstream([refusing.address]), query("a.example.com"))
    assert isinstance(alone, bytes)
    assert dns.message.from_wire(alone).rcode() == rcode
    assert len(refusing.seen) == 2


async def test_nxdomain_is_an_answer(start: Start, query: Make) -> None:
    first, second = await start(lambda m: [with_rcode(m, dns.rcode.NXDOMAIN)]), await start(lambda m: [good(m)])
    result = await forward(Upstream([first.address, second.address]), query("a.example.com"))
    assert isinstance(result, bytes)
    assert dns.message.from_wire(result).rcode() == dns.rcode.NXDOMAIN
    assert second.seen == []


async def test_a_lost_packet_is_sent_again(start: Start, query: Make) -> None:
    count = 0

    def second_time(m: bytes) -> list[bytes]:
        nonlocal count
        count += 1
        return [good(m)] if count == 2 else []

    resolver = await start(second_time)
    assert (
        first_address(await forward(Upstream([resolver.address], timeout=0.05), query("a.example.com"))) == "192.0.2.7"
    )


async def test_when_nobody_answers_the_failure_names_them(start: Start, query: Make) -> None:
    silent = await start(lambda m: [])
    closed = await start(lambda m: [])
    closed.transport.close()
    await asyncio.sleep(0)
    result = await forward(Upstream([silent.address, closed.address], timeout=0.05), query("a.example.com"))
    assert isinstance(result, UpstreamFailed)
    assert result.code == 22
    assert result.reason == "127.0.0.1: did not answer; 127.0.0.1: Connection refused"


async def test_the_deadline_ends_it(start: Start, query: Make) -> None:
    silent = await start(lambda m: [])
    result = await forward(Upstream([silent.address], timeout=60, deadline=0.05), query("a.example.com"))
    assert result == UpstreamFailed(22, "the upstream resolvers are too slow")


async def test_a_cut_answer_is_fetched_over_tcp_for_an_asker_by_tcp(start: Start, query: Make) -> None:
    resolver = await start(lambda m: [cut(m)])
    assert (
        first_address(await forward(Upstream([resolver.address]), query("a.example.com"), stream=True)) == "192.0.2.7"
    )
    by_udp = await forward(Upstream([resolver.address]), query("a.example.com"))
    assert isinstance(by_udp, bytes)
    assert dns.message.from_wire(by_udp).flags & dns.flags.TC
    assert resolver.streams == 1


@pytest.mark.parametrize("tcp", [lambda m: [], lambda m: [b"no"], lambda m: [b"\0\0" + good(m)[2:]]])
async def test_a_failing_tcp_leaves_the_cut_answer(start: Start, query: Make, tcp: Reply) -> None:
    resolver = await start(lambda m: [cut(m)], tcp)
    message = query("a.example.com", id=9)
    result = await forward(Upstream([resolver.address], random_id=lambda: 7), message, stream=True)
    assert isinstance(result, bytes)
    assert dns.message.from_wire(result).flags & dns.flags.TC


@pytest.mark.parametrize("address", ["127.128.0.1", "240.64.3.4", "255.255.255.255"])
async def test_outside_names_do_not_lead_to_virtual_addresses(start: Start, query: Make, address: str) -> None:
    resolver = await start(lambda m: [good(m, address=address)])
    result = await forward(Upstream([resolver.address]), query("rebind.example.com"))
    assert isinstance(result, UpstreamFailed)
    assert result.code == 15
    assert first_address(await forward(Upstream([resolver.address], shielded=()), query("x.example.com"))) == address


async def test_a_broken_answer_is_not_passed_on(start: Start, query: Make) -> None:
    resolver = await start(lambda m: [good(m)[:-2]])
    result = await forward(Upstream([resolver.address]), query("a.example.com"))
    assert result == UpstreamFailed(23, "an upstream resolver sent a broken answer")


async def test_equal_queries_share_one_attempt(start: Start, query: Make) -> None:
    resolver = await start(lambda m: [good(m)])
    upstream = Upstream([resolver.address], max_in_flight=1)
    results: list[UpstreamAnswer] = []
    all_there = asyncio.Event()

    def done(result: UpstreamAnswer) -> None:
        results.append(result)
        if len(results) == 5:
            all_there.set()

    for i in range(5):
        message = query("a.example.com", id=i)
        parsed = wire.parse_query(message)
        assert isinstance(parsed, Query)
        assert upstream.ask(message, parsed, stream=False, done=done)
    other = query("b.example.com")
    parsed = wire.parse_query(other)
    assert isinstance(parsed, Query)
    assert not upstream.ask(other, parsed, stream=False, done=done)
    async with asyncio.timeout(5):
        await all_there.wait()
    assert len(resolver.seen) == 1
    await upstream.close()


def test_what_fits() -> None:
    message = dns.message.make_query("a.example.com", "A", id=5).to_wire()
    answer = good(message)
    end = len(message)
    assert fits(message, answer, end)
    assert not fits(message, answer[: end - 1], end)
    assert not fits(message, message, end)  # no answer
    assert not fits(message, answer[:2] + b"\xa9" + answer[3:], end)  # another opcode
    assert not fits(message, answer[:5] + b"\2" + answer[6:], end)
    assert not fits(message, answer[: end - 1] + b"\3" + answer[end:], end)  # another class
