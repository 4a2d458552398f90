"""Forwards queries for other people's names to resolvers, and believes only answers that fit the question.

Every attempt has a fresh socket (the kernel picks its port at random) connected to the resolver, and a fresh random id;
the answer must echo the question (RFC 5452 9.1). An answer that was cut (TC) is asked for again over TCP when the asker
came by TCP; an asker by UDP gets it as it is, because a whole one would not fit either.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from federation.aio.clock import Clock, SystemClock
from federation.dns import wire
from federation.dns.shared import Shared
from federation.dns.wire import Ede, Query, Rcode
from federation.errors import InvalidSettings

Server = tuple[str, int]
_PENALTY = 10.0
_ROUNDS = 2
SHIELDED = ("127.128.0.0/9", "240.0.0.0/4")
"""Where virtual addresses live. No name of other people leads there, unless somebody wants it to (DNS rebinding)."""


def parse_server(text: str, *, key: str) -> Server:
    """From "192.0.2.1", "192.0.2.1:5353", "2001:db8::1" or "[2001:db8::1]:53"; raises InvalidSettings naming `key`."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise InvalidSettings(f"{key} {text!r} is no IP address", hint="such as 10.0.0.10 or 10.0.0.10:53") from None
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise InvalidSettings(f"{key} {text!r} is not ADDRESS or ADDRESS:PORT")
    return host, int(port)


@dataclass(frozen=True, slots=True)
class UpstreamFailed:
    """No resolver answered: an Extended DNS Error code and the reason in words."""

    code: int
    reason: str


UpstreamAnswer = bytes | UpstreamFailed


class Upstream:
    """Resolvers in order of preference. `timeout` (seconds) is for one attempt, `deadline` for all of them.

    Answers with an IPv4 address in one of the networks `shielded` are blocked.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        timeout: float = 1.0,
        deadline: float = 4.0,
        shielded: Sequence[str] = SHIELDED,
        max_in_flight: int = 512,
        max_waiting: int = 4096,
        clock: Clock | None = None,
        random_id: Callable[[], int] = lambda: secrets.randbelow(65536),
    ) -> None:
        self.servers = tuple(servers)
        self._timeout, self._deadline, self._random_id = timeout, deadline, random_id
        self._clock = clock or SystemClock()
        self._shielded = tuple(ipaddress.IPv4Network(n) for n in shielded)
        self._failed_at: dict[Server, float] = {}
        self._shared: Shared[tuple[bytes, int, bool], UpstreamAnswer] = Shared(
            self._resolve, name="dns-forward", most=max_in_flight, waiting=max_waiting
        )

    def ask(self, message: bytes, query: Query, *, stream: bool, done: Callable[[UpstreamAnswer], None]) -> bool:
        """Call `done` with a whole message (of any id) or UpstreamFailed. False: too much is in flight.

        `stream`: the asker takes answers of any size; otherwise an answer that was cut is as good as a whole one.
        """
        return self._shared.join((message[2:], 12 + len(query.question), stream), done)

    async def close(self) -> None:
        """Give up what is in flight."""
        await self._shared.close()

    async def _resolve(self, key: tuple[bytes, int, bool]) -> UpstreamAnswer:
        tail, end, stream = key
        failures: dict[Server, str] = {}
        refusals: dict[Server, bytes] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deadline):
                for server in self._order() * _ROUNDS:
                    if server in refusals:
                        continue
                    try:
                        answer = await self._attempt(server, tail, end, stream=stream)
                    except (TimeoutError, OSError) as error:
                        self._failed_at[server] = self._clock.monotonic()
                        failures[server] = getattr(error, "strerror", None) or "did not answer"
                        continue
                    self._failed_at.pop(server, None)
                    if answer[3] & 15 in (Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED):
                        refusals[server] = answer
                        continue
                    return self._checked(answer, end)
        if refusals:
            return next(iter(refusals.values()))
        reason = "; ".join(f"{server[0]}: {why}" for server, why in failures.items())
        reason = reason or ("the upstream resolvers are too slow" if self.servers else "no upstream resolver is known")
        return UpstreamFailed(Ede.NO_REACHABLE_AUTHORITY, reason)

    def _checked(self, answer: bytes, end: int) -> UpstreamAnswer:
        addresses = wire.answered_addresses(answer, end)
        if addresses is None and not answer[2] & 0x02:
            return UpstreamFailed(Ede.NETWORK_ERROR, "an upstream resolver sent a broken answer")
        for raw in addresses or ():
            if len(raw) == 4 and any(ipaddress.IPv4Address(raw) in n for n in self._shielded):
                return UpstreamFailed(Ede.BLOCKED, "the answer lies among the virtual addresses of this host")
        return answer

    def _order(self) -> list[Server]:
        """All servers, those that failed lately last."""
        now = self._clock.monotonic()
        return sorted(self.servers, key=lambda s: now - self._failed_at.get(s, now - _PENALTY) < _PENALTY)

    async def _attempt(self, server: Server, tail: bytes, end: int, *, stream: bool) -> bytes:
        message = self._random_id().to_bytes(2, "big") + tail
        async with asyncio.timeout(self._timeout):
            answer = await over_udp(server, message, end)
        if stream and answer[2] & 0x02:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(self._timeout):
                    return await _over_tcp(server, message, end)
        return answer


def fits(message: bytes, answer: bytes, end: int) -> bool:
    """Whether `answer` answers `message`, whose question ends at `end`: id, QR, opcode, the question in any case."""
    return (
        len(answer) >= end
        and answer[:2] == message[:2]
        and answer[2] & 0xF8 == 0x80
        and answer[4:6] == b"\0\1"
        and answer[12 : end - 4].lower() == message[12 : end - 4].lower()
        and answer[end - 4 : end] == message[end - 4 : end]
    )


async def over_udp(server: Server, message: bytes, end: int) -> bytes:
    """The answer to `message`, whose question ends at `end`; whoever calls bounds the time. Raises OSError."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        sock.connect(server)
        sock.send(message)
        while True:  # whatever does not fit is dropped, until the time-out of the caller
            answer = await loop.sock_recv(sock, wire.MAX_MESSAGE)
            if fits(message, answer, end):
                return answer


async def _over_tcp(server: Server, message: bytes, end: int) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(message).to_bytes(2, "big") + message)
        answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("closed before the answer was whole") from error
    finally:
        writer.transport.abort()
    if not fits(message, answer, end):
        raise ConnectionResetError("answered something else")
    return answer
