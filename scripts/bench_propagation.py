"""From a replaced EndpointSlice in one cluster to the acknowledgement by another cluster's Envoy, all processes real.

Three clusters with `--services` exported services each; the caller's sidecar uses `--used` of them; one endpoint of one
service changes at a time. Budget: p50 <= 10 ms, p99 <= 25 ms with 1,000 services. Beside it: the first look-up of each
name in use (budget p99 <= 20 ms), which subscribes it and waits until Envoy is ready for it, and the next one.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

from clusters import manifests
from clusters.building import build
from clusters.names import timed_lookup
from clusters.processes import HTTP_PORT, NAMESPACE, Place, ProcessFederation
from clusters.progress import Progress
from clusters.propagation import Propagation, measure
from clusters.stage import CALLER, NEAREST
from clusters.topology import DEMO


def main(words: list[str]) -> dict[str, Any]:
    """Measure, print a table, return the figures (ms)."""
    parser = argparse.ArgumentParser(prog="scripts/bench propagation", description=__doc__)
    parser.add_argument("--services", type=int, default=1000, help="exported services per cluster")
    parser.add_argument("--used", type=int, default=200, help="of these in use by the sidecar that is measured")
    parser.add_argument("--changes", type=int, default=200, help="changes per round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(words)
    rounds, first, again = asyncio.run(_run(arguments))
    print(f"{arguments.services} services in each of 3 clusters, {arguments.used} in use, one change at a time (ms)")
    print(f"{'round':>6} {'n':>5} {'p50':>7} {'p99':>7} {'max':>7}")
    for number, one in enumerate(rounds, 1):
        print(f"{number:>6} {one.n:>5} {one.p50:>7.2f} {one.p99:>7.2f} {max(one.samples):>7.2f}")
    every = Propagation(tuple(s for one in rounds for s in one.samples))
    print(f"{'all':>6} {every.n:>5} {every.p50:>7.2f} {every.p99:>7.2f} {max(every.samples):>7.2f}")
    print("look-up of a name through the sidecar, prepared in Envoy before the answer (ms)")
    for what, one in (("first", first), ("again", again)):
        print(f"{what:>6} {one.n:>5} {one.p50:>7.2f} {one.p99:>7.2f} {max(one.samples):>7.2f}")
    return {
        "services": arguments.services,
        "used": arguments.used,
        "rounds": [one.as_dict() for one in rounds],
        "all": every.as_dict(),
        "first_lookup": first.as_dict(),
        "later_lookup": again.as_dict(),
    }


async def _run(arguments: argparse.Namespace) -> tuple[list[Propagation], Propagation, Propagation]:
    with tempfile.TemporaryDirectory(prefix="isthmus-") as directory:
        federation = ProcessFederation(DEMO, Path(directory))
        names = [f"s{number:05d}" for number in range(arguments.services)]
        for place in federation.places.values():
            copy = manifests.Copy(address=place.address, port=place.http_port, zone=place.spec.locality.zone)
            for name in names:
                manifests.write_http_service(place.manifests, NAMESPACE, name, port=HTTP_PORT, copy=copy)
        try:
            await build(federation, Progress(), timeout=120)
            caller = federation.places[CALLER]
            used = names[:: max(1, len(names) // arguments.used)][: arguments.used]
            first = await _look_up(caller, used)
            again = await _look_up(caller, used)
            rounds = [
                await measure(federation, origin=NEAREST, consumer=CALLER, changes=arguments.changes, services=used)
                for _ in range(arguments.rounds)
            ]
            return rounds, first, again
        finally:
            await asyncio.to_thread(federation.stop)


async def _look_up(caller: Place, services: list[str]) -> Propagation:
    """Look each name up once, one after the other."""
    names = [f"{service}.{NAMESPACE}.global" for service in services]
    return Propagation(
        tuple([await asyncio.to_thread(timed_lookup, caller.address, caller.dns_port, name) for name in names])
    )
