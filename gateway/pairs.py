"""The (SNI, caller) pairs for which Envoy asked a cluster: "in-tcp/<sni>|<uri>", opaque connections on demand.

Without I/O. A pair stays known after it was refused, because Envoy does not ask again: when a grant comes later, the
builder includes it and it is pushed. The number of pairs is bounded. A caller's own authority makes its names, and SNIs
are what callers invent: so it is the trust domain with the most pairs that makes room, with its oldest one.
"""

from __future__ import annotations

from collections.abc import Iterable


class Pairs:
    """An ordered, bounded set of cluster names."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._names: dict[str, None] = {}
        self._by_domain: dict[str, dict[str, None]] = {}

    def ask(self, names: Iterable[str]) -> bool:
        """Envoy asks for `names`. Whether the set has changed."""
        changed = False
        for name in names:
            changed |= name not in self._names
            self._names.pop(name, None)
            self._names[name] = None
            mine = self._by_domain.setdefault(_domain(name), {})
            mine.pop(name, None)
            mine[name] = None
        while len(self._names) > self._limit:
            domain, largest = max(self._by_domain.items(), key=lambda item: len(item[1]))
            oldest = next(iter(largest))
            del largest[oldest], self._names[oldest]
            if not largest:
                del self._by_domain[domain]
        return changed

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were asked for."""
        return tuple(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)


def _domain(name: str) -> str:
    """The caller's trust domain in a pair's name; a name without one is of the domain ""."""
    return name.partition("|spiffe://")[2].partition("/")[0]
