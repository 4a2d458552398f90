"""The UDP side of the server, and its fast path.

A plain query (one question; no EDNS or an OPT without options) for a question that has been asked before is answered
here by two look-ups and one join. Everything else goes to the resolver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from federation.dns import wire
from federation.dns.ratelimit import Limiter, Verdict
from federation.dns.resolve import Resolver
from federation.dns.table import Table
from federation.dns.wire import CD, DO, RD, TC, Malformed, Rcode

Address = tuple[Any, ...]

_AD = 0x0020
_PLAIN_HEADS = {
    wire.HEADER.pack(0, rd | ad | cd, 1, 0, 0, edns)[2:]: 4 * edns + (2 if rd else 0) + (1 if cd else 0)
    for edns in (0, 1)
    for rd in (0, RD)
    for ad in (0, _AD)
    for cd in (0, CD)
}
"""The ten bytes after the id of a plain query → the index into `Answer.heads`."""
_OPT_HEAD = b"\0\0\x29"
_OPTS = {
    flags.to_bytes(4, "big") + b"\0\0": wire.opt_record(flags=flags)  # version 0, no options
    for flags in (0, DO)
}
_OPT_SIZE = 11


def _drop(data: bytes, addr: Address) -> None:
    """Stands in for `sendto` where answers cannot leave."""


class Datagrams(asyncio.DatagramProtocol):
    """Answers datagrams. `fast` counts what the fast path answered."""

    def __init__(self, table: Table, resolver: Resolver) -> None:
        self._hot, self._resolver = table.hot, resolver
        self._transport: asyncio.DatagramTransport | None = None
        self._sendto: Callable[[bytes, Address], object] = _drop
        self.fast = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self._sendto = self._transport.sendto

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport, self._sendto = None, _drop

    def pause_writing(self) -> None:
        """The socket is full: answers are dropped, as a network would, instead of queued without bound."""
        self._sendto = _drop

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._sendto = self._transport.sendto

    def datagram_received(self, data: bytes, addr: Address) -> None:
        index = _PLAIN_HEADS.get(data[2:12])
        if index is not None:
            if index < 4:
                question = data[12:]
                answer = self._hot.get(question.lower())
                if answer is not None and answer.size <= 512:
                    bodies = answer.bodies
                    body = bodies[0] if len(bodies) == 1 else bodies[data[1] % len(bodies)]
                    self._sendto(b"".join((data[:2], answer.heads[index], question, body)), addr)
                    self.fast += 1
                    return
            else:
                question = data[12:-_OPT_SIZE]
                answer = self._hot.get(question.lower())
                opt = _OPTS.get(data[-6:])
                if answer is not None and answer.size <= 501 and opt is not None and data[-11:-8] == _OPT_HEAD:
                    bodies = answer.bodies
                    body = bodies[0] if len(bodies) == 1 else bodies[data[1] % len(bodies)]
                    self._sendto(b"".join((data[:2], answer.heads[index], question, body, opt)), addr)
                    self.fast += 1
                    return
        reply = self._resolver.handle(data, lambda late: self._sendto(late, addr), stream=False)
        if reply is not None:
            self._sendto(reply, addr)

    def error_received(self, exc: Exception) -> None:
        """A client went away before its answer, or gave an address that cannot be: nobody is left to tell."""

    def close(self) -> None:
        """Stop listening."""
        self._sendto = _drop
        if self._transport is not None:
            self._transport.close()


class LimitedDatagrams(Datagrams):
    """The same with a response rate limit."""

    def __init__(self, table: Table, resolver: Resolver, limiter: Limiter) -> None:
        super().__init__(table, resolver)
        self._limiter = limiter
        self.limited = 0

    def datagram_received(self, data: bytes, addr: Address) -> None:
        verdict = self._limiter.judge(addr[0])
        if verdict is Verdict.PASS:
            super().datagram_received(data, addr)
            return
        self.limited += 1
        if verdict is Verdict.SLIP:
            query = wire.parse_query(data)
            if not isinstance(query, Malformed):
                self._sendto(wire.reply(query, rcode=Rcode.NOERROR, flags=TC), addr)
