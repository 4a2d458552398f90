"""Our DNS server with many names on one core, beside CoreDNS and Unbound where they are installed.

Each server runs on the first core, the load on the second one; rounds are interleaved, medians and their spread are
printed. Rate: as many queries as it answers with a fixed number in flight (dnsperf where installed, otherwise our own
generator). Latency: an open loop at `--qps`, timed from when each query was due. Budget: at least CoreDNS's rate and
0.75 of Unbound's, p99 <= 1 ms at 5,000 queries per second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clusters.network import free_port

ZONE = "svc.clusterset.local"
READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A server to measure: `command(directory, port, names)` writes its configuration and says how to start it."""

    name: str
    command: Callable[[Path, int, Sequence[str]], list[str]]


@dataclass(slots=True)
class Figures:
    """What was measured of one server, one value a round."""

    qps: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    lost: int = 0
    rss_mb: float = 0.0


def main(words: list[str]) -> dict[str, Any]:
    """Measure, print a table, return the figures."""
    parser = argparse.ArgumentParser(prog="scripts/bench dns", description=__doc__)
    parser.add_argument("--names", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--qps", type=int, default=5000, help="rate at which latency is measured")
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--edns", action="store_true", help="queries carry an OPT record")
    parser.add_argument("--load", choices=["dnsperf", "python"], help="default: dnsperf where installed")
    arguments = parser.parse_args(words)
    load = arguments.load or ("dnsperf" if shutil.which("dnsperf") else "python")
    names = [f"svc-{i}.ns-{i % 100}.{ZONE}" for i in range(arguments.names)]
    found = peers()
    figures = {peer.name: Figures() for peer in found}
    with tempfile.TemporaryDirectory(prefix="isthmus-") as directory, contextlib.ExitStack() as stack:
        ports, processes = {}, {}
        for peer in found:
            place = Path(directory, peer.name)
            place.mkdir()
            ports[peer.name], processes[peer.name] = stack.enter_context(running(peer, place, names))
            measure_rate(load, ports[peer.name], names, arguments, 1.0)  # every name has been asked for once or more
            figures[peer.name].rss_mb = rss_mb(processes[peer.name])
        for _ in range(arguments.rounds):
            for peer in found:
                before = cpu_seconds(processes[peer.name])
                qps, lost = measure_rate(load, ports[peer.name], names, arguments, arguments.seconds)
                spent = cpu_seconds(processes[peer.name]) - before
                figures[peer.name].qps.append(qps)
                figures[peer.name].cpu_us.append(spent / (qps * arguments.seconds) * 1e6)
                figures[peer.name].lost += lost
        for _ in range(arguments.rounds):
            for peer in found:
                latencies, lost = paced(ports[peer.name], names, arguments)
                cuts = statistics.quantiles(latencies, n=100, method="inclusive")
                figures[peer.name].p50_ms.append(cuts[49])
                figures[peer.name].p99_ms.append(cuts[98])
                figures[peer.name].lost += lost
    return report(figures, arguments, load)


def report(figures: dict[str, Figures], arguments: argparse.Namespace, load: str) -> dict[str, Any]:
    """Print the table; the same as a dictionary."""
    ours = statistics.median(figures["isthmus"].qps)
    print(
        f"{arguments.names} names, A{' with EDNS' if arguments.edns else ''}, one core for the server, one for {load}, "
        f"{arguments.rounds} rounds of {arguments.seconds:g} s, latency at {arguments.qps}/s; median (min-max)"
    )
    widths = (14, 22, 8, 18, 22, 24, 6, 4)
    heads = ("server", "queries/s", "ours/it", "CPU us/query", "p50 ms", "p99 ms", "lost", "MB")
    print(*(f"{text:>{width}}" for text, width in zip(heads, widths, strict=True)))
    out: dict[str, Any] = {"load": load, "names": arguments.names, "edns": arguments.edns, "servers": {}}
    for name, one in figures.items():
        ratio = ours / statistics.median(one.qps)
        cells = [name, spread(one.qps, ".0f"), f"{ratio:.2f}", spread(one.cpu_us, ".1f")]
        cells += [spread(one.p50_ms, ".3f"), spread(one.p99_ms, ".3f"), str(one.lost), f"{one.rss_mb:.0f}"]
        print(*(f"{text:>{width}}" for text, width in zip(cells, widths, strict=True)))
        out["servers"][name] = {
            "qps": one.qps,
            "cpu_us_per_query": one.cpu_us,
            "ours_to_it": round(ratio, 3),
            "p50_ms": one.p50_ms,
            "p99_ms": one.p99_ms,
            "lost": one.lost,
            "rss_mb": round(one.rss_mb, 1),
        }
    for wanted, how in (
        ("coredns", "go install github.com/coredns/coredns@latest"),
        ("unbound", "apt install unbound"),
    ):
        if not any(name.startswith(wanted) for name in figures):
            print(f"{wanted} is not on PATH and was left out: {how}")
    return out


def spread(values: Sequence[float], how: str) -> str:
    """Median (min-max)."""
    return f"{statistics.median(values):{how}} ({min(values):{how}}-{max(values):{how}})"


# -- the servers


def peers() -> list[Peer]:
    """Ours, and those that are installed."""
    found = [Peer(name="isthmus", command=_isthmus)]
    if shutil.which("coredns"):
        found += [Peer(name="coredns-hosts", command=_coredns_hosts), Peer(name="coredns-file", command=_coredns_file)]
    if unbound():
        found.append(Peer(name="unbound", command=_unbound))
    return found


def unbound() -> str | None:
    """The binary; daemons are often on no user's PATH."""
    return shutil.which("unbound") or shutil.which("unbound", path="/usr/sbin:/usr/local/sbin")


def address(i: int) -> str:
    """The address of the i-th name."""
    return f"127.128.{i >> 8 & 255}.{i & 255}"


def _isthmus(directory: Path, port: int, names: Sequence[str]) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), str(port), str(len(names))]


