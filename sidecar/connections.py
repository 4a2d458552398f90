"""Which services carried anything lately, from the text of Envoy's /clusters. No I/O.

A host's `rq_total` counts requests, and for opaque ports connections; a connection that a pool keeps open in case it is
needed counts as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from federation.envoy.names import outbound_cluster, vip_cluster
from federation.model.ids import ServiceName
from sidecar.build.outbound import Use


class Traffic:
    """Remembers the counters of the last look."""

    def __init__(self) -> None:
        self._totals: dict[ServiceName, int] = {}

    def used(self, clusters: bytes, uses: Iterable[Use]) -> set[ServiceName]:
        """The services of `uses` with something under way, or that had something since the last look."""
        stems = dict(_stems(uses))
        totals: dict[ServiceName, int] = {}
        used: set[ServiceName] = set()
        for line in clusters.decode(errors="replace").splitlines():
            parts = line.split("::")  # <cluster>::<host>::<counter>::<value>
            if len(parts) < 4 or parts[-2] not in ("rq_active", "rq_total") or not parts[-1].isdigit():
                continue
            service = stems.get(_stem(parts[0]))
            if service is None:
                continue
            count = int(parts[-1])
            if parts[-2] == "rq_total":
                totals[service] = totals.get(service, 0) + count
            elif count:
                used.add(service)
        used |= {service for service, total in totals.items() if total != self._totals.get(service, 0)}
        self._totals = totals
        return used


def _stems(uses: Iterable[Use]) -> Iterable[tuple[str, ServiceName]]:
    """What the names of a use's clusters begin with; they go on with the port."""
    for use in uses:
        yield _stem(outbound_cluster(use.name, 1, use.pinned)), use.name
        yield _stem(vip_cluster(use.vip, 1)), use.name


def _stem(cluster: str) -> str:
    return cluster.rpartition(":")[0] if cluster.startswith("vip/") else "/".join(cluster.split("/")[:3])
