"""How long a change in one Kubernetes cluster takes to the other: two API servers, agents, gateways, sidecars, Envoys.

Each sample begins when the request that makes the change is sent. Beside it stands the floor: when a watch of nothing
but that kind at the changed API server has told the same change to this process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype
import msgspec

from clusters import manifests
from clusters.building import build
from clusters.ground import ApiServers
from clusters.names import timed_lookup
from clusters.processes import HTTP_PORT, NAMESPACE, Place, ProcessFederation
from clusters.progress import Progress
from clusters.propagation import Acknowledgements, Propagation, first_after
from clusters.topology import ClusterSpec, Topology
from clusters.waiting import DEADLINE, until
from discovery.kube.client import KubeClient
from discovery.kube.resources import ENDPOINT_SLICES, Resource, service_exports, service_imports
from discovery.kube.settings import KubernetesSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.errors import TimedOut
from federation.model.service import Locality

ORIGIN, CONSUMER = "west", "east"
TOPOLOGY = Topology.full_mesh(
    "bench.isthmus",
    ClusterSpec(name=CONSUMER, locality=Locality("eu", "eu-1")),
    ClusterSpec(name=ORIGIN, locality=Locality("eu", "eu-2")),
)
EXPORTS, IMPORTS = service_exports("v1beta1"), service_imports("v1beta1")
_SETTLE, _WRITTEN = 0.03, 0.5
"""Seconds between two changes, so that each begins from rest; after an import the rest of its objects is written."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--exported", type=int, default=1000, help="exported services per cluster of the federation")
    parser.add_argument("--used", type=int, default=200, help="of these in use by the sidecar that is measured")
    parser.add_argument("--slices", type=int, default=200, help="EndpointSlices changed per round")
    parser.add_argument("--answers", type=int, default=100, help="changes of DNS answers per round")
    parser.add_argument("--exports", type=int, default=50, help="ServiceExports created per round")
    parser.add_argument("--rounds", type=int, default=3)


def run(parsed: argparse.Namespace) -> dict[str, Any]:
    """Measure, print a table, return the figures (ms)."""
    figures = asyncio.run(_run(parsed))
    print(
        f"two clusters with an API server each, {parsed.exported} exported services in both, {parsed.used} in use (ms)"
    )
    print(f"  {'':<46} {'round':>5} {'n':>5} {'p50':>7} {'p99':>7} {'max':>8}   {'floor p50':>9} {'p99':>7}   budget")
    for what, rounds, budget in (
        ("EndpointSlice → Envoy's acknowledgement", figures["slice_to_ack"], "p50 15, p99 50"),
        ("EndpointSlice → answer of the sidecar's DNS", figures["slice_to_sidecar_dns"], "p99 50"),
        ("EndpointSlice → answer of the agent's DNS", figures["slice_to_agent_dns"], "p99 50"),
        ("ServiceExport → ServiceImport", figures["export_to_import"], "p99 250"),
    ):
        for number, one in enumerate([*rounds["rounds"], rounds["all"]], 1):
            name = "all" if number > len(rounds["rounds"]) else str(number)
            print(
                f"  {what if number == 1 else '':<46} {name:>5} {one['n']:>5} {one['p50']:>7.2f} {one['p99']:>7.2f} "
                f"{one['max']:>8.2f}   {one['floor']['p50']:>9.2f} {one['floor']['p99']:>7.2f}   "
                f"{budget if name == 'all' else ''}"
            )
    return figures


class Samples:
    """Pairs of a time and its floor (ms), by round."""

    def __init__(self) -> None:
        self._rounds: list[list[tuple[float, float]]] = []

    def begin(self) -> None:
        self._rounds.append([])

    def add(self, took: float, floor: float) -> None:
        self._rounds[-1].append((took, floor))

    def figures(self) -> dict[str, Any]:
        everything = [pair for one in self._rounds for pair in one]
        return {"rounds": [_figures(one) for one in self._rounds], "all": _figures(everything)}


