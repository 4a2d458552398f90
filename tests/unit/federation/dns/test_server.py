"""The server over real sockets on loopback, on the loops of asyncio and of uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from federation.aio import tasks
from federation.dns.answer import NameRecords
from federation.dns.ratelimit import RateLimit
from federation.dns.server import DnsServer
from federation.dns.table import Table
from federation.dns.tcp import StreamLimits
from federation.dns.upstream import Upstream
from federation.errors import InvalidSettings, Unavailable

Make = Callable[..., bytes]
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, tasks.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def with_deadline(main: Coroutine[Any, Any, None]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(20):
                await main

        request.param(limited())

    return with_deadline


@contextlib.asynccontextmanager
async def serving(table: Table, **options: Any) -> AsyncIterator[tuple[DnsServer, int]]:
    server = DnsServer(table=table, **options)
    port = await server.start("127.0.0.1", 0)
    try:
        yield server, port
    finally:
        await server.close()


class Client(asyncio.DatagramProtocol):
    """Sends datagrams and keeps what comes back."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.answers.put_nowait(data)


@contextlib.asynccontextmanager
async def udp(port: int) -> AsyncIterator[tuple[asyncio.DatagramTransport, Client]]:
    transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
        Client, remote_addr=("127.0.0.1", port)
    )
    try:
        yield transport, client
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def tcp(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def framed(*messages: bytes) -> bytes:
    return b"".join(len(m).to_bytes(2, "big") + m for m in messages)


async def read(reader: asyncio.StreamReader) -> dns.message.Message:
    return dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))


def test_the_same_query_is_answered_alike_fast_and_slow(run: Run, table: Table, query: Make) -> None:
    async def main() -> None:
        async with serving(table) as (server, port), udp(port) as (transport, client):
            for options in ({}, {"use_edns": 0}, {"use_edns": 0, "ednsflags": dns.flags.DO, "payload": 4096}):
                for flags in (0, dns.flags.RD, dns.flags.RD | dns.flags.CD | dns.flags.AD):
                    message = query("Echo.Shop.global", "A", id=512, flags=flags, **options)
                    table.put("echo.shop.global", NameRecords(a=("127.128.0.2",)))
                    table.put("echo.shop.global", NameRecords(a=("127.128.0.1",)))
                    fast_before = server.counts()["fast"]
                    for _ in range(2):
                        transport.sendto(message)
                    slow, fast = await client.answers.get(), await client.answers.get()
                    assert server.counts()["fast"] == fast_before + 1
                    assert slow == fast
                    answer = dns.message.from_wire(fast)
                    assert answer.answer[0][0].to_text() == "127.128.0.1"
                    assert answer.flags & (dns.flags.RD | dns.flags.CD | dns.flags.AD) == flags & ~dns.flags.AD
                    assert answer.edns == (0 if options else -1)
                    assert answer.ednsflags == options.get("ednsflags", 0)

    run(main())


def test_almost_plain_queries_do_not_take_the_fast_path(run: Run, table: Table, query: Make) -> None:
    async def main() -> None:
        async with serving(table) as (server, port), udp(port) as (transport, client):
            plain = query("echo.shop.global", "A", id=1)
            with_edns = query("echo.shop.global", "A", id=1, use_edns=0)
            for message in (plain, plain, with_edns):
                transport.sendto(message)
                await client.answers.get()
            assert server.counts()["fast"] == 2
            for message, rcode in (
                (query("echo.shop.global", "A", use_edns=1), dns.rcode.BADVERS),
                (query("echo.shop.global", "A", use_edns=0, options=[dns.edns.GenericOption(10, b"12345678")]), 0),
                (with_edns[:-11] + b"\1" + with_edns[-10:], dns.rcode.FORMERR),
                (with_edns[:-8] + b"\0\0" + with_edns[-6:], 0),
                (plain + b"\0", dns.rcode.FORMERR),
                (plain[:-1], dns.rcode.FORMERR),
                (plain[:-1] + b"\3", dns.rcode.REFUSED),
                (b"\0\1\x28\0" + plain[4:], dns.rcode.NOTIMP),
            ):
                fast_before = server.counts()["fast"]
                transport.sendto(message)
                answer = dns.message.from_wire(await client.answers.get())
                assert answer.rcode() == rcode, message
                assert server.counts()["fast"] - fast_before == (message == with_edns[:-8] + b"\0\0" + with_edns[-6:])

    run(main())


def test_garbage_is_survived(run: Run, table: Table, query: Make) -> None:
    async def main() -> None:
        async with serving(table) as (_, port), udp(port) as (transport, client):
            message = query("echo.shop.global")
            for end in range(len(message)):
                transport.sendto(message[:end])
            transport.sendto(bytes(2000))
            transport.sendto(message[:2] + b"\x80" + message[3:])
            transport.sendto(query("echo.shop.global", id=4242))
            while (answer := await client.answers.get())[:2] != (4242).to_bytes(2, "big"):
                assert len(answer) == 12
            assert dns.message.from_wire(answer).answer

    run(main())


