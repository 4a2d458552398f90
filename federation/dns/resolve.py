"""Decides what a query gets: an answer now, one after a miss or from upstream, or none.

Arrives: the bytes of a message and a callback for a late answer. Leaves: the answer's bytes. `udp` and `tcp`
have the sockets.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from federation.dns import wire
from federation.dns.answer import Answer
from federation.dns.shared import Shared
from federation.dns.table import Table
from federation.dns.upstream import Upstream, UpstreamAnswer, UpstreamFailed
from federation.dns.wire import AA, CD, RA, RD, TC, Ede, Malformed, Query, Rcode, Type
from federation.errors import Unavailable
from federation.log import Logger

Miss = Callable[[str], Awaitable[bool | str]]
Send = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Failed:
    """A miss that brought no verdict, and why."""

    reason: str


_TIMED_OUT = Failed("nobody could say in time whether the name exists")
_BROKEN = Failed("the look-up failed inside")


class Resolver:
    """`branch(name)`: names that may have names below them though no record of theirs is known; they get NODATA."""

    def __init__(
        self,
        table: Table,
        *,
        upstream: Upstream | None,
        miss: Miss | None,
        branch: Callable[[str], bool] | None,
        miss_timeout: float,
        max_misses: int,
        max_waiting: int,
        log: Logger,
    ) -> None:
        self._table, self._upstream, self._miss, self._branch = table, upstream, miss, branch
        self._miss_timeout, self._log = miss_timeout, log
        self._misses: Shared[bytes, bool | str | Failed] = Shared(
            self._ask, name="dns-miss", most=max_misses, waiting=max_waiting
        )
        self._recursion = RA if upstream is not None else 0
        table.offer_recursion(upstream is not None)
        self.counts: Counter[str] = Counter()
        """What became of the queries that the fast path did not answer."""

    def handle(self, message: bytes, send: Send, *, stream: bool) -> bytes | None:
        """The answer to `message`, or None: it comes by `send` later, or never comes. `stream`: no size limit."""
        query = wire.parse_query(message)
        if isinstance(query, Malformed):
            self.counts["malformed"] += 1
            return query.reply
        if query.edns is not None and query.edns.version != 0:
            return self._error(query, Rcode.BADVERS)
        if query.qclass != wire.CLASS_IN:
            return self._error(query, Rcode.REFUSED, (Ede.NOT_SUPPORTED, "only class IN is served"))
        if query.qtype in (Type.AXFR, Type.IXFR):
            return self._error(query, Rcode.REFUSED, (Ede.PROHIBITED, "zones are not transferred"))
        limit = wire.MAX_MESSAGE if stream else query.udp_limit
        zone = self._table.zone_of(query.name)
        if zone is None:
            return self._forward(message, query, send, limit)
        known = self._table.answer(query.name, query.qtype, zone)
        if known is not None:
            self.counts["answered"] += 1
            return self._render(query, known, limit)
        return self._missing(query, zone, send, limit)

    @property
    def misses(self) -> int:
        """How many names are being looked up."""
        return self._misses.in_flight

    async def close(self) -> None:
        """Give up what is in flight."""
        await self._misses.close()

    def _missing(self, query: Query, zone: bytes, send: Send, limit: int) -> bytes | None:
        name = wire.decode_name(query.name)
        if self._branch is not None and self._branch(name):
            self.counts["nodata"] += 1
            return self._render(query, self._table.nodata(query.name, zone), limit)
        if self._miss is None:
            self.counts["nxdomain"] += 1
            return self._render(query, self._table.nxdomain(query.name, zone), limit)

        def done(verdict: bool | str | Failed) -> None:
            send(self._after_miss(query, zone, limit, verdict))

        if self._misses.join(query.name, done):
            self.counts["missed"] += 1
            return None
        self.counts["overloaded"] += 1
        return self._error(query, Rcode.SERVFAIL)

    def _after_miss(self, query: Query, zone: bytes, limit: int, verdict: bool | str | Failed) -> bytes:
        known = self._table.answer(query.name, query.qtype, zone)
        if known is not None:
            return self._render(query, known, limit)
        if isinstance(verdict, Failed):
            self.counts["servfail"] += 1
            return self._error(query, Rcode.SERVFAIL, (Ede.NOT_READY, verdict.reason))
        self.counts["nxdomain"] += 1
        ede = (int(Ede.OTHER), verdict) if isinstance(verdict, str) else None
        return self._render(query, self._table.nxdomain(query.name, zone), limit, ede)

    async def _ask(self, name: bytes) -> bool | str | Failed:
        assert self._miss is not None  # noqa: S101 - for the type checker
        try:
            async with asyncio.timeout(self._miss_timeout):
                return await self._miss(wire.decode_name(name))
        except TimeoutError:
            return _TIMED_OUT
        except Unavailable as error:
            return Failed(error.message)
        except Exception:
            self._log.exception("dns miss failed", name=wire.decode_name(name))
            return _BROKEN

    def _forward(self, message: bytes, query: Query, send: Send, limit: int) -> bytes | None:
        if self._upstream is None:
            self.counts["refused"] += 1
            return self._error(query, Rcode.REFUSED, (Ede.NOT_AUTHORITATIVE, "no upstream resolver is configured"))

        def done(result: UpstreamAnswer) -> None:
            send(self._after_forward(query, limit, result))

        if self._upstream.ask(message, query, stream=limit == wire.MAX_MESSAGE, done=done):
            self.counts["forwarded"] += 1
            return None
        self.counts["overloaded"] += 1
        return self._error(query, Rcode.SERVFAIL)

    def _after_forward(self, query: Query, limit: int, result: UpstreamAnswer) -> bytes:
        if isinstance(result, UpstreamFailed):
            self.counts["servfail"] += 1
            return self._error(query, Rcode.SERVFAIL, (result.code, result.reason))
        if len(result) > limit:
            return wire.reply(query, rcode=result[3] & 15, flags=TC | self._recursion)
        return query.id.to_bytes(2, "big") + result[2:12] + query.question + result[12 + len(query.question) :]

    def _render(self, query: Query, answer: Answer, limit: int, ede: tuple[int, str] | None = None) -> bytes:
        opt = b""
        index = (2 if query.flags & RD else 0) + (1 if query.flags & CD else 0)
        if query.edns is not None:
            opt = wire.opt_record(flags=query.edns.flags, ede=ede)
            index += 4
        if answer.size + len(opt) > limit:
            self.counts["truncated"] += 1
            return wire.reply(query, rcode=Rcode.NOERROR, flags=AA | TC | self._recursion)
        body = answer.bodies[(query.id & 0xFF) % len(answer.bodies)]
        return query.id.to_bytes(2, "big") + answer.heads[index] + query.question + body + opt

    def _error(self, query: Query, rcode: int, ede: tuple[int, str] | None = None) -> bytes:
        self.counts["error"] += 1
        return wire.reply(query, rcode=rcode, flags=self._recursion, ede=ede)
