"""The names of clusters that a gateway's Envoy asked for: what is exported, on demand.

Without I/O. A name stays known after it was refused, because Envoy does not ask again: when a grant comes later, the
builder makes it and it is pushed. The number of names is bounded, for what is served and for what is refused, so that
who invents names displaces no good one. A caller's own authority vouches for its trust domain, and server names and
authorities are what callers invent: so it is the trust domain with the most names that makes room, with its oldest one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from federation.envoy.names import parse_inbound_cluster


class Asked:
    """The names that are served and those that are refused, at most `limit` of each."""

    def __init__(self, *, limit: int) -> None:
        self._served, self._refused = _Bounded(limit), _Bounded(limit)
        self._names: frozenset[str] | None = None

    def ask(self, names: Iterable[str]) -> None:
        """Envoy asks for `names`; what could be no cluster's name is not kept."""
        for name in names:
            if name in self._served:
                self._served.put(name)
            elif parse_inbound_cluster(name) is not None:
                known = name in self._refused
                self._changed(self._refused.put(name) or not known)

    def settle(self, served: Iterable[str], refused: Iterable[str]) -> None:
        """Some names have become clusters, some are clusters no more; others than those asked for do not matter."""
        for name in served:
            if name in self._refused:
                self._refused.discard(name)
                self._changed(self._served.put(name))
        for name in refused:
            if name in self._served:
                self._served.discard(name)
                self._changed(self._refused.put(name))

    def _changed(self, changed: bool) -> None:
        if changed:
            self._names = None

    @property
    def names(self) -> frozenset[str]:
        """All of them; the same object as long as nothing changes."""
        if self._names is None:
            self._names = frozenset((*self._served, *self._refused))
        return self._names

    @property
    def served(self) -> int:
        return len(self._served)

    @property
    def refused(self) -> int:
        return len(self._refused)


class _Bounded:
    """An ordered, bounded set of names."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._by_domain: dict[str, dict[str, None]] = {}

    def put(self, name: str) -> bool:
        """Add it as the newest; at the limit the domain with the most names gives up its oldest: whether one did."""
        self.discard(name)
        self._by_domain.setdefault(_domain(name), {})[name] = None
        self._size += 1
        if self._size <= self._limit:
            return False
        largest = max(self._by_domain, key=lambda domain: len(self._by_domain[domain]))
        self.discard(next(iter(self._by_domain[largest])))
        return True

    def discard(self, name: str) -> None:
        domain = _domain(name)
        mine = self._by_domain.get(domain, {})
        if name in mine:
            del mine[name]
            self._size -= 1
            if not mine:
                del self._by_domain[domain]

    def __iter__(self) -> Iterator[str]:
        return (name for mine in self._by_domain.values() for name in mine)

    def __contains__(self, name: str) -> bool:
        return name in self._by_domain.get(_domain(name), ())

    def __len__(self) -> int:
        return self._size


def _domain(name: str) -> str:
    """The caller's trust domain, which is the one part of a name that is verified; "" where there is none."""
    return name.partition("/")[2].partition("|")[0]