def _figures(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    took, floor = (Propagation(tuple(column)) for column in zip(*pairs, strict=True))
    return {**took.as_dict(), "max": round(max(took.samples), 2), "floor": floor.as_dict()}


async def _run(parsed: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="isthmus-") as directory:
        ground = ApiServers(Path(directory) / "kube", TOPOLOGY.names)
        federation = ProcessFederation(TOPOLOGY, Path(directory), ground=ground)
        try:
            await build(federation, Progress(), timeout=120)
            return await _measure(parsed, federation, ground)
        finally:
            await asyncio.to_thread(federation.stop)


async def _measure(parsed: argparse.Namespace, federation: ProcessFederation, ground: ApiServers) -> dict[str, Any]:
    names = [f"s{number:05d}" for number in range(parsed.exported)]
    used = names[:: max(1, len(names) // parsed.used)][: parsed.used]
    late = [f"late{number:05d}" for number in range(parsed.exports * parsed.rounds)]
    began = time.monotonic()
    await _fill(federation, names, late)
    filled = time.monotonic() - began
    async with _open(ground, ORIGIN) as here, _open(ground, CONSUMER) as there:
        # echo and kv of `build`, the headless one, and what has just been filled in
        await until(lambda: _imported(there, len(names) + 3), seconds=600, what="a ServiceImport of every service")
        print(f"  filled in {filled:.0f} s, imported everywhere {time.monotonic() - began:.0f} s after the first write")
        caller = federation.places[CONSUMER]
        for service in used:
            await asyncio.to_thread(timed_lookup, caller.address, caller.dns_port, f"{service}.{NAMESPACE}.global")
        bench = Bench(federation, here, there)
        for _ in range(parsed.rounds):
            await bench.slices(used, parsed.slices)
            await bench.answers("sidecar", caller.dns_port, "headless.shop.global", "A", "headless", parsed.answers)
            await bench.answers("agent", caller.agent_dns_port, "_why.only.shop.global", "TXT", "only", parsed.answers)
            await bench.exports([late.pop() for _ in range(parsed.exports)])
        return {
            "services": parsed.exported,
            "used": len(used),
            "filled_s": round(filled, 1),
            "slice_to_ack": bench.acks.figures(),
            "slice_to_sidecar_dns": bench.dns["sidecar"].figures(),
            "slice_to_agent_dns": bench.dns["agent"].figures(),
            "export_to_import": bench.imports.figures(),
        }


def _slice(place: Place, service: str, *, copies: int) -> dict[str, Any]:
    """An EndpointSlice with `copies` ready endpoints; the first is real."""
    net = place.address.rsplit(".", 1)[0]
    addresses = [place.address, *(f"{net}.{250 - n}" for n in range(1, copies))]
    zone = place.spec.locality.zone
    made = [manifests.Copy(address=a, port=place.http_port, zone=zone, ready=copies > 0) for a in addresses]
    return manifests.slice_(NAMESPACE, service, app="http", copies=made)


async def _fill(federation: ProcessFederation, names: list[str], late: list[str]) -> None:
    """What is exported, in both clusters; `late` services of the origin are exported when they are measured."""
    for cluster in TOPOLOGY.names:
        place = federation.places[cluster]
        documents: list[dict[str, Any]] = []
        for name in [*names, *(["headless", "only", *late] if cluster == ORIGIN else [])]:
            service = manifests.service(NAMESPACE, name, port=HTTP_PORT, app="http")
            if name == "headless":
                service["spec"] = {**service["spec"], "clusterIP": "None"}  # type: ignore[dict-item]
            documents += [service, _slice(place, name, copies=1)]
            documents += [] if name in late else [manifests.export(NAMESPACE, name)]
        await federation.ground.write(cluster, *documents)


@asynccontextmanager
async def _open(ground: ApiServers, cluster: str) -> AsyncIterator[KubeClient]:
    settings = KubernetesSettings(kubeconfig=str(ground.clusters[cluster].kubeconfig))
    client = await KubeClient.open(settings, log=log.get("bench"), clock=SystemClock())
    try:
        yield client
    finally:
        await client.close()


async def _imported(client: KubeClient, wanted: int) -> bool:
    """Whether that many services have a ServiceImport that has all that it will have."""
    ready = 0
    async for page in client.pages(IMPORTS, namespace=NAMESPACE):
        for raw in page.items:
            one = msgspec.json.decode(raw)
            ready += one["spec"]["type"] == "Headless" or bool(one["spec"].get("ips") and one.get("status"))
    await asyncio.sleep(0.5)
    return ready >= wanted


class Watched:
    """When a watch of one kind told of each object (ns of the monotonic clock)."""

    def __init__(self, client: KubeClient, resource: Resource) -> None:
        self._client, self._resource = client, resource
        self._told: dict[str, list[int]] = {}
        self._news = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Watched]:
        version = ""
        async for page in self._client.pages(self._resource, namespace=NAMESPACE):
            version = page.resource_version
        task = asyncio.create_task(self._follow(version), name=f"watch-{self._resource.plural}")
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow(self, version: str) -> None:
        async for line in self._client.watch(
            self._resource, namespace=NAMESPACE, resource_version=version, timeout_seconds=3600
        ):
            now = time.monotonic_ns()
            if line:
                told = json.loads(line)
                self._told.setdefault(told["object"]["metadata"].get("name", ""), []).append(now)
                self._news.set()

    async def after(self, name: str, began: int) -> int:
        """When it first told of `name` after `began`, awaited. Raises TimedOut."""
        try:
            async with asyncio.timeout(DEADLINE):
                while not (found := [moment for moment in self._told.get(name, ()) if moment > began]):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise TimedOut(f"no watch told of {self._resource.kind} {name} within {DEADLINE:g} s") from error
        return found[0]


class Bench:
    """The measurements, one round each call."""

    def __init__(self, federation: ProcessFederation, here: KubeClient, there: KubeClient) -> None:
        """`here` is the cluster in which things change, `there` the one in which that is seen."""
        self._federation, self._here, self._there = federation, here, there
        self._origin = federation.places[ORIGIN]
        self._consumer = federation.places[CONSUMER]
        self._turn = 0
        self.acks, self.imports = Samples(), Samples()
        self.dns = {"sidecar": Samples(), "agent": Samples()}

    async def slices(self, services: Sequence[str], changes: int) -> None:
        """A second endpoint of one of `services` comes or goes, to the acknowledgement of the consumer's Envoy."""
        self.acks.begin()
        acknowledged = Acknowledgements(self._federation.running[f"{CONSUMER}-sidecar"].log)
        try:
            async with Watched(self._here, ENDPOINT_SLICES).running() as floor:
                for _ in range(changes):
                    turn, index = divmod(self._turn, len(services))
                    self._turn += 1
                    service = services[index]
                    body = msgspec.json.encode(_slice(self._origin, service, copies=1 if turn % 2 else 2))
                    acknowledged.read()
                    began = await self._replace(service, body)
                    acked = await first_after(acknowledged, began)
                    told = await floor.after(f"{service}-1", began)
                    self.acks.add((acked - began) / 1e6, (told - began) / 1e6)
        finally:
            acknowledged.close()

    async def answers(self, who: str, port: int, name: str, kind: str, service: str, changes: int) -> None:
        """The only endpoint of `service` becomes ready or unready, to another answer for `name` of `who`'s DNS."""
        self.dns[who].begin()
        async with Watched(self._here, ENDPOINT_SLICES).running() as floor:
            for number in range(changes):
                body = msgspec.json.encode(_slice(self._origin, service, copies=number % 2))
                polled = asyncio.create_task(
                    asyncio.to_thread(changed_at, self._consumer.address, port, name, kind), name="poll"
                )
                await asyncio.sleep(_SETTLE)
                began = await self._replace(service, body)
                answered, told = await polled, await floor.after(f"{service}-1", began)
                self.dns[who].add((answered - began) / 1e6, (told - began) / 1e6)

    async def exports(self, services: Sequence[str]) -> None:
        """A ServiceExport of one of `services`, to its ServiceImport in the other cluster, as a watch there tells."""
        self.imports.begin()
        async with Watched(self._here, EXPORTS).running() as floor, Watched(self._there, IMPORTS).running() as imports:
            for service in services:
                body = msgspec.json.encode(manifests.export(NAMESPACE, service))
                began = time.monotonic_ns()
                await self._here.create(EXPORTS, NAMESPACE, body)
                imported, told = await imports.after(service, began), await floor.after(service, began)
                self.imports.add((imported - began) / 1e6, (told - began) / 1e6)
                await asyncio.sleep(_WRITTEN)

    async def _replace(self, service: str, body: bytes) -> int:
        """Write the EndpointSlice; the moment at which the request was sent."""
        began = time.monotonic_ns()
        await self._here.update(ENDPOINT_SLICES, NAMESPACE, f"{service}-1", body)
        return began


def changed_at(server: str, port: int, name: str, kind: str) -> int:
    """Asks all the time; when the answer was first another than now (ns of the monotonic clock). Raises TimedOut."""
    query = dns.message.make_query(name, kind).to_wire()
    deadline = time.monotonic() + DEADLINE
    first = None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((server, port))
        while time.monotonic() < deadline:
            client.send(query)
            reply = client.recv(4096)
            now = time.monotonic_ns()
            found = sorted(item.to_text() for rrset in dns.message.from_wire(reply).answer for item in rrset)
            if first is None:
                first = found
            if found != first:
                return now
            time.sleep(0.0005)
    raise TimedOut(f"the answer for {name} stayed {first} for {DEADLINE:g} s")