def _coredns_hosts(directory: Path, port: int, names: Sequence[str]) -> list[str]:
    (directory / "hosts").write_text("".join(f"{address(i)} {n}\n" for i, n in enumerate(names)))
    (directory / "Corefile").write_text(
        f"clusterset.local:{port} {{\n bind 127.0.0.1\n hosts {directory}/hosts clusterset.local {{\n  ttl 5\n }}\n}}\n"
    )
    return ["coredns", "-quiet", "-conf", str(directory / "Corefile")]


def _coredns_file(directory: Path, port: int, names: Sequence[str]) -> list[str]:
    head = "@ 5 IN SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ 5 IN NS ns.dns\n"
    records = "".join(f"{n}. 5 IN A {address(i)}\n" for i, n in enumerate(names))
    (directory / "zone").write_text(f"$ORIGIN clusterset.local.\n{head}{records}")
    (directory / "Corefile").write_text(
        f"clusterset.local:{port} {{\n bind 127.0.0.1\n file {directory}/zone clusterset.local\n}}\n"
    )
    return ["coredns", "-quiet", "-conf", str(directory / "Corefile")]


def _unbound(directory: Path, port: int, names: Sequence[str]) -> list[str]:
    data = "".join(f'  local-data: "{n}. 5 IN A {address(i)}"\n' for i, n in enumerate(names))
    (directory / "unbound.conf").write_text(
        f"""server:
  interface: 127.0.0.1
  port: {port}
  num-threads: 1
  do-daemonize: no
  use-syslog: no
  logfile: ""
  username: ""
  chroot: ""
  directory: "{directory}"
  pidfile: "{directory}/pid"
  do-not-query-localhost: no
  minimal-responses: yes
  so-rcvbuf: 1m
  local-zone: "clusterset.local." static
{data}
remote-control:
  control-enable: no
"""
    )
    return [unbound() or "unbound", "-d", "-c", str(directory / "unbound.conf")]


