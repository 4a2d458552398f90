"""Memory of every process of a real federation of three clusters, and CPU of the idle one (part of bench_memory)."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from clusters import manifests
from clusters.building import build
from clusters.names import lookup
from clusters.processes import HTTP_PORT, NAMESPACE, ProcessFederation, children
from clusters.progress import Progress
from clusters.stage import CALLER
from clusters.topology import DEMO
from clusters.usage import cpu

IDLE = 30.0
"""Seconds for which nothing is asked of them."""


def processes(services: int, used: int) -> list[dict[str, Any]]:
    """Start everything with `services` in the whole federation, use `used` names from one sidecar, read each RSS."""
    return asyncio.run(_processes(services, used))


async def _processes(services: int, used: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="isthmus-") as directory:
        federation = ProcessFederation(DEMO, Path(directory))
        places = list(federation.places.values())
        for number in range(services):
            place = places[number % len(places)]
            copy = manifests.Copy(address=place.address, port=place.http_port, zone=place.spec.locality.zone)
            manifests.write_http_service(place.manifests, NAMESPACE, f"s{number:05d}", port=HTTP_PORT, copy=copy)
        try:
            began = time.monotonic()
            await build(federation, Progress(), timeout=300)
            seconds = time.monotonic() - began
            caller = federation.places[CALLER]
            for number in range(used):
                name = f"s{number:05d}.{NAMESPACE}.global"
                if not await asyncio.to_thread(lookup, caller.address, caller.dns_port, name):
                    raise RuntimeError(f"{name} was not found")
            pids = {
                name: running.process.pid
                for name, running in federation.running.items()
                if running.process is not None and not name.endswith(("-http", "-tcp"))
            }
            before = {name: spent(pid) for name, pid in pids.items()}
            await asyncio.sleep(IDLE)  # in which health checks of the names that were looked up still begin
            between = {name: spent(pid) for name, pid in pids.items()}
            await asyncio.sleep(IDLE)
            rows = []
            for name, pid in pids.items():
                rss, anonymous = resident(pid)
                rows.append(
                    {
                        "process": name,
                        "rss_mb": rss,
                        "anonymous_mb": anonymous,
                        "envoy_anonymous_mb": round(sum(resident(child)[1] for child in children(pid)), 1),
                        "idle_percent": round(100 * (between[name] - before[name]) / IDLE, 2),
                        "later_percent": round(100 * (spent(pid) - between[name]) / IDLE, 2),
                        "built_s": round(seconds, 1),
                    }
                )
            return rows
        finally:
            await asyncio.to_thread(federation.stop)


def spent(pid: int) -> float:
    """Seconds on a core so far, of a process and its Envoy."""
    return sum(map(cpu, (pid, *children(pid))))


def resident(pid: int) -> tuple[float, float]:
    """(RSS, of which anonymous) of a process, in MB of 10^6 bytes."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "RssAnon"):
            fields[key] = round(int(value.split()[0]) * 1024 / 1e6, 1)
    return fields["VmRSS"], fields["RssAnon"]
