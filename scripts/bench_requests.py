"""Requests per second over two hops: client → outbound proxy → mutual TLS, HTTP/2 → gateway → HTTP/1.1 workload.

The same hops in one run, interleaved: our generated configuration, one for Envoy written by hand for the same duty, and
HAProxy (where it is on PATH). Both proxies of a way share one core; the load (wrk) and the workload share another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters.network import free_port
from federation.aio.clock import SystemClock
from federation.envoy import names as envoy_names
from federation.envoy.bootstrap import bootstrap
from federation.envoy.process import find_envoy
from federation.model.cluster import Gateway, Peer
from federation.model.ids import ServiceName, SpiffeId
from federation.model.service import AppProtocol, Backend, Endpoint, Export, Grant, Import, Locality, Port, Readiness
from federation.model.view import View
from federation.trust.authority import Authority
from federation.trust.svid import Svid
from federation.xds.server import AdsServer
from federation.xds.snapshot import Snapshot
from gateway import build as gateway_build
from sidecar.build import outbound as sidecar_build

ECHO = ServiceName("shop", "echo")
HOST = "echo.shop.global"
VIP = "127.0.0.1"
_TYPES = "type.googleapis.com/envoy.extensions."
_HTTP2 = {
    "max_concurrent_streams": 100,
    "initial_stream_window_size": 65536,
    "initial_connection_window_size": 1048576,
}
_RPS = re.compile(r"Requests/sec:\s+([\d.]+)")
_ERRORS = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: connect (\d+), read (\d+), write (\d+)")


@dataclass(frozen=True)
class Way:
    """One implementation of the hops; requests go to `port`."""

    name: str
    port: int
    pids: tuple[int, ...]

    def cpu_seconds(self) -> float:
        """What its processes have used of a core so far."""
        tasks = (task for pid in self.pids for task in Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Trust:
    """Two clusters and what their processes prove themselves with."""

    def __init__(self, directory: Path) -> None:
        self.authorities = {
            name: Authority.open(directory / f"ca-{name}", trust_domain=f"{name}.bench.internal", clock=SystemClock())
            for name in ("east", "west")
        }
        self.client = self._svid("east", "shop", "client")
        self.server = self._svid("west", "isthmus-system", "gateway")

    def _svid(self, cluster: str, namespace: str, account: str) -> Svid:
        authority = self.authorities[cluster]
        return authority.issue_with_key(spiffe_id=SpiffeId.workload(authority.trust_domain, namespace, account))

    def root_pem(self, cluster: str) -> str:
        return ssl.DER_cert_to_PEM_cert(self.authorities[cluster].bundle.roots[0])


def main(args: Sequence[str] = ()) -> dict[str, Any]:
    """Run the comparison; requests per second and latencies by way, and the ratios of the budgets."""
    options = _options(args)
    with tempfile.TemporaryDirectory(prefix="ist") as directory, contextlib.ExitStack() as stack:
        figures = asyncio.run(_measure(options, Path(directory), stack))
    _print(figures)
    return figures


def _print(figures: dict[str, Any]) -> None:
    if "skipped" in figures:
        print(f"skipped: {figures['skipped']}")
        return
    print(f"{'':12} {'rps':>8} {'min':>8} {'max':>8} {'per cpu s':>10} {'p50 ms':>7} {'p99 ms':>7} {'errors':>6}")
    for name, w in figures["ways"].items():
        print(
            f"{name:12} {w['rps']:8.0f} {w['rps_min']:8.0f} {w['rps_max']:8.0f} {w['per_cpu_second']:10.0f}"
            f" {w['p50_ms']:7.2f} {w['p99_ms']:7.2f} {w['errors']:6.0f}"
        )
    print("; ".join(f"{key.replace('_', ' ')} {value}" for key, value in figures.items() if "ratio" in key))


def _options(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench requests", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each way (7)")
    parser.add_argument("--seconds", type=int, default=3, help="length of one measurement (3)")
    parser.add_argument("--connections", type=int, default=64, help="client connections (64)")
    return parser.parse_args(list(args))


async def _measure(options: argparse.Namespace, directory: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    if shutil.which("wrk") is None:
        return {"skipped": "wrk is not on PATH: apt-get install wrk"}
    proxies, load = _cores()
    trust = Trust(directory)
    workload = _workload(directory, stack, load)
    servers: list[AdsServer] = []
    ways = [await _ours(directory, stack, trust, workload, proxies, servers)]
    ways.append(_by_hand(directory, stack, trust, workload, proxies))
    if shutil.which("haproxy") is not None:
        ways.append(_haproxy(directory, stack, trust, workload, proxies))
    try:
        for way in ways:
            await _answering(way, directory)
        samples: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
        for turn in range(options.rounds + 1):
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                sample = await asyncio.to_thread(_wrk, way, options, load)
                if turn:  # the first one warms up
                    samples[way.name].append(sample)
    finally:
        for server in servers:
            await server.close()
    return _summary(samples, options)


def _summary(samples: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> dict[str, Any]:
    ways = {
        name: {
            "rps": statistics.median(s["rps"] for s in runs),
            "rps_min": min(s["rps"] for s in runs),
            "rps_max": max(s["rps"] for s in runs),
            "per_cpu_second": statistics.median(s["per_cpu_second"] for s in runs),
            "p50_ms": statistics.median(s["p50_ms"] for s in runs),
            "p99_ms": statistics.median(s["p99_ms"] for s in runs),
            "errors": sum(s["errors"] for s in runs),
        }
        for name, runs in samples.items()
    }
    ratios = {
        f"{what}ratio_to_{other}": round(_ratio(samples["isthmus"], samples[other], key), 3)
        for other in ways
        if other != "isthmus"
        for what, key in (("", "rps"), ("cpu_", "per_cpu_second"))
    }
    return {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "connections": options.connections,
        "ways": ways,
    } | ratios


def _ratio(ours: list[dict[str, float]], theirs: list[dict[str, float]], key: str) -> float:
    """The median over the rounds: neighbours in time are compared, so that what else the machine does hits both."""
    return statistics.median(a[key] / b[key] for a, b in zip(ours, theirs, strict=True))


# --- load


def _wrk(way: Way, options: argparse.Namespace, core: int) -> dict[str, float]:
    used = way.cpu_seconds()
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}s"]
    done = subprocess.run(
        [*command, "--latency", "-H", f"Host: {HOST}", f"http://{VIP}:{way.port}/"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = _RPS.search(done.stdout)
    assert found is not None, done.stdout
    errors = sum(int(n) for match in _ERRORS.finditer(done.stdout) for n in match.groups() if n)
    return {
        "rps": float(found.group(1)),
        "per_cpu_second": float(found.group(1)) * options.seconds / max(0.01, way.cpu_seconds() - used),
        "p50_ms": _latency(done.stdout, "50%"),
        "p99_ms": _latency(done.stdout, "99%"),
        "errors": errors,
    }


def _latency(text: str, which: str) -> float:
    found = re.search(rf"\s{which}\s+([\d.]+)(us|ms|s)", text)
    assert found is not None, text
    return float(found.group(1)) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found.group(2)]


async def _answering(way: Way, directory: Path) -> None:
    deadline = time.monotonic() + 20
    request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(VIP, way.port)
            writer.write(request)
            answer = await reader.read(-1)
            writer.close()
            if b" 200 " in answer.split(b"\r\n")[0]:
                return
        assert time.monotonic() < deadline, f"{way.name} does not answer: {_logs(directory)}"
        await asyncio.sleep(0.1)


def _logs(directory: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-1000:] for path in sorted(directory.glob("*.log")))


def _cores() -> tuple[int, int]:
    """(for the proxies, for load and workload): the first two that we may use; the same one twice if there is one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[1 % len(cores)]


