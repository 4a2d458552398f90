"""The DNS server: UDP and TCP sockets on one port.

Arrives: a table, an upstream, and `miss`, which is asked once for a name of our zones that the table has not. The UDP
fast path answers plain queries from the table's encoded answers; everything else goes through `resolve`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from federation import log as logs
from federation.dns.resolve import Miss, Resolver
from federation.dns.table import Table
from federation.dns.tcp import StreamLimits, Streams
from federation.dns.udp import Datagrams
from federation.dns.upstream import Upstream
from federation.errors import Unavailable
from federation.log import Logger


class DnsServer:
    """Serves `table` and forwards the rest to `upstream` (None: REFUSED).

    `miss(name)` gets a lower-case name without the final dot and says True (look again), False or a reason (NXDOMAIN).
    Concurrent queries for the name share it; after `miss_timeout` seconds they get SERVFAIL.
    """

    def __init__(
        self,
        *,
        table: Table,
        upstream: Upstream | None = None,
        miss: Miss | None = None,
        branch: Callable[[str], bool] | None = None,
        miss_timeout: float = 2.0,
        max_misses: int = 256,
        max_waiting: int = 4096,
        stream_limits: StreamLimits | None = None,
        log: Logger | None = None,
    ) -> None:
        self._table, self._upstream = table, upstream
        self._log = log or logs.get("dns")
        self._resolver = Resolver(
            table,
            upstream=upstream,
            miss=miss,
            branch=branch,
            miss_timeout=miss_timeout,
            max_misses=max_misses,
            max_waiting=max_waiting,
            log=self._log,
        )
        self._datagrams = Datagrams(table, self._resolver)
        self._streams = Streams(self._resolver, stream_limits or StreamLimits())
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen on `host`:`port` by UDP and TCP (port 0 picks one that is free for both); returns the port.

        Raises Unavailable when the port is taken or not allowed.
        """
        loop = asyncio.get_running_loop()
        udp, tcp = _bind(host, port)
        await loop.create_datagram_endpoint(lambda: self._datagrams, sock=udp)
        self._listener = await loop.create_server(self._streams.protocol, sock=tcp)
        taken: int = udp.getsockname()[1] if udp.fileno() >= 0 else self._listener.sockets[0].getsockname()[1]
        return taken

    async def close(self) -> None:
        """Stop listening and give up what is in flight."""
        self._datagrams.close()
        if self._listener is not None:
            self._listener.close()
        self._streams.close()
        await self._resolver.close()
        if self._upstream is not None:
            await self._upstream.close()


def _bind(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on the same port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    attempts = 16 if port == 0 else 1  # the port that UDP got may be taken for TCP
    for attempt in range(attempts):
        udp = socket.socket(family, socket.SOCK_DGRAM)
        tcp = socket.socket(family, socket.SOCK_STREAM)
        try:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            udp.bind((host, port))
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((host, udp.getsockname()[1]))
            tcp.listen(128)
            udp.setblocking(False)
            tcp.setblocking(False)
        except OSError as error:
            udp.close()
            tcp.close()
            if attempt == attempts - 1:
                raise Unavailable(
                    f"cannot serve DNS on {host} port {port}: {error.strerror}",
                    hint="another resolver may listen there, or ports below 1024 may need a privilege",
                    code="dns_port_unavailable",
                ) from error
        else:
            return udp, tcp
    raise AssertionError("the loop returns or raises")