def test_misses_are_answered_late_by_udp_and_tcp(run: Run, table: Table) -> None:
    async def main() -> None:
        async def miss(name: str) -> bool:
            await asyncio.sleep(0)
            table.put(name, NameRecords(a=("127.128.0.3",)))
            return True

        async with serving(table, miss=miss) as (_, port):
            by_udp = await dns.asyncquery.udp(dns.message.make_query("u.shop.global", "A"), "127.0.0.1", port=port)
            by_tcp = await dns.asyncquery.tcp(dns.message.make_query("t.shop.global", "A"), "127.0.0.1", port=port)
            assert by_udp.answer[0][0].to_text() == by_tcp.answer[0][0].to_text() == "127.128.0.3"

    run(main())


def test_other_names_are_forwarded(run: Run, table: Table) -> None:
    async def main() -> None:
        other = Table(["example.com"])
        other.put("www.example.com", NameRecords(a=tuple(f"192.0.2.{i}" for i in range(200))))
        other.put("one.example.com", NameRecords(a=("192.0.2.1",)))
        async with serving(other) as (_, behind):
            upstream = Upstream([("127.0.0.1", behind)])
            async with serving(table, upstream=upstream) as (server, port):
                one = await dns.asyncquery.udp(dns.message.make_query("one.example.com", "A"), "127.0.0.1", port=port)
                assert one.answer[0][0].to_text() == "192.0.2.1"
                many = dns.message.make_query("www.example.com", "A")
                by_udp = await dns.asyncquery.udp(many, "127.0.0.1", port=port)
                assert by_udp.flags & dns.flags.TC
                by_tcp = await dns.asyncquery.tcp(many, "127.0.0.1", port=port)
                assert len(by_tcp.answer[0]) == 200
                own = await dns.asyncquery.udp(dns.message.make_query("echo.shop.global", "A"), "127.0.0.1", port=port)
                assert own.flags & dns.flags.RA
                assert server.counts()["forwarded"] == 3

    run(main())


def test_when_no_resolver_answers_the_error_is_extended(run: Run, table: Table) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            upstream = Upstream([silent.getsockname()], timeout=0.02)
            async with serving(table, upstream=upstream) as (_, port):
                query = dns.message.make_query("www.example.com", "A", use_edns=0)
                answer = await dns.asyncquery.udp(query, "127.0.0.1", port=port)
                assert answer.rcode() == dns.rcode.SERVFAIL
                assert "did not answer" in answer.options[0].to_text()

    run(main())


def test_many_queries_in_one_stream(run: Run, table: Table, query: Make) -> None:
    async def main() -> None:
        async with serving(table, stream_limits=StreamLimits(pending=2)) as (_, port), tcp(port) as (reader, writer):
            names = ("many.shop.global" if i % 50 == 0 else "echo.shop.global" for i in range(500))
            whole = framed(*(query(name, id=i) for i, name in enumerate(names)))
            for at in range(0, len(whole), 777):  # cut anywhere
                writer.write(whole[at : at + 777])
            ids = [(await read(reader)).id for _ in range(500)]
            assert ids == list(range(500))

    run(main())


def test_a_slow_answer_does_not_hold_up_others(run: Run, table: Table, query: Make) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def miss(name: str) -> bool:
            await gate.wait()
            return False

        async with serving(table, miss=miss) as (_, port), tcp(port) as (reader, writer):
            writer.write(framed(query("slow.shop.global", id=1), query("echo.shop.global", id=2)))
            writer.write_eof()
            assert (await read(reader)).id == 2
            gate.set()
            assert (await read(reader)).id == 1
            assert await reader.read() == b""

    run(main())


def test_too_many_unanswered_queries_pause_the_stream(run: Run, table: Table, query: Make) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def miss(name: str) -> bool:
            await gate.wait()
            return False

        limits = StreamLimits(pending=3)
        async with serving(table, miss=miss, stream_limits=limits) as (server, port), tcp(port) as (reader, writer):
            writer.write(framed(*(query(f"n{i}.shop.global", id=i) for i in range(8))))
            async with asyncio.timeout(5):
                while server.counts().get("missed", 0) < 3:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            assert server.counts()["missed"] == 3
            gate.set()
            assert {(await read(reader)).id for _ in range(8)} == set(range(8))

    run(main())


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\x20half a message"])
def test_idle_streams_are_closed(run: Run, table: Table, sent: bytes) -> None:
    async def main() -> None:
        async with serving(table, stream_limits=StreamLimits(idle=0.05)) as (_, port), tcp(port) as (reader, writer):
            writer.write(sent)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""

    run(main())


def test_a_stream_without_a_header_is_closed(run: Run, table: Table) -> None:
    async def main() -> None:
        async with serving(table) as (_, port), tcp(port) as (reader, writer):
            writer.write(framed(b"tiny"))
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""

    run(main())


