"""Which services a sidecar's workload used lately, by what its Envoy tells of their clusters. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

from federation.envoy import traffic
from federation.envoy.names import outbound_cluster, vip_cluster
from federation.model.ids import ServiceName
from sidecar.build.outbound import Use


class Traffic:
    """Remembers the counters of the last look."""

    def __init__(self) -> None:
        self._traffic: traffic.Traffic[ServiceName] = traffic.Traffic()

    def used(self, clusters: bytes, uses: Iterable[Use]) -> set[ServiceName]:
        """The services of `uses` with something under way, or that had something since the last look."""
        stems = dict(_stems(uses))
        return self._traffic.used(clusters, lambda cluster: stems.get(_stem(cluster)))


def _stems(uses: Iterable[Use]) -> Iterable[tuple[str, ServiceName]]:
    """What the names of a use's clusters begin with; they go on with the port."""
    for use in uses:
        yield _stem(outbound_cluster(use.name, 1, use.pinned)), use.name
        yield _stem(vip_cluster(use.vip, 1)), use.name


def _stem(cluster: str) -> str:
    return cluster.rpartition(":")[0] if cluster.startswith("vip/") else "/".join(cluster.split("/")[:3])