@contextlib.contextmanager
def running(peer: Peer, directory: Path, names: Sequence[str]) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The server on the first core, answering; its port and process."""
    port = free_port()
    command = ["taskset", "-c", "0", *peer.command(directory, port, names)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_SECONDS
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.1)
            sock.connect(("127.0.0.1", port))
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{peer.name} does not answer:\n{(directory / 'log').read_text()[-2000:]}")
                with contextlib.suppress(OSError):
                    sock.send(encode(names[-1], edns=False))
                    if sock.recv(4096)[6:8] == b"\0\1":
                        break
                time.sleep(0.05)
        yield port, process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """CPU time that the process has used. Unlike the rate, it hardly depends on what else this machine does."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(process: subprocess.Popen[bytes]) -> float:
    """Resident memory of the process; taskset has become it."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


# -- the load


def encode(name: str, *, edns: bool) -> bytes:
    """An A query with id 0."""
    labels = b"".join(bytes([len(x)]) + x.encode() for x in name.split("."))
    tail = b"\0\0\x29\x04\xd0\0\0\0\0\0\0" if edns else b""
    return b"\0\0\1\0\0\1\0\0\0\0\0" + bytes([edns]) + labels + b"\0\0\1\0\1" + tail


def measure_rate(
    load: str, port: int, names: Sequence[str], arguments: argparse.Namespace, seconds: float
) -> tuple[float, int]:
    """Queries answered per second, and how many were not."""
    if load == "python":
        with on_core(1):
            return saturate(port, names, arguments.in_flight, seconds, edns=arguments.edns)
    order = random.Random(1).sample(list(names), len(names))
    command = ["taskset", "-c", "1", "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-l", f"{seconds:g}", "-c", "4"]
    command += ["-T", "1", "-q", str(arguments.in_flight), *(["-e"] if arguments.edns else [])]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{n} A\n" for n in order)
        file.flush()
        out = subprocess.run([*command, "-d", file.name], capture_output=True, text=True, check=True).stdout
    codes = re.search(r"Response codes:\s+(.*)", out)
    assert codes is not None, out
    assert re.fullmatch(r"NOERROR \d+ \(100\.00%\)", codes[1].strip()), out
    rate, lost = re.search(r"Queries per second:\s+([\d.]+)", out), re.search(r"Queries lost:\s+(\d+)", out)
    assert rate is not None, out
    assert lost is not None, out
    return float(rate[1]), int(lost[1])


def saturate(port: int, names: Sequence[str], in_flight: int, seconds: float, *, edns: bool) -> tuple[float, int]:
    """A closed loop over four sockets: every answer is followed by a query. What is lost is given up after 1 s."""
    queries = [encode(n, edns=edns) for n in random.Random(1).sample(list(names), len(names))]
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    poller = select.epoll()
    for sock in sockets:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        poller.register(sock, select.EPOLLIN)
    by_number = {sock.fileno(): sock for sock in sockets}
    sent = answered = lost = 0
    start = time.perf_counter()

    def send(sock: socket.socket) -> None:
        nonlocal sent
        sock.send((sent & 0xFFFF).to_bytes(2, "big") + queries[sent % len(queries)][2:])
        sent += 1

    while (now := time.perf_counter()) - start < seconds:
        if sent - answered - lost == 0:
            for i in range(in_flight):
                send(sockets[i % len(sockets)])
        ready = poller.poll(1.0)
        if not ready:
            lost += sent - answered - lost
        for number, _ in ready:
            sock = by_number[number]
            with contextlib.suppress(BlockingIOError):
                while True:
                    reply = sock.recv(4096)
                    assert (reply[3] & 15, reply[7]) == (0, 1), reply
                    answered += 1
                    send(sock)
    poller.close()
    for sock in sockets:
        sock.close()
    return answered / (now - start), lost


def paced(port: int, names: Sequence[str], arguments: argparse.Namespace) -> tuple[list[float], int]:
    """Latencies in ms of queries that are due at equal distances, from when they were due, so that waiting counts."""
    queries = [encode(n, edns=arguments.edns) for n in random.Random(2).sample(list(names), len(names))]
    total = int(arguments.qps * arguments.seconds)
    latencies: list[float] = []
    clock = time.perf_counter
    with on_core(1), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        due: dict[int, float] = {}
        start, sent = clock() + 0.01, 0
        while (sent < total or due) and clock() < start + arguments.seconds + 1:
            while sent < total and start + sent / arguments.qps <= clock():
                ident = sent & 0xFFFF
                due[ident] = start + sent / arguments.qps
                sock.send(ident.to_bytes(2, "big") + queries[sent % len(queries)][2:])
                sent += 1
            with contextlib.suppress(BlockingIOError):
                while True:
                    reply = sock.recv(4096)
                    since = due.pop(int.from_bytes(reply[:2], "big"))
                    latencies.append((clock() - since) * 1000)
    return latencies, total - len(latencies)


@contextlib.contextmanager
def on_core(number: int) -> Iterator[None]:
    """This thread on one core, if there is such a core."""
    before = os.sched_getaffinity(0)
    if number in before:
        os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# -- our server, as a process of its own


async def serve(port: int, count: int) -> None:
    """Serve `count` names on `port` until terminated."""
    from federation.aio.tasks import wait_for_signal
    from federation.dns.answer import NameRecords
    from federation.dns.server import DnsServer
    from federation.dns.table import Table

    table = Table(["clusterset.local", "global"])
    for i in range(count):
        table.put(f"svc-{i}.ns-{i % 100}.{ZONE}", NameRecords(a=(address(i),)))
    server = DnsServer(table=table)
    await server.start("127.0.0.1", port)
    await wait_for_signal()
    await server.close()


if __name__ == "__main__":
    import uvloop

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), int(sys.argv[2])))