def _start(stack: contextlib.ExitStack, command: Sequence[str | Path], core: int, log: Path) -> int:
    output = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output
    )

    def end() -> None:
        process.terminate()
        process.wait(10)

    stack.callback(end)
    return process.pid


def _envoy(stack: contextlib.ExitStack, path: Path, core: int) -> int:
    command = [find_envoy(), "-c", path, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    return _start(stack, command, core, path.with_suffix(".log"))


# --- the ways


def _workload(directory: Path, stack: contextlib.ExitStack, core: int) -> int:
    """A workload that costs little: an Envoy that answers by itself."""
    port = free_port()
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "hello\n"}}}
    manager = {
        "@type": f"{_TYPES}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]},
        "http_filters": [_extension("filters.http.router", "filters.http.router.v3.Router")],
    }
    path = directory / "workload.json"
    path.write_text(json.dumps(_static([_listener(port, manager)], [])))
    _envoy(stack, path, core)
    return port


async def _ours(
    directory: Path, stack: contextlib.ExitStack, trust: Trust, workload: int, core: int, servers: list[AdsServer]
) -> Way:
    at, outside = free_port(), free_port()
    east, west = (
        Peer(
            cluster=name,
            trust_domain=authority.trust_domain,
            bundle=authority.bundle,
            gateways=(Gateway(name="g", address=VIP, port=at),),
        )
        for name, authority in trust.authorities.items()
    )
    peers = {"east": east, "west": west}
    ports = (Port(name="web", port=outside, app=AppProtocol.HTTP),)
    endpoint = Endpoint(address=VIP, ports={outside: workload})
    exported = Export(name=ECHO, ports=ports, endpoints=(endpoint,), grants=(Grant("east"),))
    remote = Backend(cluster="west", ports=(outside,), readiness=(Readiness(Locality(), 1),))
    config = gateway_build.GatewayConfig(
        cluster="west", trust_domain=west.trust_domain, address=VIP, port=at, identity=trust.server
    )
    gateway_view = View(cluster="west", peers=peers, exports={ECHO: exported})
    sidecar_view = View(cluster="east", peers=peers, imports={ECHO: Import(name=ECHO, ports=ports, backends=(remote,))})
    sidecar = sidecar_build.SidecarConfig(way="loopback", cluster="east", identity=trust.client)
    uses = [sidecar_build.Use(name=ECHO, vip=VIP)]
    built = {
        "gateway": gateway_build.build(gateway_view, config, asked=_asked(east, west, outside)),
        "sidecar": sidecar_build.build(sidecar_view, uses, sidecar),
    }
    pids = []
    for name, resources in built.items():
        ads = AdsServer(directory / f"{name}.sock")
        await ads.start()
        servers.append(ads)
        ads.publish(Snapshot.built(resources))
        message = bootstrap(
            node_id=name, cluster=name, ads_path=directory / f"{name}.sock", admin_path=directory / f"{name}.admin"
        )
        path = directory / f"{name}.pb"
        path.write_bytes(message.SerializeToString())
        pids.append(_envoy(stack, path, core))
    return Way("isthmus", outside, tuple(pids))


