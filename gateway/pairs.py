"""The (SNI, caller) pairs for which Envoy asked a cluster: "in-tcp/<sni>|<uri>", opaque connections on demand.

Without I/O. A pair stays known after it was refused, because Envoy does not ask again: when a grant comes later, the
builder includes it and it is pushed. The number of pairs is bounded; the one asked for longest ago makes room.
"""

from __future__ import annotations

from collections.abc import Iterable


class Pairs:
    """An ordered, bounded set of cluster names."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._names: dict[str, None] = {}

    def ask(self, names: Iterable[str]) -> bool:
        """Envoy asks for `names`. Whether the set has changed."""
        changed = False
        for name in names:
            changed |= name not in self._names
            self._names.pop(name, None)
            self._names[name] = None
        while len(self._names) > self._limit:
            del self._names[next(iter(self._names))]
        return changed

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were asked for."""
        return tuple(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)
