"""The names of clusters that a gateway's Envoy asked for: what is exported, on demand.

Without I/O. Envoy asks for a name once and never again, whatever came of it: so a name that is forgotten here stays
dead, with 5 s for each request, until Envoy is restarted. Hence three degrees:

- served: kept as long as it is served. Grants bound how many there are (gateway.build), not a limit.
- refused: Envoy has a cluster that answers at once. The oldest above `refused_limit` become silent.
- silent: refused without a cluster; requests wait in vain. It costs a string, and is served when a grant comes. Only
  above `names_limit` of these is anything forgotten.

A caller's own authority vouches for its trust domain, and server names and authorities are what callers invent: so it
is the trust domain with the most names that makes room, with its oldest one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from federation.envoy.names import parse_inbound_cluster


class Asked:
    """What Envoy asked for. `limit` is of silent names, `refused_limit` of those that are refused with words."""

    def __init__(self, *, limit: int, refused_limit: int) -> None:
        self._served: set[str] = set()
        self._refused, self._silent = _Bounded(refused_limit), _Bounded(limit)
        self._names: frozenset[str] = frozenset()
        self._quiet: frozenset[str] = frozenset()

    def ask(self, names: Iterable[str]) -> None:
        """Envoy asks for `names`; what could be no cluster's name is not kept. The limits apply once it is settled."""
        new, spoken = set(), set()
        for name in names:
            if name in self._served or parse_inbound_cluster(name) is None:
                continue
            if name in self._silent:
                self._silent.discard(name)
                spoken.add(name)
            elif name not in self._refused:
                new.add(name)
            self._refused.put(name)
        if new:
            self._names |= new
        if spoken:
            self._quiet -= spoken

    def settle(self, moved: Mapping[str, bool]) -> None:
        """Which names are served now, and which are not. What is too much falls silent, or is forgotten."""
        spoken = set()
        for name, served in moved.items():
            if served and (name in self._refused or name in self._silent):
                self._refused.discard(name)
                if name in self._silent:
                    self._silent.discard(name)
                    spoken.add(name)
                self._served.add(name)
            elif not served and name in self._served:
                self._served.discard(name)
                self._refused.put(name)
        silenced = self._refused.trim()
        for name in silenced:
            self._silent.put(name)
        forgotten = self._silent.trim()
        if spoken or silenced or forgotten:
            self._quiet = self._quiet.union(silenced).difference(spoken, forgotten)
        if forgotten:
            self._names = self._names.difference(forgotten)

    @property
    def names(self) -> frozenset[str]:
        """All of them; the same object as long as nothing changes."""
        return self._names

    @property
    def silent(self) -> frozenset[str]:
        """Those of them for which Envoy gets nothing while they are refused; the same object as `names` is."""
        return self._quiet

    @property
    def served(self) -> int:
        return len(self._served)

    @property
    def refused(self) -> int:
        return len(self._refused) + len(self._silent)


class _Bounded:
    """An ordered, bounded set of names."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._by_domain: dict[str, OrderedDict[str, None]] = {}

    def put(self, name: str) -> None:
        """Add it as the newest."""
        self.discard(name)
        self._by_domain.setdefault(_domain(name), OrderedDict())[name] = None
        self._size += 1

    def trim(self) -> list[str]:
        """Well above the limit the domain with the most names gives up its oldest; those that were given up, in order.

        An eighth at a time: to who looks at all names because some are gone, one at a time would be dear in a flood.
        """
        given_up: list[str] = []
        if self._size <= self._limit + self._limit // 8:
            return given_up
        while self._size > self._limit:
            largest = max(self._by_domain, key=lambda domain: len(self._by_domain[domain]))
            given_up.append(next(iter(self._by_domain[largest])))
            self.discard(given_up[-1])
        return given_up

    def discard(self, name: str) -> None:
        domain = _domain(name)
        mine = self._by_domain.get(domain)
        if mine is not None and name in mine:
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
