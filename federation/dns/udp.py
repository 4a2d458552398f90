"""The UDP side of the server, and its fast path.

A plain query (one question; no EDNS or an OPT without options) for a question that has been asked before is answered
here by two look-ups and one join. Everything else goes to the resolver.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from federation.dns import wire
from federation.dns.resolve import Resolver
from federation.dns.table import Table
from federation.dns.wire import CD, DO, RD

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


class Datagrams(asyncio.DatagramProtocol):
    """Answers datagrams. `fast` counts what the fast path answered."""

    def __init__(self, table: Table, resolver: Resolver) -> None:
        self._hot, self._resolver = table.hot, resolver
        self._transport: asyncio.DatagramTransport | None = None
        self.fast = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
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
        self._slow(data, addr)

    def _slow(self, data: bytes, addr: Address) -> None:
        def send(late: bytes) -> None:
            if self._transport is not None and not self._transport.is_closing():
                self._sendto(late, addr)

        reply = self._resolver.handle(data, send, stream=False)
        if reply is not None:
            self._sendto(reply, addr)

    def error_received(self, exc: Exception) -> None:
        """A client went away before its answer (ICMP port unreachable): nobody is left to tell."""

    def close(self) -> None:
        """Stop listening."""
        if self._transport is not None:
            self._transport.close()
