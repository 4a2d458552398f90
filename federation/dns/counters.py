"""What the server did, for Prometheus. The numbers are plain integers; they are collected when somebody scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class DnsCollector(Collector):
    """`queries` maps an outcome to how many queries had it; `gauges` maps a name to (what it is, its value)."""

    def __init__(
        self, queries: Callable[[], Mapping[str, int]], gauges: Callable[[], Mapping[str, tuple[str, float]]]
    ) -> None:
        self._queries, self._gauges = queries, gauges

    def collect(self) -> Iterator[Metric]:
        """isthmus_dns_queries_total by outcome, and the gauges."""
        total = CounterMetricFamily("isthmus_dns_queries", "DNS queries by what became of them", labels=["outcome"])
        for outcome, count in sorted(self._queries().items()):
            total.add_metric([outcome], count)
        yield total
        for name, (text, value) in self._gauges().items():
            yield GaugeMetricFamily(f"isthmus_dns_{name}", text, value=value)
