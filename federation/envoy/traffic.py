"""What carried anything lately, from the text of Envoy's /clusters. No I/O.

A host's `rq_total` counts requests, and for opaque ports connections; a connection that a pool keeps open in case it is
needed counts as nothing, and so do health checks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Traffic(Generic[K]):
    """Remembers the counters of the last look."""

    def __init__(self) -> None:
        self._totals: dict[K, int] = {}

    def used(self, clusters: bytes, owner: Callable[[str], K | None]) -> set[K]:
        """The owners of clusters with something under way, or that had something since the last look.

        `owner` tells whose a cluster is by its name; None: of no interest.
        """
        totals: dict[K, int] = {}
        used: set[K] = set()
        for line in clusters.decode(errors="replace").splitlines():
            parts = line.split("::")  # <cluster>::<host>::<counter>::<value>
            if len(parts) < 4 or parts[-2] not in ("rq_active", "rq_total") or not parts[-1].isdigit():
                continue
            found = owner(parts[0])
            if found is None:
                continue
            count = int(parts[-1])
            if parts[-2] == "rq_total":
                totals[found] = totals.get(found, 0) + count
            elif count:
                used.add(found)
        used |= {found for found, total in totals.items() if total != self._totals.get(found, 0)}
        self._totals = totals
        return used
