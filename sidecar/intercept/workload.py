"""Which ports are the workload's: the loopback way never takes them, so that the workload always finds them free.

A listener of ours on one virtual address keeps everybody from listening on all addresses at that port, and the other
way round. So it is not enough to give way to a workload that listens already: one that is restarted would find its port
taken by the sidecar meanwhile, and so would one that looks names up before it listens. A port counts as the workload's
when it was said to be (`listens`), and for some time after it was seen to be.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from federation.aio.clock import Clock
from federation.aio.files import read_state
from federation.errors import CorruptState, StorageFailed
from federation.log import Logger
from sidecar.intercept.clash import Listener

LOOK = 2.0
"""Seconds between two looks at what listens."""
_FRESH = 60.0
"""Seconds by which the time of a port on the disk may be too old."""


class WorkloadPorts:
    """The ports, by when each was last seen. `keep`: seconds for which a port is left to who held it."""

    def __init__(self, listens: Iterable[int] = (), *, keep: float, clock: Clock) -> None:
        self._listens = frozenset(listens)
        self._keep, self._clock = keep, clock
        self._seen: dict[int, float] = {}  # seconds since the epoch
        self._saved: dict[int, float] = {}

    def open(self, path: Path, log: Logger) -> None:
        """What an earlier process saw; nothing is lost but a precaution where it cannot be read."""
        try:
            data = read_state(path)
            kept = msgspec.json.decode(data, type=dict[int, float]) if data is not None else {}
        except (CorruptState, StorageFailed, msgspec.MsgspecError) as error:
            log.warning("kept ports of the workload cannot be used", error=str(error))
            return
        now = self._now()
        self._seen = self._saved = {port: min(seen, now) for port, seen in kept.items()}

    def look(self, listeners: Iterable[Listener]) -> bool:
        """Take note of who listens on all addresses now; whether there is something to `dump`."""
        now = self._now()
        seen = {port: when for port, when in self._seen.items() if now - when < self._keep}
        seen |= {x.port: now for x in listeners if x.on_all_addresses and self._keep > 0}
        self._seen = seen
        return seen.keys() != self._saved.keys() or any(seen[p] - self._saved[p] > _FRESH for p in seen)

    def why(self, port: int) -> str:
        """Why the port is not ours to take; empty where it is."""
        if port in self._listens:
            return f"port {port} is said to be the workload's (`listens`)"
        seen = self._seen.get(port)
        if seen is None or self._now() - seen >= self._keep:
            return ""
        return f"port {port} is left to the workload, which has lately held it on all addresses"

    def dump(self) -> bytes:
        """For `open`."""
        self._saved = dict(self._seen)
        return msgspec.json.encode(self._saved)

    def _now(self) -> float:
        return self._clock.wall_ns() / 1e9
