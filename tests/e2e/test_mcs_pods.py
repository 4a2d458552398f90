"""What the conformance suite of the Multi-Cluster Services API asks of calls and names, between real Pods.

Pods that nobody touched ask their cluster's CoreDNS, and their calls are led by kube-proxy. docs/conformance says which
behaviour is held here, and which on API servers without Pods (test_mcs_conformance.py). As in the suite, east exports
first. Services with a ClusterSetIP are called through gateways, from each of two clusters with the same pod ranges; a
headless one from a cluster behind NAT, on a flat network.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from clusters.kind.harness import KindHarness
from clusters.kind.operator import Operator
from clusters.kind.requester import Requester
from clusters.kind.shop import LISTEN, MCS, PODS, Shop, pod_spec, workload
from clusters.kubeclient import Object
from clusters.pytest_plugin import Clusters
from clusters.waiting import START, until
from federation.errors import TimedOut

pytestmark = pytest.mark.e2e

EAST, WEST, EDGE = "east", "west", "edge"
PORT = 42
TCP = {"name": "tcp", "port": PORT, "protocol": "TCP", "targetPort": LISTEN}
UDP = {"name": "udp", "port": PORT, "protocol": "UDP", "targetPort": LISTEN}
TIMES = 10
"""Calls in a row that have to be answered by the same cluster, as in the suite."""
SLOW = "timed out"
"""What an error says of a call that was let hang, and not refused."""


def service(shop: Shop, name: str, *ports: Object, app: str = "hello", **spec: Any) -> Object:
    """With the session affinity of the suite's services."""
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}}}
    given = {"selector": {"app": app}, "ports": list(ports or (TCP, UDP)), **affinity, **spec}
    metadata = {"name": name, "namespace": shop.namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": given}


def export(shop: Shop, name: str) -> Object:
    return {"apiVersion": MCS, "kind": "ServiceExport", "metadata": {"name": name, "namespace": shop.namespace}}


def pods(shop: Shop, kind: str, name: str, greeting: str, *, replicas: int = 1, **spec: Any) -> Object:
    """They answer with `greeting`, TCP and UDP; `$(POD)` in it is the pod's name."""
    words = ["clusters.workloads", "tcp+udp", "--cluster", greeting, "--address", "0.0.0.0", "--port", str(LISTEN)]
    made = workload("hello", words)
    made["env"] = [*made["env"], {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    made["readinessProbe"] = {"tcpSocket": {"port": LISTEN}, "periodSeconds": 1, "timeoutSeconds": 10}
    template = {"metadata": {"labels": {"app": name}}, "spec": pod_spec(made)}
    given = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template, **spec}
    metadata = {"name": name, "namespace": shop.namespace}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": given}


def _asking(
    group: asyncio.TaskGroup, stack: AsyncExitStack, shop: Shop, *clusters: str
) -> list[asyncio.Task[Requester]]:
    """Pods that ask and call, until the `stack` is left."""
    return [
        group.create_task(stack.enter_async_context(shop.requester(cluster)), name=f"requester-{cluster}")
        for cluster in clusters
    ]


async def ready(shop: Shop, cluster: str, kind: str, name: str, replicas: int) -> None:
    async with shop.connect(cluster) as client:

        async def there() -> bool:
            status = (await client.get("apps/v1", kind, name, shop.namespace)).get("status", {})
            return bool(status.get("readyReplicas", 0) == status.get("replicas", 0) == replicas)

        await client.until(there, timeout=PODS, what=f"{replicas} pods of {name} in {cluster}")


async def imported(shop: Shop, cluster: str, name: str) -> Object:
    """The ServiceImport, once its address or its type says how it is reached."""
    async with shop.connect(cluster) as client:

        async def found() -> Object | None:
            one: Object = await client.get(MCS, "ServiceImport", name, shop.namespace)
            return one if one["spec"].get("ips") or one["spec"]["type"] == "Headless" else None

        seen: Object = await client.until(found, timeout=START, what=f"the import {name} in {cluster}")
    return seen


async def _not_yet() -> bool:
    """Each look costs a pod, an API server and a kubelet something."""
    await asyncio.sleep(0.1)
    return False


async def named(one: Requester, host: str, wanted: Sequence[str], kind: str = "A") -> None:
    """Wait until the pod's DNS answers `host` with `wanted`; of SRV records the port and the target count."""
    said: list[str] | None = None

    async def same() -> bool:
        nonlocal said
        said = await one.lookup(host, kind)
        if said is not None and kind == "SRV":
            said = sorted(" ".join(text.split()[2:]) for text in said)
        return said == sorted(wanted) or await _not_yet()

    try:
        await until(same, seconds=START, what=f"{kind} {wanted} of {host} in {one.cluster}")
    except TimedOut as error:
        raise TimedOut(f"{error.message}, where it is {said}") from error


async def steady(one: Requester, host: str, port: int, who: str, *, protocol: str = "tcp") -> None:
    """Wait for an answer of `who`; then `TIMES` calls in a row are answered by it."""

    async def begun() -> bool:
        return await one.answered(host, port, protocol=protocol) == [who] or await _not_yet()

    await until(begun, seconds=START, what=f"an answer of {who} to {host}:{port} in {one.cluster}")
    assert await one.answered(host, port, protocol=protocol, times=TIMES) == [who] * TIMES, (one.cluster, host)


async def refused(one: Requester, host: str, port: int, *, protocol: str = "tcp") -> None:
    """Wait until a call fails; then all fail, and none hangs. A kernel sends few refusals of UDP at once."""

    async def begun() -> bool:
        return await one.answered(host, port, protocol=protocol) == [""] or await _not_yet()

    await until(begun, seconds=START, what=f"the end of answers of {host}:{port} in {one.cluster}")
    told = await one.call(host, port, protocol=protocol, times=2 if protocol == "udp" else TIMES)
    assert [answer for answer in told if not answer.error or SLOW in answer.error] == [], (one.cluster, host)


@pytest.mark.clusters("two-kind", installed=True)
async def test_calls_and_names_of_services_with_an_address(shop: Shop, operator: Operator) -> None:
    moved, split = {**TCP, "port": 4242}, {**TCP, "port": 4242, "name": "tcp2"}
    in_east = {"far": (), "one": (), "both": (), "moved": (), "split": (), "none": ()}
    in_west = {"both": (), "moved": (moved,), "split": (split,)}
    async with AsyncExitStack() as stack:
        # 1. pods that answer in both clusters, and one in each that asks
        async with asyncio.TaskGroup() as group:
            for cluster in (EAST, WEST):
                group.create_task(_hello(shop, cluster), name=f"hello-{cluster}")
            group.create_task(operator.serve_names(EAST, WEST), name="names")
            asking = _asking(group, stack, shop, EAST, WEST)
        both = east, west = [task.result() for task in asking]

        # 2. east has services of which it exports all but one; then west, some with other ports, and one unexported
        async with shop.connect(EAST) as client:
            await client.apply(service(shop, "kept"))
            for name, ports in in_east.items():
                app = "nobody" if name == "none" else "hello"
                await client.apply(service(shop, name, *ports, app=app), export(shop, name))
        found = {(one.cluster, name): await imported(shop, one.cluster, name) for one in both for name in in_east}
        async with shop.connect(WEST) as client:
            await client.apply(service(shop, "one"))
            for name, ports in in_west.items():
                await client.apply(service(shop, name, *ports), export(shop, name))

        # 3. names: the address of the ServiceImport, one SRV record, and cluster.local is each cluster's own
        for one in both:
            for name in in_east:
                await named(one, shop.clusterset(name), found[one.cluster, name]["spec"]["ips"])
            host = shop.clusterset("far")
            await named(one, host, [f"{PORT} {host}."], "SRV")
        async with shop.connect(EAST) as client:
            own = (await client.get("v1", "Service", "far", shop.namespace))["spec"]["clusterIP"]
        local = f"far.{shop.namespace}.svc.cluster.local"
        await named(east, local, [own])
        await named(west, local, [])

        # 4. who exports is called, from both clusters: the only one, the exporting one of two, and of two the own one
        for one in both:
            await steady(one, shop.clusterset("far"), PORT, EAST)
            await steady(one, shop.clusterset("one"), PORT, EAST)
            await steady(one, shop.clusterset("both"), PORT, one.cluster)

        # 5. a port leads to who has its number, whether the ports have one name or two
        for one in both:
            await steady(one, shop.clusterset("moved"), PORT, EAST)
            await steady(one, shop.clusterset("split"), PORT, EAST)
            await steady(one, shop.clusterset("split"), 4242, WEST)

        # 6. gateways carry TCP: calls by UDP are refused, and so are those of a service without endpoints
        for one in both:
            await refused(one, shop.clusterset("far"), PORT, protocol="udp")
            await refused(one, shop.clusterset("none"), PORT)
        assert "UDP" in (await shop.condition(EAST, "far", "Valid"))[2]

        # 7. what is no longer exported has neither name nor answer; what west still exports answers both
        await shop.unexport(EAST, "far")
        await shop.unexport(EAST, "both")
        for one in both:
            await named(one, shop.clusterset("far"), [])
            await shop.imported(one.cluster, "far", wanted=False)
            assert await one.answered(shop.clusterset("far"), PORT) == [""]
            await steady(one, shop.clusterset("both"), PORT, WEST)

        # 8. all the while nobody has heard of what was never exported
        for one in both:
            await named(one, shop.clusterset("kept"), [])
            assert await one.answered(shop.clusterset("kept"), PORT, times=TIMES) == [""] * TIMES


async def _hello(shop: Shop, cluster: str) -> None:
    async with shop.connect(cluster) as client:
        await client.apply(pods(shop, "Deployment", "hello", cluster))
    await ready(shop, cluster, "Deployment", "hello", 1)


# --- headless --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def flat(clusters: Clusters, operator: Operator) -> AsyncIterator[None]:
    """Pods reach the pods of the other cluster, and the agents are told so, until the test ends."""
    names, harness = clusters.topology.names, clusters.harness
    routed = KindHarness(replace(clusters.topology, flat=True), prefix=harness.prefix, where=harness.folder.path.parent)
    try:
        await routed.up()
        await asyncio.gather(*(_network(operator, name, "flat") for name in names))
        yield
    finally:
        await asyncio.gather(*(_network(operator, name, '""') for name in names))
        await routed.unflatten()


async def _network(operator: Operator, cluster: str, network: str) -> None:
    words = ("install", "agent", *await operator.place(cluster), "--set", f"agent.settings.network={network}", "--wait")
    await operator.ok(*words, seconds=PODS)


@pytest.mark.clusters("nat-kind", installed=True)
@pytest.mark.usefixtures("flat")
async def test_names_of_headless_services_are_pods_that_are_called(shop: Shop, operator: Operator) -> None:
    plain, stateful = ("plain", "Deployment"), ("hello", "StatefulSet")
    ports = [{**port, "port": LISTEN} for port in (TCP, UDP)]
    async with AsyncExitStack() as stack:
        # 1. pods with names and pods without in east, two of each, and one in each cluster that asks
        async with shop.connect(EAST) as client:
            for name, kind in (plain, stateful):
                more = {"serviceName": name, "podManagementPolicy": "Parallel"} if kind == "StatefulSet" else {}
                await client.apply(
                    service(shop, name, *ports, app=name, clusterIP="None"),
                    export(shop, name),
                    pods(shop, kind, name, "$(POD)", replicas=2, **more),
                )
        async with asyncio.TaskGroup() as group:
            for name, kind in (plain, stateful):
                group.create_task(ready(shop, EAST, kind, name, 2), name=f"ready-{name}")
            group.create_task(operator.serve_names(EAST, EDGE), name="names")
            asking = _asking(group, stack, shop, EAST, EDGE)
        both = [task.result() for task in asking]
        at = {name: await _pods(shop, name) for name, _ in (plain, stateful)}

        # 2. imports of their type; a name is the addresses of all its pods, with a SRV record for each
        for one in both:
            for name, addresses in at.items():
                assert (await imported(shop, one.cluster, name))["spec"]["type"] == "Headless"
                await named(one, shop.clusterset(name), list(addresses.values()))
            host = shop.clusterset("plain")
            dashed = [address.replace(".", "-") for address in at["plain"].values()]
            await named(one, host, [f"{LISTEN} {name}.{EAST}.{host}." for name in dashed], "SRV")

        # 3. each pod of the StatefulSet has a name of its own, by which it is called, TCP and UDP
        for one in both:
            for pod, address in at["hello"].items():
                host = f"{pod}.{EAST}.{shop.clusterset('hello')}"
                await named(one, host, [address])
                await steady(one, host, LISTEN, pod)
                await steady(one, host, LISTEN, pod, protocol="udp")
            assert set(await one.answered(shop.clusterset("plain"), LISTEN, times=TIMES)) <= set(at["plain"])

        # 4. a pod that goes takes its address and its name along; what is not exported any more has none
        await _fewer(shop, "hello")
        await shop.unexport(EAST, "plain")
        for one in both:
            await named(one, shop.clusterset("hello"), [at["hello"]["hello-0"]])
            await named(one, f"hello-1.{EAST}.{shop.clusterset('hello')}", [])
            await named(one, shop.clusterset("plain"), [])
            await shop.imported(one.cluster, "plain", wanted=False)


async def _pods(shop: Shop, app: str) -> dict[str, str]:
    """The addresses of the pods in east, by name."""
    async with shop.connect(EAST) as client:
        found = await client.list("v1", "Pod", shop.namespace, labelSelector=f"app={app}")
    return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in found}


async def _fewer(shop: Shop, name: str) -> None:
    """One pod instead of two: the last one goes."""
    async with shop.connect(EAST) as client:
        await client.patch("apps/v1", "StatefulSet", name, shop.namespace, merge={"spec": {"replicas": 1}})
