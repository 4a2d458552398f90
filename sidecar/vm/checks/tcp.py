"""A TCP check: is a connection accepted?"""

from __future__ import annotations

import asyncio

from sidecar.vm.checks.result import Result, critical, passing
from sidecar.vm.definition import Tcp


async def run(probe: Tcp) -> Result:
    """The caller bounds the time."""
    try:
        _, writer = await asyncio.open_connection(probe.host, probe.port)
    except OSError as error:
        return critical(error.strerror or str(error))
    writer.transport.abort()  # nothing is to be said, and no port lingers
    return passing()
