"""The TCP side of the server: framing, pipelining, and limits (RFC 7766).

Messages are preceded by their length (two bytes). A client may send many before it reads; answers come in the order in
which they are ready. The connection that has been idle longest makes room when there are too many.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

from federation.dns.resolve import Resolver


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """`idle` seconds without a query end a connection; `pending` unanswered queries pause reading from it."""

    connections: int = 256
    pending: int = 64
    idle: float = 10.0


class Streams:
    """The connections of one listener."""

    def __init__(self, resolver: Resolver, limits: StreamLimits) -> None:
        self.resolver, self.limits = resolver, limits
        self.open: dict[_Connection, None] = {}
        """In order of their last activity."""

    def protocol(self) -> asyncio.Protocol:
        """A protocol for a connection that was just accepted."""
        return _Connection(self)

    def admit(self, connection: _Connection) -> bool:
        """Whether there is room for `connection`; an idle one may have to go for it."""
        if len(self.open) >= self.limits.connections:
            idle = next((c for c in self.open if not c.pending), None)
            if idle is None:
                return False
            idle.abort()
        self.open[connection] = None
        return True

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self.open):
            connection.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writable = True
        self._paused = False
        self._half_closed = False
        self.pending = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._streams.admit(self):
            self.abort()
            return
        self._touch()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._drain()

    def eof_received(self) -> bool:
        """The client may close its half and still wait for answers; the idle time-out ends the rest."""
        if not self.pending:
            return False
        self._half_closed = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.open.pop(self, None)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._writable = False
        self._pause()

    def resume_writing(self) -> None:
        self._writable = True
        self._drain()

    def abort(self) -> None:
        """Close at once."""
        self._streams.open.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def _drain(self) -> None:
        """Handle every whole message in the buffer, until the client has to slow down."""
        while self._transport is not None and len(self._buffer) >= 2:
            if not self._writable or self.pending >= self._streams.limits.pending:
                self._pause()
                return
            end = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < end:
                break
            message = bytes(self._buffer[2:end])
            del self._buffer[:end]
            self._touch()
            self._handle(message)
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _handle(self, message: bytes) -> None:
        if len(message) < 12:
            self.abort()  # whoever cannot frame a header will not send anything better
            return
        self.pending += 1
        reply = self._streams.resolver.handle(message, self._late, stream=True)
        if reply is not None:
            self.pending -= 1
            self._write(reply)

    def _late(self, reply: bytes) -> None:
        self.pending -= 1
        self._touch()
        self._write(reply)
        if self._half_closed and not self.pending and self._transport is not None:
            self._transport.close()
        self._drain()

    def _write(self, reply: bytes) -> None:
        if self._transport is not None:
            self._transport.write(len(reply).to_bytes(2, "big") + reply)

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _touch(self) -> None:
        """Note activity: move to the end of the order, start the idle time anew."""
        if self._transport is None:
            return
        self._streams.open.pop(self, None)
        self._streams.open[self] = None
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._streams.limits.idle, self._idle)

    def _idle(self) -> None:
        if self.pending:
            self._touch()
        else:
            self.abort()
