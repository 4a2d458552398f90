"""The names of clusters that a gateway's Envoy asked for: what is exported, on demand.

Without I/O. A name stays known after it was refused, because Envoy does not ask again: when a grant comes later, it is
changed and pushed. The number of names is bounded, for what is served and for what is refused, so that who invents
names displaces no good one. A caller's own authority vouches for its trust domain, and server names and
authorities are what callers invent: so it is the trust domain with the most names that makes room, with its oldest one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from federation.envoy.names import parse_inbound_cluster


class Asked:
    """The names that are served, at most `limit`, and those that are refused, at most `refused_limit`."""

    def __init__(self, *, limit: int, refused_limit: int) -> None:
        self._served, self._refused = _Bounded(limit), _Bounded(refused_limit)
        self._names: frozenset[str] = frozenset()

    def ask(self, names: Iterable[str]) -> None:
        """Envoy asks for `names`; what could be no cluster's name is not kept. The limits apply once it is settled."""
        new = set()
        for name in names:
            if name in self._served:
                self._served.put(name)
            elif parse_inbound_cluster(name) is not None:
                if name not in self._refused:
                    new.add(name)
                self._refused.put(name)
        if new:
            self._names |= new

    def settle(self, moved: Mapping[str, bool]) -> None:
        """Which names are served now, and which are not. What is too much is forgotten."""
        for name, served in moved.items():
            old, new = (self._refused, self._served) if served else (self._served, self._refused)
            if name in old:
                old.discard(name)
                new.put(name)
        forgotten = {*self._served.trim(), *self._refused.trim()}
        if forgotten:
            self._names -= forgotten

    @property
    def names(self) -> frozenset[str]:
        """All of them; the same object as long as nothing changes."""
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

    def put(self, name: str) -> None:
        """Add it as the newest."""
        self.discard(name)
        self._by_domain.setdefault(_domain(name), {})[name] = None
        self._size += 1

    def trim(self) -> list[str]:
        """Above the limit the domain with the most names gives up its oldest; those that were given up."""
        given_up = []
        while self._size > self._limit:
            largest = max(self._by_domain, key=lambda domain: len(self._by_domain[domain]))
            given_up.append(next(iter(self._by_domain[largest])))
            self.discard(given_up[-1])
        return given_up

    def discard(self, name: str) -> None:
        domain = _domain(name)
        mine = self._by_domain.get(domain, {})
        if name in mine:
            del mine[name]
            self._size -= 1
            if not mine:
                del self._by_domain[domain]

    def __contains__(self, name: str) -> bool:
        return name in self._by_domain.get(_domain(name), ())

    def __len__(self) -> int:
        return self._size


def _domain(name: str) -> str:
    """The caller's trust domain, which is the one part of a name that is verified; "" where there is none."""
    return name.partition("/")[2].partition("|")[0]
