"""The replication protocol, both ends, without I/O: a log's records appear at any number of sinks, and stay the same.

A `Source` reads a `Log` for one consumer; a `Sink` takes in what it sends and keeps a `Replica`. The drivers that move
the bytes are federation.registry.watch, .publish and .client. docs/protocol.md tells the rules.
"""

from __future__ import annotations

from federation.catalog.audience import Visible, everything
from federation.catalog.holding import Changes, Replica
from federation.catalog.log import Log
from federation.catalog.sink import Farewell, OutOfStep, Sink
from federation.catalog.source import Source

__all__ = ["Changes", "Farewell", "Log", "OutOfStep", "Replica", "Sink", "Source", "Visible", "everything"]
