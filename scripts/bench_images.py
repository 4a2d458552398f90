"""The container image: its size by layers, how long its programs take to start, and what they hold in memory.

All in one container with a read-only root and no right at all. Start: from the start of the process to the end of its
`--help`, so with all imports. Memory: every process of a real federation of three clusters that serves 30 services.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from clusters.images import delivery
from clusters.images.builder import Builder

PROGRAMS = (
    "fedctl",
    "isthmus-registry",
    "isthmus-agent",
    "isthmus-gateway",
    "isthmus-sidecar",
    "isthmus-injector",
    "isthmus-redirect",
)
CONFINED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=65532", "--tmpfs=/tmp"]


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Run with command-line arguments; prints tables, returns the figures."""
    parser = argparse.ArgumentParser(prog="scripts/bench images", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="starts of each program, interleaved")
    parser.add_argument("--services", type=int, default=30, help="in the federation whose processes are measured")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.inside:
        return _inside(options.rounds, options.services)
    builder = Builder(say=lambda line: print(line, file=sys.stderr))
    image, testing = builder.image("isthmus"), builder.image("isthmus-test")
    delivery.load([testing])
    mounted = f"{Path(__file__).parent}:/scripts:ro"
    inside = [f"--rounds={options.rounds}", f"--services={options.services}", "--inside"]
    code = f"import sys; sys.path.insert(0, '/scripts'); import bench_images; bench_images.main({inside!r})"
    command = ["docker", "run", "--rm", *CONFINED, "--volume", mounted, testing.reference, "python3", "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    figures["layers"] = {layer.name: layer.size for layer in image.layers}
    print(f"{image.reference}: {image.size / 1e6:.1f} MB")
    for name, size in figures["layers"].items():
        print(f"  {name:<45} {size / 1e6:>8.1f} MB")
    print("start, from exec to the end of --help")
    for name, row in figures["start_ms"].items():
        spread = f"{row['least']:.0f} to {row['most']:.0f}, n {row['n']}"
        print(f"  {name:<20} median {row['median']:>6.0f} ms ({spread}), CPU {row['cpu']:.0f} ms")
    print("memory of processes that serve, without their Envoys")
    for row in figures["processes"]:
        print(f"  {row['process']:<20} {row['rss_mb']:>6.1f} MB RSS, {row['anonymous_mb']:.1f} of it anonymous")
    return figures


def _inside(rounds: int, services: int) -> dict[str, Any]:
    """What runs in the container: prints the figures as one line of JSON."""
    from footprint import processes

    taken: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    worked: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    for _ in range(rounds):
        for program in PROGRAMS:
            began, before = time.monotonic(), _cpu()
            subprocess.run([program, "--help"], stdout=subprocess.DEVNULL, check=True)
            taken[program].append((time.monotonic() - began) * 1e3)
            worked[program].append((_cpu() - before) * 1e3)
    starts = {
        program: {
            "median": statistics.median(t),
            "least": min(t),
            "most": max(t),
            "cpu": statistics.median(worked[program]),
            "n": len(t),
        }
        for program, t in taken.items()
    }
    figures = {"start_ms": starts, "processes": processes(services, 5)}
    print(json.dumps(figures))
    return figures


def _cpu() -> float:
    """Seconds of CPU that the processes started here have used so far: a busy machine adds little to that."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
