"""What a session knows of one resource type: what the client has, what it is to get, what is on its way. No I/O."""

from __future__ import annotations

from collections import deque

from federation.xds.exchange import Nack, Response
from federation.xds.snapshot import Resource, TypeUrl
from federation.xds.subscription import Subscription

UNKNOWN = object()
"""Nobody knows whether the client has it."""


class Held:
    """The state of one type; `delta.Session` moves it."""

    def __init__(self, kind: TypeUrl, *, only_named: tuple[str, ...]) -> None:
        self.kind = kind
        self.subscription = Subscription(kind, only_named=only_named)
        # What the client has acknowledged: the version, or None where it was told that there is none.
        self.known: dict[str, str | None] = {}
        # The resources behind `known`, as far as this session sent them.
        self.good: dict[str, Resource] = {}
        self.puts: set[str] = set()
        self.removes: set[str] = set()
        self.urgent: set[str] = set()  # asked for by name and not yet answered
        self.again: set[str] = set()  # to be sent although the client has them
        self.reply = False  # a first wildcard request is answered even when there is nothing
        self.flight: Response | None = None
        self.probes: deque[frozenset[str]] = deque()
        self.quarantine: dict[str, Nack] = {}
        self.held: dict[str, float] = {}  # named, missing, and the owner may still make it: since when
        self.covered = 0  # newest generation that everything sent so far amounts to
        self.level = 0  # newest generation that everything acknowledged so far amounts to

    def sent(self, name: str) -> object:
        """The version that the client has or is about to have, None if it was told there is none."""
        if self.flight is not None:
            for resource in self.flight.put:
                if resource.name == name:
                    return resource.version
            if name in self.flight.removed:
                return None
        return self.known.get(name, UNKNOWN)