def _asked(caller: Peer, callee: Peer, port: int) -> list[str]:
    """What the gateway's Envoy asks for on the first request, and at the first health check."""
    sni = envoy_names.server_name(ECHO, port, callee.trust_domain)
    return [
        envoy_names.inbound_http_cluster(caller.trust_domain, sni, HOST),
        envoy_names.inbound_health_cluster(caller.trust_domain, sni),
    ]


def _by_hand(directory: Path, stack: contextlib.ExitStack, trust: Trust, workload: int, core: int) -> Way:
    """What somebody would write for the same duty, for one service and one caller, along Envoy's own advice for edges.

    Both hops: limits, time-outs, paths and underscores as ours, x-envoy-* of strangers not believed, one virtual host,
    HTTP/2 windows, outlier detection. Caller: retries on other hosts, health checks, pings, the server's exact URI.
    Gateway: TLS 1.3 with the caller's URI, and XFCC for the workload. What ours has beyond this: any number of services
    and callers behind one port (server name and caller bound to each route), retries by method and priority, headers of
    other proxies removed, local copies in plain text beside remote ones, and everything replaceable while it runs.
    """
    at, outside = free_port(), free_port()
    action: dict[str, Any] = {"cluster": "next", "timeout": "0s"}
    retry: dict[str, Any] = {
        "retry_on": "connect-failure,refused-stream,reset-before-request,gateway-error",
        "num_retries": 3,
        "retry_host_predicate": [
            _extension("retry_host_predicates", "retry.host.previous_hosts.v3.PreviousHostsPredicate")
        ],
        "host_selection_retry_max_attempts": 5,
    }
    server = _tls(trust.server, trust, "east", {"prefix": f"spiffe://{trust.authorities['east'].trust_domain}/"})
    wanted = {"exact": str(trust.server.spiffe_id)}
    manager = _manager(action | {"retry_policy": {"retry_on": "connect-failure", "num_retries": 2}}, "HTTP2")
    manager |= {"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"uri": True}}
    gateway = _static([_listener(at, manager, tls=server)], [_cluster(workload)])
    client = _cluster(at)
    tls = _tls(trust.client, trust, "west", wanted) | {"sni": "west"}
    client["transport_socket"] = _socket("UpstreamTlsContext", tls)
    client["health_checks"] = [
        {
            "timeout": "1s",
            "interval": "5s",
            "unhealthy_threshold": 2,
            "healthy_threshold": 1,
            "http_health_check": {"host": HOST, "path": "/", "codec_client_type": "HTTP2"},
        }
    ]
    keepalive = {"connection_keepalive": {"interval": "0.5s", "timeout": "1s"}}
    client["typed_extension_protocol_options"] = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{_TYPES}upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": _HTTP2 | keepalive},
        }
    }
    outbound = _static([_listener(outside, _manager(action | {"retry_policy": retry}))], [client])
    pids = []
    for name, config in (("hand-gateway", gateway), ("hand-outbound", outbound)):
        path = directory / f"{name}.json"
        path.write_text(json.dumps(config))
        pids.append(_envoy(stack, path, core))
    return Way("handwritten", outside, tuple(pids))


