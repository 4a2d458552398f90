"""From a check that turns in Consul to the acknowledgement by another cluster's Envoy, all processes real.

One cluster is a Consul datacenter, the other has a sidecar that uses some of its services. Each sample begins when the
agent of Consul is told of the check. Beside it stands the floor: when a blocking query of nothing but that service has
told the same change to this process. Budget: p99 at most 100 ms over that.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusters.building import build
from clusters.consulclient import ConsulClient, check, node, service
from clusters.consulground import EXPORT, NEVER, WithConsul
from clusters.ground import Folders
from clusters.names import timed_lookup
from clusters.processes import HTTP_PORT, NAMESPACE, ProcessFederation
from clusters.progress import Progress
from clusters.propagation import Acknowledgements, Propagation, first_after
from clusters.topology import DC1, EAST, Topology
from clusters.waiting import until
from federation.errors import Unavailable

ORIGIN, CONSUMER = DC1.name, EAST.name
TOPOLOGY = Topology.full_mesh("bench.isthmus", EAST, DC1)
NODE = "bench"
"""The node, without an agent, of the services that nobody uses."""
_SETTLE = 0.03
"""Seconds between two changes, so that each begins from rest."""
_AT_ONCE = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--exported", type=int, default=1000, help="exported services of the datacenter")
    parser.add_argument("--used", type=int, default=200, help="of these in use by the sidecar that is measured")
    parser.add_argument("--checks", type=int, default=200, help="checks that turn critical, or pass again, per round")
    parser.add_argument("--rounds", type=int, default=3)


def run(parsed: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table, return the figures (ms)."""
    rounds = asyncio.run(_run(parsed))
    print(f"a datacenter with {parsed.exported} exported services, {parsed.used} in use by another cluster (ms)")
    columns = ("all of it", "Consul alone", "over it")
    print(f"  {'round':>5} {'n':>5}" + "".join(f"   {name + ' p50':>16} {'p99':>7} {'max':>7}" for name in columns))
    every = [sample for one in rounds for sample in one]
    for number, one in enumerate([*rounds, every], 1):
        row = f"  {'all' if number > len(rounds) else number:>5} {len(one):>5}"
        for figure in _figures(one).values():
            row += f"   {figure['p50']:>16.2f} {figure['p99']:>7.2f} {figure['max']:>7.2f}"
        print(row + ("   budget: p99 100 over it" if number > len(rounds) else ""))
    return {
        "exported": parsed.exported,
        "used": parsed.used,
        "rounds": [_figures(one) for one in rounds],
        "all": _figures(every),
    }


Sample = tuple[float, float]
"""Milliseconds to the acknowledgement, and to the answer of the bare query."""


def _figures(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    columns = {
        "ack": [ack for ack, _ in samples],
        "floor": [told for _, told in samples],
        "over": [ack - told for ack, told in samples],
    }
    return {k: {**Propagation(tuple(v)).as_dict(), "max": round(max(v), 2)} for k, v in columns.items()}


async def _run(parsed: argparse.Namespace) -> list[list[Sample]]:
    with tempfile.TemporaryDirectory(prefix="isthmus-") as directory:
        folders = Folders(lambda cluster: federation.places[cluster].manifests)
        ground = WithConsul(folders, Path(directory) / "consul", TOPOLOGY.datacenters, namespace=NAMESPACE)
        federation = ProcessFederation(TOPOLOGY, Path(directory), ground=ground)
        try:
            await build(federation, Progress(), timeout=120)
            async with ground.datacenters[ORIGIN].connect() as client:
                return await _measure(parsed, federation, client)
        finally:
            await asyncio.to_thread(federation.stop)


async def _measure(
    parsed: argparse.Namespace, federation: ProcessFederation, client: ConsulClient
) -> list[list[Sample]]:
    names = [f"s{number:05d}" for number in range(parsed.exported)]
    used = names[:: max(1, len(names) // parsed.used)][: parsed.used]
    began = time.monotonic()
    await _fill(client, federation, used, sorted(set(names) - set(used)))
    caller = federation.places[CONSUMER]
    for one in used:
        name = f"{one}.{NAMESPACE}.global"
        await until(lambda name=name: _found(caller.address, caller.dns_port, name), seconds=120, what=name)
    print(f"  filled in and looked up in {time.monotonic() - began:.0f} s")
    acknowledged = Acknowledgements(federation.running[f"{CONSUMER}-sidecar"].log)
    rounds: list[list[Sample]] = []
    turn = 0
    try:
        for _ in range(parsed.rounds):
            samples: list[Sample] = []
            for _ in range(parsed.checks):
                again, index = divmod(turn, len(used))
                turn += 1
                status = "passing" if again % 2 else "critical"
                samples.append(await _sample(client, acknowledged, used[index], status))
            rounds.append(samples)
    finally:
        acknowledged.close()
    return rounds


async def _found(address: str, port: int, name: str) -> bool:
    try:
        await asyncio.to_thread(timed_lookup, address, port, name)
    except Unavailable:
        await asyncio.sleep(0.1)
        return False
    return True


async def _sample(client: ConsulClient, acknowledged: Acknowledgements, name: str, status: str) -> Sample:
    """The check of the second instance of a service turns."""
    path = f"/v1/health/service/{name}"
    index = (await client.request("GET", path)).index
    telling = asyncio.create_task(_told(client, path, index, status), name="floor")
    await asyncio.sleep(_SETTLE)
    acknowledged.read()
    began = time.monotonic_ns()
    await client.set_check(f"{name}-1-up", status)
    acked, told = await first_after(acknowledged, began), await telling
    return (acked - began) / 1e6, (told - began) / 1e6


async def _told(client: ConsulClient, path: str, index: int, status: str) -> int:
    """When a blocking query first answers with the status (ns of the monotonic clock)."""
    while True:
        answer = await client.block(path, index)
        moment, index = time.monotonic_ns(), answer.index
        if status in {
            one["Status"] for entry in answer.body for one in entry["Checks"] if one["CheckID"].endswith("-1-up")
        }:
            return moment


async def _fill(
    client: ConsulClient, federation: ProcessFederation, used: Sequence[str], others: Sequence[str]
) -> None:
    """Two instances of each service, one of which answers; those in use are registered at an agent of Consul."""
    place = federation.places[ORIGIN]
    spare = f"{place.address.rsplit('.', 1)[0]}.254"
    meta = {**EXPORT, "isthmus-protocol": "http", "isthmus-service-port": str(HTTP_PORT)}
    rest = [
        operation
        for name in others
        for number, address in enumerate((place.address, spare))
        for operation in (
            service(NODE, name, port=place.http_port, ID=f"{name}-{number}", Address=address, Meta=meta),
            check(NODE, f"{name}-{number}", "passing"),
        )
    ]
    await client.transact([node(NODE, spare), *rest])
    waiting = iter([(name, *one) for name in used for one in enumerate((place.address, spare))])

    async def work() -> None:
        for name, number, address in waiting:
            await client.register(
                name,
                port=place.http_port,
                ID=f"{name}-{number}",
                Address=address,
                Meta=meta,
                Check={"CheckID": f"{name}-{number}-up", "TTL": NEVER, "Status": "passing"},
            )

    async with asyncio.TaskGroup() as tasks:
        for number in range(_AT_ONCE):
            tasks.create_task(work(), name=f"fill-{number}")
