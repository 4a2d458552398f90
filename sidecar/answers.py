"""The DNS server of a sidecar: open before it has an identity, and the same one afterwards.

In a pod nobody else answers, and a workload that needs no global name must not stand still because the agent is away.
So names of other people are answered from the start, and ours get SERVFAIL with the reason, never a denial.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from federation.aio.clock import Clock
from federation.dns import names
from federation.dns.resolve import Miss
from federation.dns.server import DnsServer
from federation.dns.table import CLUSTERSET, Table
from federation.dns.upstream import Upstream
from federation.errors import Unavailable
from federation.log import Logger
from sidecar.settings import SidecarSettings
from sidecar.upstreams import UpstreamFile


class Answers:
    """Listens from `start` to `close`; who knows more sets `miss` and `branch` (see DnsServer)."""

    def __init__(self, settings: SidecarSettings, *, clock: Clock, log: Logger) -> None:
        dns, suffix = settings.dns, settings.suffix
        self.table = Table([CLUSTERSET, suffix], ttl=dns.ttl)
        self.miss: Miss = _no_identity
        self.branch: Callable[[str], bool] = lambda name: names.is_branch(name, suffix=suffix, clusters=())
        self._settings, self._port = dns, 0
        self._upstream = Upstream(dns.servers(), clock=clock)
        self._file = (
            UpstreamFile(Path(dns.upstream_file), self._upstream, own=(dns.host,), clock=clock, log=log)
            if dns.upstream_file
            else None
        )
        self._server = DnsServer(
            table=self.table,
            upstream=self._upstream if self._upstream.servers or self._file else None,
            miss=lambda name: self.miss(name),
            branch=lambda name: self.branch(name),
            log=log,
        )

    async def start(self) -> int:
        """Listen, where that was not done before; the port. Raises Unavailable when it is taken, InvalidSettings."""
        if not self._port:
            if self._file is not None:
                self._file.look()
            self._port = await self._server.start(self._settings.host, self._settings.port)
        return self._port

    @contextlib.asynccontextmanager
    async def early(self) -> AsyncIterator[bool]:
        """For the time in which an identity is waited for; whether it answers. Raises as `start`.

        Where the port is ours to pick nobody knows it yet.
        """
        if self._settings.port:
            await self.start()
        yield bool(self._port)

    async def run(self) -> None:
        """Follow the file of nameservers, if there is one."""
        if self._file is not None:
            await self._file.run()

    async def close(self) -> None:
        """Stop listening; may be repeated."""
        if self._port:
            self._port = 0
            await self._server.close()


async def _no_identity(name: str) -> bool | str:
    raise Unavailable("this sidecar has no identity yet: its agent has not answered")
