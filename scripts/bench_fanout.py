"""Measures the fan-out of one change to many subscribers over grpc.aio: latency, memory per stream, a reconnect storm.

The subscribers live in another process, each with a connection of its own; the server and they are pinned to different
cores. `main(args)` prints a table and returns the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HISTORY = "bench"


def _pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def _rss() -> int:
    """Resident bytes of this process."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


# --- the subscribers' process ----------------------------------------------------------------------------------------


async def _subscribers(pipe: Connection, port: int, count: int, connections: int, resume: bool) -> None:
    """Raw streams: what is measured is the server, so a subscriber only notes when a frame came."""
    import grpc

    from federation.proto.v1 import catalog_pb2 as pb
    from federation.registry.client import CHANNEL_OPTIONS, WATCH

    loop = asyncio.get_running_loop()
    held: dict[int, tuple[str, int]] = {}  # subscriber -> (history, revision)
    last: dict[int, float] = {}
    seen: dict[int, int] = {}
    synced = 0

    async def one(number: int, channel: Any) -> None:
        nonlocal synced
        call = channel.stream_stream(WATCH)()
        history, revision = held.get(number, ("", 0)) if resume else ("", 0)
        origins = ["east"] if history else []
        subscribe = pb.Subscribe(history=history, revision=revision, wildcard=True, origins=origins)
        await call.write(pb.Demand(subscribe=subscribe).SerializeToString())
        first = True
        while (raw := await call.read()) is not grpc.aio.EOF:
            now = time.monotonic()
            update = pb.Update.FromString(raw)
            if update.WhichOneof("body") == "progress":
                ack = pb.Demand(ack=pb.Ack(revision=update.progress.revision))
                await call.write(ack.SerializeToString())
            if update.WhichOneof("body") != "batch" or update.batch.more:
                continue
            held[number] = (HISTORY, update.batch.revision)
            if first:
                first = False
                synced += 1
            else:
                revision = update.batch.revision
                seen[revision] = seen.get(revision, 0) + 1
                last[revision] = now

    async def until(predicate: Any, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not predicate():
            if time.monotonic() > deadline:
                raise TimeoutError
            await asyncio.sleep(0.005)

    channels: list[Any] = []
    tasks: list[asyncio.Task[None]] = []

    def all_synced() -> bool:
        return synced == count

    async def close() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in channels))
        channels.clear()
        tasks.clear()

    while True:
        command, *rest = await loop.run_in_executor(None, pipe.recv)
        if command == "open":
            synced = 0
            begun = time.monotonic()
            channels += [
                grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) for _ in range(connections)
            ]
            tasks += [loop.create_task(one(n, channels[n % connections]), name=f"subscriber-{n}") for n in range(count)]
            await until(all_synced)
            pipe.send(time.monotonic() - begun)
        elif command == "wait":
            revision = rest[0]
            await until(lambda r=revision: seen.get(r, 0) == count)
            pipe.send(last[revision])
        elif command == "close":
            await close()
            pipe.send(None)
        elif command == "stop":
            await close()
            return


def _client(pipe: Connection, port: int, count: int, connections: int, resume: bool) -> None:
    import uvloop

    _pin(1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_subscribers(pipe, port, count, connections, resume))


# --- the server ------------------------------------------------------------------------------------------------------


