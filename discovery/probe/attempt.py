"""One attempt to be answered by an exported service: by the gateways of another cluster, or by those of the own one.

Arrives: a port, and whose gateway. Leaves: an Outcome, within the time that is given; nothing is raised.

- **remote**: a connection of mutual TLS to a gateway of the other cluster, as gateways make it. First a health check,
  which tells without the workload whether this cluster is admitted; then a request, or a connection whose bytes are
  waited for. The server name pins the cluster: it is known who answered.
- **egress**: a connection in plain text to the port that the own gateways have for the import, as that of a pod without
  a sidecar. The gateway chooses the copy, and nothing that comes back says which.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial

from discovery.probe import dial, http
from discovery.probe.words import (
    BROKEN,
    CLOSED,
    COPY_UNREACHABLE,
    NO_READY_COPY,
    TIMED_OUT,
    Outcome,
    judge,
    judge_check,
)
from federation.aio.clock import Clock
from federation.envoy import names
from federation.errors import IsthmusError
from federation.model.cluster import Bundle, Gateway
from federation.model.ids import ServiceName
from federation.model.service import Port
from federation.trust.svid import Svid

SILENCE = 0.5
"""Seconds for which a TCP connection has to stay open where the service says nothing by itself."""

Reading = Callable[[bytes, bool], "http.Answer | None"]


async def bounded(work: Callable[[], Awaitable[Outcome]], *, seconds: float, where: str) -> Outcome:
    """What `work` finds, or why it found nothing."""
    try:
        async with asyncio.timeout(seconds):
            return await work()
    except TimeoutError:
        return Outcome(TIMED_OUT, f"no answer from {where} within {seconds:g} s")
    except IsthmusError as error:
        return Outcome(error.error_code, str(error))
    except http.Ended as error:
        return Outcome(CLOSED, f"{where}: {error}")
    except http.Broken as error:
        return Outcome(BROKEN, f"{where}: {error}")
    except (OSError, ssl.SSLError) as error:
        return Outcome(CLOSED, f"{where}: the connection was cut: {getattr(error, 'strerror', None) or error}")


async def remote(
    gateway: Gateway,
    service: ServiceName,
    port: Port,
    *,
    host: str,
    bundle: Bundle,
    svid: Svid,
    patience: float,
    clock: Clock,
) -> Outcome:
    """Ask the copies of the cluster whose `gateway` this is. `host`: the service's name. Raises as dial.line does."""
    where = f"{gateway.address} port {gateway.port}"
    open_ = partial(
        dial.line,
        gateway,
        bundle=bundle,
        svid=svid,
        server_name=names.server_name(service, port.port, bundle.trust_domain),
        patience=patience,
        clock=clock,
    )
    async with open_(alpn=names.ALPN_HEALTH) as line:
        line.writer.write(http.ask_1(host))
        admitted = judge_check(await _answer(line.reader, lambda raw, end: http.read_1(raw, ended=end), where))
    if admitted.code:
        return admitted
    if not port.app.is_http:
        async with open_(alpn=names.ALPN_TCP) as line:
            return await _bytes(line.reader, where)
    async with open_(alpn=names.ALPN_HTTP) as line:
        line.writer.write(http.ask_2(host))
        return judge(await _answer(line.reader, lambda raw, end: http.read_2(raw, ended=end), where))


async def egress(address: str, at: int, port: Port, *, host: str, patience: float) -> Outcome:
    """Ask as a workload without a sidecar does, at port `at` of an own gateway. Raises as dial.connect."""
    where = f"{address} port {at}"
    reader, writer = await dial.connect(address, at, patience=patience)
    try:
        if not port.app.is_http:
            return await _bytes(reader, where)
        writer.write(http.ask_1(host))
        return judge(await _answer(reader, lambda raw, end: http.read_1(raw, ended=end), where))
    finally:
        writer.transport.abort()


async def _answer(reader: asyncio.StreamReader, read: Reading, where: str) -> http.Answer:
    raw = b""
    while True:
        more = await dial.read_some(reader, where)
        raw += more
        found = read(raw, not more)
        if found is not None:
            return found
        if len(raw) > 4 * http.MOST_BYTES:
            raise http.Broken("no end of an answer")


async def _bytes(reader: asyncio.StreamReader, where: str) -> Outcome:
    """Of a connection whose protocol is not known: the service speaks first, or it stays open."""
    try:
        async with asyncio.timeout(SILENCE):
            more = await dial.read_some(reader, where)
    except TimeoutError:
        return Outcome("", f"the connection stays open ({SILENCE:g} s), and the service says nothing by itself")
    if more:
        return Outcome("", "the service speaks")
    return Outcome(CLOSED, f"{where} closed the connection at once: no copy took it")


def explained(outcome: Outcome, port: Port, ready: int | None) -> Outcome:
    """`outcome` in the light of how many ready copies the cluster says it has (None: not known).

    A gateway closes a TCP connection without words.
    """
    if outcome.code != CLOSED or port.app.is_http or ready is None:
        return outcome
    if not ready:
        return Outcome(NO_READY_COPY, "no copy is ready there: the gateway closes the connection")
    return Outcome(COPY_UNREACHABLE, f"{ready} ready there, and the gateway closes the connection: it reaches none")
