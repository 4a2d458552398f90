"""What an edge process counts, beside what federation.xds.metrics does."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge


def gauge(registry: CollectorRegistry, name: str, text: str, value: Callable[[], float]) -> None:
    """A gauge that is read when it is scraped."""
    Gauge(name, text, registry=registry).set_function(value)