class _Bare:
    """The least that grpc.aio can do: one write of the same bytes per stream and change. For comparison (--bare)."""

    def __init__(self, log: Any) -> None:
        from federation.catalog.replica import Sink, Source

        self._source = Source(log, heartbeat_ms=10_000)
        self._source.receive(Sink().open().subscribe)
        self._snapshot = self._source.next_updates()
        self._frame = b""
        self._changed = asyncio.Event()
        self.streams = 0
        log.listen(self._next)

    def _next(self) -> None:
        (self._frame,) = self._source.next_updates()
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(self, _: Any, context: Any) -> None:
        self.streams += 1
        try:
            await context.read()
            for frame in self._snapshot:
                await context.write(frame)
            while True:
                await self._changed.wait()
                await context.write(self._frame)
        finally:
            self.streams -= 1

    def add_to(self, server: Any) -> None:
        import grpc

        handlers = {"Watch": grpc.stream_stream_rpc_method_handler(self.watch)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("federation.v1.Catalog", handlers),))

    def stop(self) -> None:
        """Nothing to say."""


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    import grpc

    from federation.catalog.replica import Log
    from federation.model.record import Key, Kind, Record, Version
    from federation.registry.watch import SERVER_OPTIONS, CatalogServicer, Offer

    log = Log(history=HISTORY)
    payload = os.urandom(200)

    def record(number: int, sequence: int) -> Record:
        key = Key("east", Kind.SERVICE, f"ns/{number}")
        return Record(key, Version(1, sequence), sequence.to_bytes(8, "big") + payload)

    log.reset_origin("east", Version(1, args.services), (record(n, n + 1) for n in range(args.services)))

    async def offer(_: Any) -> Offer:
        return Offer(log=log)

    servicer: Any = _Bare(log) if args.bare else CatalogServicer(offer=offer, heartbeat=10.0)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    servicer.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    loop = asyncio.get_running_loop()
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_client,
        args=(there, port, args.subscribers, args.connections or args.subscribers, not args.cold),
        daemon=True,
    )
    process.start()

    async def ask(*command: Any) -> Any:
        here.send(command)
        return await loop.run_in_executor(None, here.recv)

    try:
        gc.collect()
        empty = _rss()
        first = await ask("open")
        await asyncio.sleep(0.5)
        gc.collect()
        per_stream = (_rss() - empty) / args.subscribers
        latencies = []
        cpu = time.process_time()
        for change in range(args.changes):
            await asyncio.sleep(args.pause)
            begun = time.monotonic()
            log.put([record(change % max(1, args.services), args.services + change + 1)])
            latencies.append((await ask("wait", log.revision) - begun) * 1000)
        cpu = time.process_time() - cpu
        peak_before = _rss()
        storms = []
        peak = peak_before
        storm_cpu = []
        for _ in range(args.storms):
            await ask("close")
            deadline = time.monotonic() + 10
            while servicer.streams and time.monotonic() < deadline:  # noqa: ASYNC110 - it has no event for that
                await asyncio.sleep(0.01)
            cpu_before = time.process_time()
            storms.append(await ask("open"))
            storm_cpu.append(time.process_time() - cpu_before)
            peak = max(peak, _rss())
        here.send(("stop",))
    finally:
        servicer.stop()
        await server.stop(0.2)
        process.join(timeout=20)
        if process.is_alive():
            process.kill()
    ordered = sorted(latencies)
    return {
        "subscribers": args.subscribers,
        "connections": args.connections or args.subscribers,
        "services": args.services,
        "changes": args.changes,
        "last_ms": {
            "p50": statistics.median(ordered),
            "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
            "max": ordered[-1],
        },
        "cpu_us_per_write": cpu / (args.changes * args.subscribers) * 1e6,
        "bytes_per_stream": per_stream,
        "first_connect_s": first,
        "reconnect_s": storms,
        "reconnect_server_cpu_s": storm_cpu,
        "reconnect": "snapshots" if args.cold else "resumed",
        "storm_memory_ratio": peak / peak_before,
    }


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Run with command-line arguments; prints a table and one line of JSON, returns the figures."""
    parser = argparse.ArgumentParser(prog="bench fanout", description=__doc__)
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=0, help="0: one per subscriber")
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=40)
    parser.add_argument("--storms", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="reconnects ask for snapshots instead of resuming")
    parser.add_argument("--bare", action="store_true", help="a server that only writes: what grpc.aio itself costs")
    parser.add_argument("--pause", type=float, default=0.25, help="seconds between changes")
    parsed = parser.parse_args(args)
    import uvloop

    allowed = os.sched_getaffinity(0)
    _pin(0)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(_measure(parsed))
    finally:
        os.sched_setaffinity(0, allowed)
    last = figures["last_ms"]
    rows = [
        ("one change reaches the last subscriber, p50", f"{last['p50']:.1f} ms", "≤ 150 ms"),
        ("… p99", f"{last['p99']:.1f} ms", ""),
        ("memory per stream", f"{figures['bytes_per_stream'] / 1000:.1f} kB", "≤ 60 kB"),
        ("CPU per write", f"{figures['cpu_us_per_write']:.0f} µs", ""),
        ("all reconnect at once, slowest", f"{max(figures['reconnect_s'], default=0):.2f} s", "≤ 4 s"),
        ("… CPU of the server", f"{max(figures['reconnect_server_cpu_s'], default=0):.2f} s", ""),
        ("memory in the storm", f"{figures['storm_memory_ratio']:.2f} x", "< 2 x"),
    ]
    print(f"{figures['subscribers']} subscribers, {figures['connections']} connections, {figures['services']} records")
    for name, value, budget in rows:
        print(f"  {name:<46} {value:>10}   {budget}")
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
