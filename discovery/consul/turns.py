"""Which of the services that are followed have a watch of their own. Pure; time is given.

There are as many watches as Consul allows connections. The other services take turns: one that changed in a way that
only its own watch would have told gets the watch of the one that has been quiet for longest.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

QUIET = 60.0
"""Seconds without a change after which a watch may be given away."""
PAUSE = 1.0
"""Seconds between two such moves, at least."""


@dataclass(frozen=True, slots=True)
class Move:
    """Watches to be ended and begun."""

    stop: frozenset[str] = frozenset()
    start: frozenset[str] = frozenset()


class Turns:
    """At most `most` services are watched."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.watched: dict[str, float] = {}
        """Service → when it last changed (monotonic)."""
        self.others: set[str] = set()
        self._moved = float("-inf")

    def want(self, services: Collection[str], *, now: float) -> Move:
        """Follow exactly these. Watches stay where they are; those that become free go to others by name."""
        stop = self.watched.keys() - services
        for name in stop:
            del self.watched[name]
        self.others = set(services) - self.watched.keys()
        start = sorted(self.others)[: max(0, self._most - len(self.watched))]
        for name in start:
            self.watched[name] = now
            self.others.discard(name)
        return Move(frozenset(stop), frozenset(start))

    def changed(self, service: str, *, now: float, unseen: bool) -> Move:
        """A service changed; `unseen`: nothing but a look at it told."""
        if service in self.watched:
            self.watched[service] = now
            return Move()
        if not unseen or service not in self.others or now < self._moved + PAUSE or not self.watched:
            return Move()
        quietest = min(self.watched, key=lambda name: (self.watched[name], name))
        if now < self.watched[quietest] + QUIET:
            return Move()
        self._moved = now
        del self.watched[quietest]
        self.watched[service] = now
        self.others.discard(service)
        self.others.add(quietest)
        return Move(frozenset({quietest}), frozenset({service}))
