"""What the processes hold in memory, by the number of services. Registry: bytes per service and per endpoint.

Processes: the RSS of each in a real federation, what is anonymous of it and of its Envoy, and the CPU of both while
nothing is asked of them. Budget: sidecar, gateway 60 MB at 10,000 services; the sidecar 1 % of a core.
Registry: members publish through the real protocol (frames, checks, quotas), without a network; each size runs in a
process of its own. Budget: 1 kB per endpoint at 250,000 endpoints, cold load in 60 s.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Run with command-line arguments; prints a table, returns the figures."""
    parser = argparse.ArgumentParser(prog="scripts/bench memory", description=__doc__)
    parser.add_argument("--services", type=int, default=10_000, help="exported by each cluster")
    parser.add_argument("--clusters", default="1,5,25", help="numbers of clusters, comma-separated")
    parser.add_argument("--endpoints", type=int, default=1, help="ready endpoints of each service")
    parser.add_argument("--federation", type=int, default=10_000, help="services of the real federation; 0: skip it")
    parser.add_argument("--used", type=int, default=100, help="names that its one busy sidecar uses")
    parsed = parser.parse_args(args)
    sizes = [int(word) for word in parsed.clusters.split(",")]
    rows = [_in_a_process(registry, parsed.services, clusters, parsed.endpoints) for clusters in sizes]
    print(f"registry: {parsed.services} services a cluster, {parsed.endpoints} endpoint(s) each")
    print(
        f"  {'clusters':>8} {'services':>9} {'RSS MB':>8} {'B/service':>10} {'B/endpoint':>10} "
        f"{'CPU s':>7} {'stall ms':>9}"
    )
    for row in rows:
        print(
            f"  {row['clusters']:>8} {row['services']:>9} {row['rss_mb']:>8.0f} {row['bytes_per_service']:>10.0f} "
            f"{row['bytes_per_endpoint']:>10.0f} {row['load_cpu_s']:>7.1f} {row['longest_stall_ms']:>9.0f}"
        )
    figures: dict[str, Any] = {"registry": rows}
    if parsed.federation:
        from footprint import processes

        figures["processes"] = found = processes(parsed.federation, parsed.used)
        print(f"processes, {parsed.federation} services in 3 clusters, {parsed.used} names in use by east's sidecar")
        print(
            f"  {'process':<16} {'RSS MB':>8} {'anonymous':>10} {'its Envoy':>10} {'idle % of a core':>17}"
            f" {'30 s later':>11}"
        )
        for row in found:
            print(
                f"  {row['process']:<16} {row['rss_mb']:>8.1f} {row['anonymous_mb']:>10.1f} "
                f"{row['envoy_anonymous_mb']:>10.1f} {row['idle_percent']:>17.2f} {row['later_percent']:>11.2f}"
            )
    return figures


def _in_a_process(work: Any, *args: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:  # which, unlike Pool, gives up when its process dies
        result: dict[str, Any] = pool.submit(work, *args).result()
    return result


def rss() -> int:
    """Bytes, after what is free has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def registry(services: int, clusters: int, endpoints: int) -> dict[str, Any]:
    """Figures of one registry that `clusters` members have reported to."""
    return asyncio.run(_registry(services, clusters, endpoints))


async def _registry(services: int, clusters: int, endpoints: int) -> dict[str, Any]:
    from federation import log as logs
    from federation.aio.clock import SystemClock
    from federation.model.cluster import Bundle
    from federation.registry.reports import Reports
    from federation.registry.settings import Quotas, RegistrySettings
    from federation.store.base import Member

    logs.configure(level="error", json=True)
    names = [f"c{number}" for number in range(clusters + 1)]
    members = {
        name: Member(
            name=name,
            trust_domain=f"{name}.bench.test",
            bundle=Bundle(trust_domain=f"{name}.bench.test", sequence=1, roots=()),
            joined_ns=1,
        )
        for name in names
    }
    reports = Reports(
        RegistrySettings(
            federation="bench.test", directory=".", quotas=Quotas(services=services + 1, burst=services * 2)
        ),
        members=lambda: members,
        links=dict,
        epoch=1,
        on_epoch=lambda *_: None,
        on_bundle=lambda *_: None,
        clock=SystemClock(),
        log=logs.get("bench"),
        audit=logs.get("bench"),
    )
    _publish(reports, names[0], 10, endpoints)  # what is needed once is not counted
    before = rss()
    load, stall = 0.0, 0.0
    for name in names[1:]:
        seconds, longest = _publish(reports, name, services, endpoints)
        load, stall = load + seconds, max(stall, longest)
    used = rss() - before
    total = services * clusters
    assert len(reports.log) == total + 10, (len(reports.log), total)
    return {
        "clusters": clusters,
        "services": total,
        "endpoints": total * endpoints,
        "rss_mb": (used + before) / 1e6,
        "bytes_per_service": used / total,
        "bytes_per_endpoint": used / (total * endpoints),
        "load_cpu_s": load,
        "longest_stall_ms": stall * 1000,
    }


def _publish(reports: Any, cluster: str, services: int, endpoints: int) -> tuple[float, float]:
    """One member's whole report; CPU seconds that the registry worked on it, and on its slowest frame."""
    from federation.catalog.replica import Log, Source
    from federation.model import wire
    from federation.model.ids import ServiceName
    from federation.model.record import Key, Kind, Record, Version
    from federation.model.service import Locality, Port, Readiness, Service
    from federation.registry.client import PUBLISH_FRAME_BYTES

    template = Service(
        name=ServiceName("shop", "x"),
        exported_at_ns=1_750_000_000_000_000_000,
        ports=(Port(name="http", port=80),),
        ip_families=("IPv4",),
        readiness=(Readiness(Locality("eu", "eu-1"), endpoints),),
    )
    log = Log(history=cluster)
    log.reset_origin(
        cluster,
        Version(1, services),
        (
            Record(
                Key(cluster, Kind.SERVICE, f"shop-{i % 100}/service-{i}"),
                Version(1, i),
                wire.encode_service(replace(template, name=ServiceName(f"shop-{i % 100}", f"service-{i}"))),
            )
            for i in range(services)
        ),
    )
    intake = reports.intake(cluster)
    source = Source(log, frame_bytes=PUBLISH_FRAME_BYTES)
    source.receive(intake.sink.open().subscribe)
    frames = source.next_updates()
    del log, source
    total = longest = 0.0
    for frame in frames:
        started = time.process_time()
        changes = intake.sink.receive(frame)
        intake.on_alive()
        if changes is not None:
            rejections = intake.on_changes(changes)
            assert not [r for r in rejections if r.name != "*"], rejections[:3]
        seconds = time.process_time() - started
        total, longest = total + seconds, max(longest, seconds)
    return total, longest


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
