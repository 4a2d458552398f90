"""Whose clusters carried anything lately: from the names in Envoy's counters to services. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

from federation.envoy.names import outbound_cluster, vip_cluster
from federation.model.ids import ServiceName
from sidecar.build.outbound import Use


def services(clusters: Iterable[str], uses: Iterable[Use]) -> set[ServiceName]:
    """The services of `uses` that `clusters` belong to; these are as federation.envoy.traffic tells them."""
    stems = dict(_stems(uses))
    return {stems[stem] for cluster in clusters if (stem := _stem(cluster)) in stems}


def _stems(uses: Iterable[Use]) -> Iterable[tuple[str, ServiceName]]:
    """What the names of a use's clusters begin with; they go on with the port."""
    for use in uses:
        yield _stem(outbound_cluster(use.name, 1, use.pinned)), use.name
        yield _stem(vip_cluster(use.vip, 1)), use.name


def _stem(cluster: str) -> str:
    if cluster.startswith("vip/"):
        return cluster.replace(":", "_").rpartition("_")[0]  # Envoy's statistics have no colons
    return "/".join(cluster.split("/")[:3])
