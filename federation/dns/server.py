"""The DNS server: UDP and TCP sockets on one port.

Arrives: a table, an upstream, and `miss`, which is asked once for a name of our zones that the table has not. The UDP
fast path answers plain queries from the table's encoded answers; everything else goes through `resolve`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from federation import log as logs
from federation.dns.counters import DnsCollector
from federation.dns.ratelimit import Limiter, RateLimit
from federation.dns.resolve import Miss, Resolver
from federation.dns.table import Table
from federation.dns.tcp import StreamLimits, Streams
from federation.dns.udp import Datagrams, LimitedDatagrams
from federation.dns.upstream import Upstream
from federation.errors import InvalidSettings, Unavailable
from federation.log import Logger


class DnsServer:
    """Serves `table` and forwards the rest to `upstream` (None: REFUSED).

    `miss(name)` gets a lower-case name without the final dot and says True (look again), False or a reason (NXDOMAIN);
    it raises Unavailable where it cannot tell (SERVFAIL with the reason). Concurrent queries for the name share it;
    after `miss_timeout` seconds they get SERVFAIL. `branch(name)` says of a name without records that names may exist
    below it: it gets NODATA, and `miss` is not asked. `rate_limit` is for servers that strangers reach; loopback needs
    none. `metrics` is where the counters are offered.
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
        rate_limit: RateLimit | None = None,
        metrics: CollectorRegistry | None = None,
        log: Logger | None = None,
    ) -> None:
        self._table, self._upstream = table, upstream
        self._resolver = Resolver(
            table,
            upstream=upstream,
            miss=miss,
            branch=branch,
            miss_timeout=miss_timeout,
            max_misses=max_misses,
            max_waiting=max_waiting,
            log=log or logs.get("dns"),
        )
        self._datagrams = (
            Datagrams(table, self._resolver)
            if rate_limit is None
            else LimitedDatagrams(table, self._resolver, Limiter(rate_limit, time.monotonic))
        )
        self._streams = Streams(self._resolver, stream_limits or StreamLimits())
        self._listener: asyncio.Server | None = None
        self._metrics = metrics
        self.collector = DnsCollector(self.counts, self._gauges)
        """For a registry of the owner's, where `metrics` is not given."""

    async def start(self, host: str, port: int) -> int:
        """Listen on `host`:`port` by UDP and TCP (port 0 picks one that is free for both); returns the port.

        Raises Unavailable when the port is taken or not allowed, InvalidSettings when an upstream is this server.
        """
        if self._upstream is not None and port:
            _refuse_loop(host, port, self._upstream)
        loop = asyncio.get_running_loop()
        udp, tcp = _bind(host, port)
        taken: int = tcp.getsockname()[1]
        self._listener = await loop.create_server(self._streams.protocol, sock=tcp)
        await loop.create_datagram_endpoint(lambda: self._datagrams, sock=udp)
        if self._metrics is not None:
            self._metrics.register(self.collector)
        return taken

    async def close(self) -> None:
        """Stop listening and give up what is in flight."""
        if self._metrics is not None and self._listener is not None:
            self._metrics.unregister(self.collector)
        self._datagrams.close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._streams.close()
        await self._resolver.close()
        if self._upstream is not None:
            await self._upstream.close()

    def counts(self) -> Mapping[str, int]:
        """How many queries had which outcome; `fast` came by UDP and were answered from an encoded answer."""
        counts = {**self._resolver.counts, "fast": self._datagrams.fast}
        if isinstance(self._datagrams, LimitedDatagrams):
            counts["limited"] = self._datagrams.limited
        return counts

    def _gauges(self) -> Mapping[str, tuple[str, float]]:
        return {
            "names": ("Names in the table", len(self._table)),
            "misses": ("Names that are being looked up now", self._resolver.misses),
            "connections": ("Open TCP connections", len(self._streams.open)),
        }


def _refuse_loop(host: str, port: int, upstream: Upstream) -> None:
    everywhere = ipaddress.ip_address(host).is_unspecified
    for address, number in upstream.servers:
        if number == port and (address == host or (everywhere and ipaddress.ip_address(address).is_loopback)):
            raise InvalidSettings(
                f"the upstream resolver {address} port {number} is this DNS server itself",
                hint="name the resolver that this host used before",
                code="dns_upstream_loop",
            )


def _bind(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on the same port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    attempts = 16 if port == 0 else 1  # the port that UDP got may be taken for TCP
    for attempt in range(attempts):
        udp = socket.socket(family, socket.SOCK_DGRAM)
        tcp = socket.socket(family, socket.SOCK_STREAM)
        try:
            _listen(udp, tcp, (host, port))
        except OSError as error:
            udp.close()
            tcp.close()
            if attempt == attempts - 1:
                raise Unavailable(
                    f"cannot serve DNS on {host} port {port}: {error.strerror or error}",
                    hint="another resolver may listen there, or ports below 1024 may need a privilege",
                    code="dns_port_unavailable",
                ) from error
        else:
            return udp, tcp
    raise AssertionError("the loop returns or raises")


def _listen(udp: socket.socket, tcp: socket.socket, address: tuple[Any, ...]) -> None:
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    udp.bind(address)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((address[0], udp.getsockname()[1]))
    tcp.listen(128)
    udp.setblocking(False)
    tcp.setblocking(False)
