"""Kubernetes, on real API servers of this machine: what a change costs, and how long it takes to another cluster.

`federation`: EndpointSlice to the other cluster's Envoy and DNS, ServiceExport to ServiceImport (kube_federation.py).
`reading`: cold start, memory and CPU of one agent with 10,000 services and 100,000 endpoints (kube_reading.py).
`agent`: the same of a whole agent with its registry and its consumers (kube_agent.py).
"""

from __future__ import annotations

import argparse
from typing import Any

import kube_agent
import kube_federation
import kube_reading

from clusters.namespace import enter_own_network

PARTS = {"federation": kube_federation, "reading": kube_reading, "agent": kube_agent}


def main(words: list[str]) -> dict[str, Any]:
    """Run one part or all; prints tables, returns the figures by part."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench kubernetes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("all", *PARTS), default="all")
    for name, part in PARTS.items():
        part.add_options(parser.add_argument_group(name))
    parsed = parser.parse_args(words)
    if parsed.part in ("all", "federation"):
        enter_own_network()
    figures = {}
    for name, part in PARTS.items():
        if parsed.part in ("all", name):
            figures[name] = part.run(parsed)
    return figures
