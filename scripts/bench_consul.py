"""Consul, with a real datacenter on this machine: how long a check takes to another cluster, and what reading costs.

`federation`: a check turns critical → the other cluster's Envoy has acknowledged it (consul_federation.py).
`reading`: idle load on Consul; memory and CPU of an agent while a large catalog changes (consul_reading.py).
"""

from __future__ import annotations

import argparse
from typing import Any

import consul_federation
import consul_reading

PARTS = {"federation": consul_federation, "reading": consul_reading}


def main(words: list[str]) -> dict[str, Any]:
    """Run one part or both; prints tables, returns the figures by part."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench consul", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("all", *PARTS), default="all")
    for name, part in PARTS.items():
        part.add_options(parser.add_argument_group(name))
    parsed = parser.parse_args(words)
    return {name: part.run(parsed) for name, part in PARTS.items() if parsed.part in ("all", name)}
