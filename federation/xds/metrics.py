"""What the ADS server counts."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from federation.xds.snapshot import TypeUrl

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class XdsMetrics:
    """The metrics of one ADS server in `registry`; None counts into nothing."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self.connected = Gauge("isthmus_xds_connected", "1 while Envoy has a stream open", registry=registry)
        self.generation = Gauge("isthmus_xds_generation", "Newest published generation", registry=registry)
        self.acked = Gauge("isthmus_xds_acked_generation", "Newest acknowledged generation", registry=registry)
        self.responses = Counter("isthmus_xds_responses", "Responses written", ["type"], registry=registry)
        self.nacks = Counter("isthmus_xds_nacks", "Responses that Envoy refused", ["type"], registry=registry)
        self.inconsistent = Counter(
            "isthmus_xds_inconsistent_snapshots", "Snapshots that were not published", registry=registry
        )
        self.seconds = Histogram(
            "isthmus_xds_ack_seconds",
            "From publishing a generation to its acknowledgement",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._quarantined = Gauge(
            "isthmus_xds_quarantined",
            "1 for each resource that Envoy refuses",
            ["type", "name"],
            registry=registry,
        )

    def quarantine(self, before: Iterable[tuple[TypeUrl, str]], after: Iterable[tuple[TypeUrl, str]]) -> None:
        """The refused resources were `before` and are `after` now."""
        old, new = set(before), set(after)
        for kind, name in old - new:
            self._quarantined.remove(kind.label, name)
        for kind, name in new - old:
            self._quarantined.labels(kind.label, name).set(1)
