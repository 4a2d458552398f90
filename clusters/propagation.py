"""How long an endpoint change takes: from a replaced EndpointSlice in one cluster to what another's Envoy acknowledges.

The sidecar logs each acknowledgement of its Envoy with the monotonic time at which it arrived; all processes of a
machine share that clock, so no polling interval is part of the measurement.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clusters import manifests
from clusters.processes import HTTP_SERVICE, NAMESPACE, ProcessFederation
from clusters.waiting import DEADLINE
from federation.errors import TimedOut

EVENT = "envoy acknowledged"
"""The sidecar's log line (level debug) with `at_ns`."""


@dataclass(frozen=True, slots=True)
class Propagation:
    """Milliseconds, one per change, in the order of the changes."""

    samples: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.samples)

    @property
    def p50(self) -> float:
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        """By the nearest rank: with fewer than 100 samples it is the slowest."""
        ordered = sorted(self.samples)
        return ordered[max(0, -(-99 * len(ordered) // 100) - 1)]

    def as_dict(self) -> dict[str, float | int]:
        return {"p50": round(self.p50, 2), "p99": round(self.p99, 2), "n": self.n}


class Acknowledgements:
    """Follows the log of an edge process for the moments at which its Envoy acknowledged something."""

    def __init__(self, log: Path) -> None:
        self._file: BinaryIO = log.open("rb")
        self._file.seek(0, 2)
        self._rest = b""

    def read(self) -> list[int]:
        """The monotonic times (ns) of the acknowledgements since the last call."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        moments = []
        for line in lines:
            if EVENT.encode() in line:
                moments.append(int(json.loads(line)["at_ns"]))
        return moments

    def close(self) -> None:
        self._file.close()


async def measure(
    federation: ProcessFederation,
    *,
    origin: str,
    consumer: str,
    changes: int,
    services: Sequence[str] = (HTTP_SERVICE,),
    timeout: float = DEADLINE,
) -> Propagation:
    """Change the HTTP `services` of `origin` one after the other, `changes` times, and wait for `consumer`'s Envoy.

    The change is a second copy that comes and goes; nobody should send requests meanwhile, since it does not exist. The
    services must be in use by the consumer's sidecar. Raises TimedOut when a change is not acknowledged within
    `timeout` seconds.
    """
    place = federation.places[origin]
    real = manifests.Copy(address=place.address, port=place.http_port, zone=place.spec.locality.zone)
    spare = manifests.Copy(address=f"{place.address.rsplit('.', 1)[0]}.254", port=real.port, zone=real.zone)
    acknowledged = Acknowledgements(federation.running[f"{consumer}-sidecar"].log)
    samples: list[float] = []
    try:
        async with federation.ground.pen(origin) as pen:
            for number in range(changes):
                turn, index = divmod(number, len(services))
                copies = [real, spare] if turn % 2 == 0 else [real]
                document = manifests.slice_(NAMESPACE, services[index], app="http", copies=copies)
                write = await pen.prepared(document)
                acknowledged.read()
                began = time.monotonic_ns()
                await write()
                samples.append((await first_after(acknowledged, began, timeout) - began) / 1e6)
    finally:
        acknowledged.close()
        documents = [manifests.slice_(NAMESPACE, service, app="http", copies=[real]) for service in services]
        await federation.ground.write(origin, *documents)
    return Propagation(tuple(samples))


async def first_after(acknowledged: Acknowledgements, began: int, timeout: float = DEADLINE) -> int:
    """The first acknowledgement after `began` (ns), awaited. Raises TimedOut."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for moment in acknowledged.read():
            if moment > began:
                # A write in the origin also comes back to nobody else: the next change starts from rest.
                await asyncio.sleep(0.02)
                return moment
        await asyncio.sleep(0.002)
    raise TimedOut(f"an endpoint change was not acknowledged within {timeout:g} s")
