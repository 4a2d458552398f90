"""Which clusters carried anything lately, by what Envoy counts. No I/O.

`upstream_rq_…` counts requests, and connections where TCP is carried; a connection that a pool keeps open in case it is
needed counts as nothing, and so do health checks. (What /clusters tells of hosts is less: when the checks of a host
begin, Envoy has another host in its place, and the connections of the former one are in nobody's sum.)
"""

from __future__ import annotations

from collections.abc import Mapping

PATTERN = r"^cluster\..+\.upstream_rq_(active|total)$"
"""The statistics that `Traffic.used` reads."""
_ACTIVE, _TOTAL = ".upstream_rq_active", ".upstream_rq_total"


class Traffic:
    """Remembers the counters of the last look."""

    def __init__(self) -> None:
        self._totals: dict[str, int] = {}

    def used(self, stats: Mapping[str, int]) -> set[str]:
        """The clusters with something under way, or that had something since the last look."""
        totals: dict[str, int] = {}
        used: set[str] = set()
        for stat, value in stats.items():
            if not stat.startswith("cluster."):
                continue
            if stat.endswith(_TOTAL):
                totals[stat[len("cluster.") : -len(_TOTAL)]] = value
            elif stat.endswith(_ACTIVE) and value:
                used.add(stat[len("cluster.") : -len(_ACTIVE)])
        used |= {name for name, total in totals.items() if total != self._totals.get(name, 0)}
        self._totals = totals
        return used