def test_the_longest_idle_stream_makes_room(run: Run, table: Table, query: Make) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def miss(name: str) -> bool:
            await gate.wait()
            return False

        limits = StreamLimits(connections=2)
        async with (
            serving(table, miss=miss, stream_limits=limits) as (server, port),
            tcp(port) as (first, first_writer),
            tcp(port) as (second, second_writer),
        ):
            for reader, writer in ((second, second_writer), (first, first_writer)):
                writer.write(framed(query("echo.shop.global")))
                await read(reader)
            async with tcp(port) as (third, third_writer):
                third_writer.write(framed(query("slow.shop.global", id=3)))
                with contextlib.suppress(ConnectionResetError):
                    assert await second.read() == b""
                first_writer.write(framed(query("slower.shop.global", id=1)))
                async with asyncio.timeout(5):
                    while server.counts().get("missed", 0) < 2:
                        await asyncio.sleep(0.001)
                async with tcp(port) as (fourth, _):  # nobody is idle
                    with contextlib.suppress(ConnectionResetError):
                        assert await fourth.read() == b""
                gate.set()
                assert (await read(first)).id == 1
                assert (await read(third)).id == 3

    run(main())


def test_a_client_that_does_not_read_is_not_buffered_for(run: Run, table: Table, query: Make) -> None:
    async def main() -> None:
        async with serving(table, stream_limits=StreamLimits(idle=0.3)) as (server, port), tcp(port) as (_, writer):
            flood = framed(*[query("many.shop.global")] * 2000)  # 5 kB of answer each
            writer.write(flood)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(10):
                    while True:
                        await writer.drain()
                        writer.write(flood)
                        await asyncio.sleep(0.01)
            assert server.counts()["answered"] < 6000
            by_udp = await dns.asyncquery.udp(
                dns.message.make_query("echo.shop.global", "A"), "127.0.0.1", port=port, timeout=5
            )
            assert by_udp.answer

    run(main())


def test_a_taken_port_is_one_clear_error(run: Run, table: Table) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            server = DnsServer(table=table)
            with pytest.raises(Unavailable, match="cannot serve DNS") as caught:
                await server.start("127.0.0.1", holder.getsockname()[1])
            assert caught.value.error_code == "dns_port_unavailable"
            await server.close()

    run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_forwarding_to_oneself_is_refused(run: Run, table: Table, host: str) -> None:
    async def main() -> None:
        server = DnsServer(table=table, upstream=Upstream([("192.0.2.1", 5353), ("127.0.0.1", 5353)]))
        with pytest.raises(InvalidSettings) as caught:
            await server.start(host, 5353)
        assert caught.value.error_code == "dns_upstream_loop"

    run(main())


def test_ipv6(run: Run, table: Table) -> None:
    async def main() -> None:
        server = DnsServer(table=table)
        try:
            port = await server.start("::1", 0)
        except Unavailable:
            pytest.skip("this host has no IPv6 loopback")
        answer = await dns.asyncquery.udp(dns.message.make_query("echo.shop.global", "A"), "::1", port=port)
        assert answer.answer
        await server.close()

    run(main())


def test_the_rate_limit_sends_clients_to_tcp(run: Run, table: Table) -> None:
    async def main() -> None:
        limit = RateLimit(per_second=0.001, burst=1, slip=1)
        async with serving(table, rate_limit=limit) as (server, port):
            query = dns.message.make_query("echo.shop.global", "A")
            assert (await dns.asyncquery.udp(query, "127.0.0.1", port=port)).answer
            answer, by_tcp = await dns.asyncquery.udp_with_fallback(query, "127.0.0.1", port=port)
            assert by_tcp
            assert answer.answer
            assert server.counts()["limited"] == 1

    run(main())


def test_metrics(run: Run, table: Table) -> None:
    async def main() -> None:
        registry = CollectorRegistry()
        async with serving(table, metrics=registry) as (_, port):
            query = dns.message.make_query("echo.shop.global", "A")
            for _ in range(3):
                await dns.asyncquery.udp(query, "127.0.0.1", port=port)
            text = generate_latest(registry).decode()
            assert 'isthmus_dns_queries_total{outcome="fast"} 2.0' in text
            assert 'isthmus_dns_queries_total{outcome="answered"} 1.0' in text
            assert f"isthmus_dns_names {float(len(table))}" in text
        assert generate_latest(registry) == b""

    run(main())


async def test_closing_with_work_in_flight(table: Table) -> None:
    async def miss(name: str) -> bool:
        await asyncio.Event().wait()
        return True

    server = DnsServer(table=table, miss=miss)
    port = await server.start("127.0.0.1", 0)
    async with tcp(port) as (reader, writer):
        writer.write(framed(dns.message.make_query("new.shop.global", "A").to_wire()))
        async with asyncio.timeout(5):
            while not server.counts().get("missed"):
                await asyncio.sleep(0.001)
        await server.close()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    await server.close()
