"""How long a change takes from `publish` to Envoy's acknowledgement, and a first connection on demand.

`main(args)` returns the figures as a dict; run as a program it prints them as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import any_pb2

from clusters.network import free_port
from federation import log
from federation.aio.tasks import cancel, run
from federation.envoy.bootstrap import ADS_CLUSTER, bootstrap
from federation.envoy.process import EnvoyProcess
from federation.xds.server import AdsServer
from federation.xds.snapshot import Resource, Snapshot, TypeUrl

ADS = config_source_pb2.ConfigSource(ads={}, resource_api_version="V3")


def cluster(name: str) -> Resource:
    message = cluster_pb2.Cluster(name=name, type="EDS", eds_cluster_config={"eds_config": ADS})
    message.connect_timeout.FromSeconds(1)
    return Resource.of(name, message)


def endpoint(name: str, *ports: int) -> Resource:
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports
    ]
    return Resource.of(name, endpoint_pb2.ClusterLoadAssignment(cluster_name=name, endpoints=[{"lb_endpoints": hosts}]))


def outbound(port: int) -> Resource:
    """One listener for the whole loopback network, which names the cluster after the address that was dialled."""
    state, proxy = any_pb2.Any(), any_pb2.Any()
    text = {"text_format_source": {"inline_string": "vip/%DOWNSTREAM_LOCAL_ADDRESS%"}}
    state.Pack(
        set_filter_state_pb2.Config(
            on_new_connection=[{"object_key": "envoy.tcp_proxy.cluster", "format_string": text}]
        )
    )
    proxy.Pack(tcp_proxy_pb2.TcpProxy(stat_prefix="o", cluster="none", on_demand={"odcds_config": ADS}))
    filters = [
        {"name": "envoy.filters.network.set_filter_state", "typed_config": state},
        {"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy},
    ]
    address = {"socket_address": {"address": "0.0.0.0", "port_value": port}}
    return Resource.of(
        "outbound", listener_pb2.Listener(name="outbound", address=address, filter_chains=[{"filters": filters}])
    )


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    found = {name: ordered[min(len(ordered) - 1, int(len(ordered) * q))] for name, q in at.items()}
    return {
        **{name: round(value * 1e3, 2) for name, value in found.items()},
        "max": round(ordered[-1] * 1e3, 2),
        "mean": round(statistics.fmean(ordered) * 1e3, 2),
        "n": len(ordered),
    }


def rss(pid: int) -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


async def acked(ads: AdsServer, generation: int) -> float:
    """Seconds from publishing `generation` to its acknowledgement."""
    version = ads.acked.version
    async with asyncio.timeout(60):
        while ads.acked.value < generation:
            version, _ = await ads.acked.newer(version)
    timing = ads.timing(generation)
    assert timing is not None
    return timing.seconds


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def first_connections(ads: AdsServer, port: int, backend: int, addresses: Iterator[str]) -> list[float]:
    """Seconds until the echo of a first connection to each address has arrived."""
    taken = []
    for address in addresses:
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection(address, port)
        writer.write(b"x")
        assert await reader.read(1) == b"x", "the on-demand cluster did not come"
        taken.append(time.perf_counter() - began)
        writer.close()
        await writer.wait_closed()
    return taken


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as name:
        directory = Path(name)
        port = free_port()
        async with echo() as backend:

            def demand(kind: TypeUrl, names: frozenset[str]) -> None:
                snapshot = ads.snapshot.with_(TypeUrl.CLUSTER, put=[cluster(n) for n in names])
                ads.publish(snapshot.with_(TypeUrl.ENDPOINT, put=[endpoint(n, backend) for n in names]))

            ads = AdsServer(directory / "ads.sock", demand=demand, static=[ADS_CLUSTER])
            await ads.start()
            message = bootstrap(
                node_id="bench", cluster="bench", ads_path=ads.path, admin_path=directory / "admin.sock"
            )
            envoy = EnvoyProcess(message, directory)
            running = asyncio.create_task(envoy.run(), name="envoy")
            try:
                return await _figures(args, ads, envoy, port, backend)
            finally:
                await envoy.stop()
                await cancel(running)
                await ads.close()


async def _figures(
    args: argparse.Namespace, ads: AdsServer, envoy: EnvoyProcess, port: int, backend: int
) -> dict[str, Any]:
    names = [f"out/shop/s{n}/80" for n in range(args.clusters)]
    began = time.perf_counter()
    snapshot = Snapshot.of(
        {
            TypeUrl.CLUSTER: [cluster(n) for n in names],
            TypeUrl.ENDPOINT: [endpoint(n, backend) for n in names],
            TypeUrl.LISTENER: [outbound(port)],
        }
    )
    built = time.perf_counter() - began
    loaded = await acked(ads, ads.publish(snapshot))
    changes = []
    for n in range(args.changes):
        changed = endpoint(names[n % len(names)], backend, 1 + n % 60_000)
        changes.append(await acked(ads, ads.publish(ads.snapshot.with_(TypeUrl.ENDPOINT, put=[changed]))))
        await asyncio.sleep(args.pause)
    addresses = (f"127.77.{n // 250}.{n % 250 + 1}" for n in range(args.connections))
    first = await first_connections(ads, port, backend, addresses)
    addresses = (f"127.77.{n // 250}.{n % 250 + 1}" for n in range(args.connections))
    later = await first_connections(ads, port, backend, addresses)
    return {
        "clusters": args.clusters,
        "build_ms": round(built * 1e3, 1),
        "load_ms": round(loaded * 1e3, 1),
        "eds_change_ms": spread(changes),
        "first_connection_ms": spread(first),
        "later_connection_ms": spread(later),
        "rss_mb": {"python": rss(os.getpid()), "envoy": rss(envoy.pid or os.getpid())},
    }


def main(args: Sequence[str] = ()) -> dict[str, Any]:
    """Measure; see `--help` for what can be chosen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=500)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.002, help="seconds between changes")
    return run(measure(parser.parse_args(args)))


if __name__ == "__main__":
    log.configure(level="error", json=True)
    print(json.dumps(main(sys.argv[1:]), indent=2))
