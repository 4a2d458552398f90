"""Whom the sidecar asks for other people's names when a file in the format of resolv.conf(5) says it.

Somebody else keeps that file up to date: a DHCP client, NetworkManager, resolvconf. It is read at the start and again
when it has changed. A file that is gone, or names nobody, changes nothing: what was read last still counts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from pathlib import Path

from federation.aio.clock import Clock
from federation.dns.upstream import Server, Upstream
from federation.log import Logger

PAUSE = 2.0
MOST = 8
_MAX_BYTES = 1 << 16
_GONE = (0, 0, 0)


def nameservers(text: str, *, own: Collection[str]) -> list[Server]:
    """The servers that the text names, each once, without our own addresses: nobody forwards to himself."""
    found: dict[Server, None] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver" or words[1] in own:
            continue
        try:
            ipaddress.ip_address(words[1])
        except ValueError:
            continue
        found[words[1], 53] = None
    return list(found)[:MOST]


class UpstreamFile:
    """Keeps the servers of `upstream` those of the file, after the fixed ones that it had."""

    def __init__(self, path: Path, upstream: Upstream, *, own: Collection[str], clock: Clock, log: Logger) -> None:
        self._path, self._upstream, self._own, self._clock, self._log = path, upstream, own, clock, log
        self._fixed = upstream.servers
        self._seen: tuple[int, int, int] | None = None

    def look(self) -> None:
        """Read the file if it is not the one that was read last."""
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen:
                return
            with self._path.open("rb") as file:
                text = file.read(_MAX_BYTES).decode(errors="replace")
        except OSError as error:
            if self._seen != _GONE:
                self._log.warning("nameservers cannot be read", path=str(self._path), error=error.strerror)
            self._seen = _GONE
            return
        self._seen = seen
        servers = nameservers(text, own=self._own)
        if not servers:
            self._log.warning("names no resolver: those that were known are asked", path=str(self._path))
            return
        wanted = tuple(dict.fromkeys((*self._fixed, *servers)))
        if wanted != self._upstream.servers:
            self._upstream.servers = wanted
            self._log.info("nameservers for other names", servers=[host for host, _ in wanted])

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await self._clock.sleep(PAUSE)
            self.look()