def _haproxy(directory: Path, stack: contextlib.ExitStack, trust: Trust, workload: int, core: int) -> Way:
    at, outside = free_port(), free_port()
    for name, svid, root in (("server", trust.server, "east"), ("client", trust.client, "west")):
        (directory / f"ha-{name}.pem").write_bytes(svid.chain_pem + svid.key_pem)
        (directory / f"ha-{name}-ca.pem").write_text(trust.root_pem(root))
    head = "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 1h\n"
    head += "  timeout server 1h\n  http-reuse always\n"
    bind = f"crt {directory}/ha-server.pem ca-file {directory}/ha-server-ca.pem verify required alpn h2"
    client = f"crt {directory}/ha-client.pem ca-file {directory}/ha-client-ca.pem verify required alpn h2"
    hops = {
        "ha-gateway": f"listen in\n  bind {VIP}:{at} ssl {bind} ssl-min-ver TLSv1.3\n  server w {VIP}:{workload}\n",
        "ha-outbound": f"listen out\n  bind {VIP}:{outside}\n  server g {VIP}:{at} ssl {client}\n",
    }
    pids = []
    for name, text in hops.items():
        path = directory / f"{name}.cfg"
        path.write_text(head + text)
        pids.append(_start(stack, ["haproxy", "-db", "-f", path], core, path.with_suffix(".log")))
    return Way("haproxy", outside, tuple(pids))


# --- configuration by hand


def _static(listeners: list[Any], clusters: list[Any]) -> dict[str, Any]:
    return {
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "stats_config": {"stats_matcher": {"reject_all": True}},
    }


def _listener(port: int, manager: dict[str, Any], *, tls: dict[str, Any] | None = None) -> dict[str, Any]:
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if tls is not None:
        chain["transport_socket"] = _socket("DownstreamTlsContext", tls | {"require_client_certificate": True})
    return {"address": _address(port), "filter_chains": [chain], "per_connection_buffer_limit_bytes": 32768}


def _manager(action: dict[str, Any], codec: str = "AUTO") -> dict[str, Any]:
    host = {"name": "echo", "domains": [HOST], "routes": [{"match": {"prefix": "/"}, "route": action}]}
    return {
        "@type": f"{_TYPES}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "codec_type": codec,
        "generate_request_id": False,
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        "common_http_protocol_options": {"idle_timeout": "3600s", "headers_with_underscores_action": "REJECT_REQUEST"},
        "http2_protocol_options": _HTTP2,
        "stream_idle_timeout": "300s",
        "request_headers_timeout": "10s",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [_extension("filters.http.router", "filters.http.router.v3.Router")],
    }


def _cluster(port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": 32768,
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": {
            "thresholds": [{"max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536}]
        },
        "outlier_detection": {
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_percent": 100,
            "consecutive_gateway_failure": 2,
            "enforcing_consecutive_gateway_failure": 100,
        },
        "upstream_connection_options": {"tcp_keepalive": {}},
    }


def _extension(name: str, kind: str) -> dict[str, Any]:
    return {"name": f"envoy.{name}", "typed_config": {"@type": f"{_TYPES}{kind}"}}


def _tls(svid: Svid, trust: Trust, peer: str, accept: dict[str, str]) -> dict[str, Any]:
    certificate = {
        "certificate_chain": {"inline_string": svid.chain_pem.decode()},
        "private_key": {"inline_string": svid.key_pem.decode()},
    }
    return {
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2"],
            "tls_certificates": [certificate],
            "validation_context": {
                "trusted_ca": {"inline_string": trust.root_pem(peer)},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": accept}],
            },
        }
    }


def _socket(kind: str, context: dict[str, Any]) -> dict[str, Any]:
    return {"name": "tls", "typed_config": {"@type": f"{_TYPES}transport_sockets.tls.v3.{kind}"} | context}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": VIP, "port_value": port}}


if __name__ == "__main__":
    main(sys.argv[1:])
