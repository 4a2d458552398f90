"""Answers of DNS servers, real ones on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import dns.message
import dns.rcode
import dns.rrset
import pytest

from discovery.probe import resolver
from discovery.probe.resolver import first_nameserver, judged

Answer = Callable[[dns.message.Message], dns.message.Message | None]


class Server(asyncio.DatagramProtocol):
    """Answers as it is told."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        made = self._answer(dns.message.from_wire(data))
        if made is not None:
            self.transport.sendto(made.to_wire(), addr)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Answer], object]]:
    opened = []

    async def start(answer: Answer) -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Server(answer), local_addr=("127.0.0.1", 0))
        opened.append(transport)
        where: socket.socket = transport.get_extra_info("socket")
        return "127.0.0.1", where.getsockname()[1]

    yield start
    for transport in opened:
        transport.close()


def with_records(**records: list[str]) -> Answer:
    def answer(asked: dns.message.Message) -> dns.message.Message:
        made = dns.message.make_response(asked)
        question = asked.question[0]
        kind = "A" if question.rdtype == 1 else "AAAA"
        if found := records.get(kind):
            made.answer.append(dns.rrset.from_text(question.name, 5, "IN", kind, *found))
        return made

    return answer


async def test_the_right_addresses_of_both_families(serve: Callable[[Answer], object]) -> None:
    server = await serve(with_records(A=["241.0.0.1"], AAAA=["fd00::1"]))  # type: ignore[misc]
    told = await resolver.ask(server, "echo.shop.global", ["241.0.0.1", "fd00::1"], seconds=5)
    assert (told.code, set(told.addresses)) == ("", {"241.0.0.1", "fd00::1"})
    told = await resolver.ask(server, "echo.shop.global", ["241.0.0.2"], seconds=5)
    assert told.code == "dns_wrong"
    assert "is 241.0.0.1, and it is 241.0.0.2" in told.detail


async def test_a_denial_and_silence(serve: Callable[[Answer], object]) -> None:
    def deny(asked: dns.message.Message) -> dns.message.Message:
        made = dns.message.make_response(asked)
        made.set_rcode(dns.rcode.NXDOMAIN)
        return made

    server = await serve(deny)  # type: ignore[misc]
    told = await resolver.ask(server, "echo.shop.global", ["241.0.0.1"], seconds=5)
    assert (told.code, "NXDOMAIN" in told.detail) == ("dns_refused", True)
    server = await serve(lambda _: None)  # type: ignore[misc]
    assert (await resolver.ask(server, "echo.shop.global", ["241.0.0.1"], seconds=0.05)).code == "dns_silent"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 10.96.0.10\nnameserver 10.96.0.11\n", ("10.96.0.10", 53)),
        ("# nameserver 1.1.1.1\nsearch a b\nnameserver fe80::1%eth0\n", ("fe80::1", 53)),
        ("nameserver\nnameserver nonsense\n", None),
        ("", None),
    ],
)
def test_the_nameserver_of_a_resolv_conf(text: str, found: tuple[str, int] | None) -> None:
    assert first_nameserver(text) == found


def test_order_does_not_matter() -> None:
    assert judged("s", "n", ["10.0.0.2", "10.0.0.1"], ["10.0.0.1", "10.0.0.2"]).code == ""
    assert judged("s", "n", [], ["10.0.0.1"]).code == "dns_wrong"
