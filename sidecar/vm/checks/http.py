"""An HTTP check: a request on a connection of its own, of which the status counts (RFC 9112). No TLS: use a script.

The standard library's client would bring TLS and mail parsing into the process; of an answer this reads the first line.
"""

from __future__ import annotations

import asyncio
import re

from sidecar.vm.checks.result import Result, critical, passing
from sidecar.vm.definition import Http

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n\Z")
_LIMIT = 16 * 1024
"""Bytes of a line, and of all informational answers before the one that counts."""


async def run(probe: Http) -> Result:
    """The caller bounds the time."""
    try:
        reader, writer = await asyncio.open_connection(probe.host, probe.port, limit=_LIMIT)
    except OSError as error:
        return critical(error.strerror or str(error))
    try:
        writer.write(request(probe))
        await writer.drain()
        status = await _status(reader)
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        return critical(_why(error))
    finally:
        writer.transport.abort()
    if any(first <= status <= last for first, last in probe.expect):
        return passing()
    return critical(f"status {status}")


def request(probe: Http) -> bytes:
    """The whole request; a header of the check's own stands instead of the usual one."""
    host = f"[{probe.host}]" if ":" in probe.host else probe.host
    headers = {"host": f"{host}:{probe.port}", "user-agent": "isthmus-check", "accept": "*/*", **dict(probe.headers)}
    headers["connection"] = "close"
    lines = [f"{probe.method} {probe.path} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("ascii")


async def _status(reader: asyncio.StreamReader) -> int:
    """Of the first answer that is not informational. Raises ValueError, IncompleteReadError, OSError."""
    left = _LIMIT
    while True:
        line = await reader.readline()
        found = _STATUS.match(line)
        if found is None:
            raise ValueError("the connection ended without an answer" if not line else "no HTTP/1 answer")
        status = int(found[1])
        if status >= 200 or status == 101:
            return status
        while line.strip():  # the headers of an informational answer
            line = await reader.readline()
            left -= len(line) or left
            if left <= 0:
                raise ValueError("too much before the answer")


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
