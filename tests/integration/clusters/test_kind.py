"""The harness on real kind clusters: what is there is not touched, and what is broken is repaired."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from clusters.command import attempt
from clusters.faults import NotSupported
from clusters.kind import dump, engine
from clusters.kind.faults import FAULTS, STATE
from clusters.kind.harness import KindHarness
from clusters.kind.installation import LABEL
from clusters.kind.plan import Step
from clusters.pytest_plugin import Clusters
from clusters.waiting import START, until
from federation.errors import NotFound
from federation.model.ids import SYSTEM_NAMESPACE

pytestmark = pytest.mark.integration
PATIENCE = "4"
"""Seconds for which a node waits for another one's answer."""


async def reaches(clusters: Clusters, a: str, b: str) -> bool:
    """Whether a node of `a` gets an answer from the API server of `b`, at its node's address."""
    wants = await clusters.harness.wanted()
    (other,) = [n for n in await engine.nodes(cluster=wants[b].name) if n.name == wants[b].control_plane]
    url = f"https://{other.address}:6443/healthz"
    command = ("curl", "--silent", "--insecure", "--max-time", PATIENCE, url)
    done = await attempt("docker", "exec", wants[a].control_plane, *command)
    return done.text == "ok"


async def both_ways(clusters: Clusters, a: str, b: str) -> tuple[bool, bool]:
    there, back = await asyncio.gather(reaches(clusters, a, b), reaches(clusters, b, a))
    return there, back


async def connected(clusters: Clusters, a: str, b: str) -> None:
    """Wait until an answer comes either way: a busy machine may be slow with one."""

    async def answered() -> bool:
        return await both_ways(clusters, a, b) == (True, True)

    await until(answered, seconds=START, what=f"answers between {a} and {b}")


async def one_way(clusters: Clusters, a: str, b: str) -> None:
    """Wait until `a` has an answer of `b`; `b` has none of `a`."""
    await until(lambda: reaches(clusters, a, b), seconds=START, what=f"an answer of {b} for {a}")
    assert not await reaches(clusters, b, a)


# --- two clusters ----------------------------------------------------------------------------------------------------


@pytest.mark.clusters("two-kind")
async def test_they_are_what_the_topology_says(clusters: Clusters) -> None:
    wants = await clusters.harness.wanted()
    for spec in clusters.topology.clusters:
        async with clusters.connect(spec.name) as client:
            (node,) = await client.list("v1", "Node")
            service = await client.get("v1", "Service", "kubernetes", "default")
        labels, ranges = node["metadata"]["labels"], wants[spec.name].ranges
        assert labels["topology.kubernetes.io/region"] == spec.locality.region
        assert labels["topology.kubernetes.io/zone"] == spec.locality.zone
        assert node["spec"]["podCIDR"].startswith(str(ranges.pods).rpartition(".0.0/")[0])
        assert service["spec"]["clusterIP"].startswith(str(ranges.services).rpartition(".0.0/")[0])
    assert wants["east"].ranges == wants["west"].ranges


@pytest.mark.clusters("two-kind")
async def test_a_second_up_does_nothing(clusters: Clusters) -> None:
    before = await engine.nodes()
    assert await clusters.harness.up() == {"east": [], "west": []}
    assert await engine.nodes() == before


@pytest.mark.clusters("two-kind")
async def test_up_repairs_what_stopped_and_what_was_lost(clusters: Clusters) -> None:
    wants = await clusters.harness.wanted()
    east, west = (wants[name].control_plane for name in ("east", "west"))
    await engine.kill([east])
    await engine.pause([west])
    states = {one.want.cluster: one.state for one in await clusters.harness.status()}
    assert states == {"east": "stopped", "west": "paused"}
    clusters.kubeconfig("west").unlink()
    done = await clusters.harness.up()
    assert [step.verb for step in done["east"]] == ["start", "export", "wait"]
    assert [step.verb for step in done["west"]] == ["unpause", "export", "wait"]
    assert {one.state for one in await clusters.harness.status()} == {"ready"}


@pytest.mark.clusters("two-kind")
async def test_a_partition_one_way_and_full(clusters: Clusters) -> None:
    await connected(clusters, "east", "west")
    # Answers are packets, too: who sends into one direction only gets none.
    await clusters.faults.partition("east", "west", one_way=True)
    wants = await clusters.harness.wanted()
    rules = {n: await engine.execute(wants[n].control_plane, "iptables-save", "-t", "mangle") for n in wants}
    assert "ISTHMUS-FAULTS" in rules["west"]
    assert "ISTHMUS-FAULTS" not in rules["east"]
    assert await both_ways(clusters, "east", "west") == (False, False)
    await clusters.faults.partition("east", "west")
    assert await both_ways(clusters, "east", "west") == (False, False)
    # Another process of the harness undoes it: nothing has to be remembered.
    await type(clusters.faults)(clusters.harness).heal()
    await connected(clusters, "east", "west")


@pytest.mark.clusters("two-kind")
async def test_lost_packets_and_a_slow_network(clusters: Clusters) -> None:
    wants = await clusters.harness.wanted()
    node = wants["west"].control_plane
    await clusters.faults.drop("west", 1.0)
    assert not await reaches(clusters, "east", "west")
    async with clusters.connect("west") as client:  # this machine is not another cluster
        await client.list("v1", "Node")
    await clusters.faults.slow("west", rate=50_000)
    assert "qdisc tbf 1517:" in await engine.execute(node, "tc", "qdisc", "show", "dev", "eth0")
    await clusters.faults.heal()
    assert "1517:" not in await engine.execute(node, "tc", "qdisc", "show", "dev", "eth0")
    assert FAULTS.name not in await engine.execute(node, "iptables-save")
    await connected(clusters, "east", "west")


@pytest.mark.clusters("two-kind")
async def test_slow_makes_it_slow(clusters: Clusters) -> None:
    """A hundred kilobytes at ten a second: an answer that takes a few milliseconds otherwise takes seconds."""
    wants = await clusters.harness.wanted()
    (west,) = await engine.nodes(cluster=wants["west"].name)
    await engine.execute(west.name, "sh", "-c", "head -c 100000 /dev/zero >/tmp/slow")
    server = ["docker", "exec", west.name, "socat", "-u", "FILE:/tmp/slow", "TCP-LISTEN:7999,reuseaddr"]

    async def seconds() -> float:
        process = await asyncio.create_subprocess_exec(*server)
        try:
            client = f"exec 3<>/dev/tcp/{west.address}/7999 && cat <&3 | wc -c"
            told = await until(lambda: _read(wants["east"].control_plane, client), seconds=START, what="100 kB")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return float(told)

    fast = await seconds()
    await clusters.faults.slow("west", rate=20_000)
    assert await seconds() > max(3.0, fast)


async def _read(node: str, script: str) -> float:
    """The seconds in which all of it came; 0 while nobody listens."""
    began = time.monotonic()
    done = await attempt("docker", "exec", node, "bash", "-c", script)
    return time.monotonic() - began if done.text.strip() == "100000" else 0.0


@pytest.mark.clusters("two-kind")
async def test_what_makes_no_sense_says_why(clusters: Clusters) -> None:
    with pytest.raises(NotSupported, match="clock of their machine"):
        await clusters.faults.clock("east", 60)
    with pytest.raises(NotSupported, match="disk of a node is this machine's own"):
        await clusters.faults.disk_full("east")
    with pytest.raises(NotFound, match="no cluster north"):
        await clusters.faults.kill("north")
    with pytest.raises(NotFound, match="no gateway runs in east"):
        await clusters.faults.pause("east", "gateway")
    with pytest.raises(NotFound, match="east has no part worker7"):
        await clusters.faults.kill("east", "worker7")


@pytest.mark.clusters("two-kind")
async def test_faults_of_a_component(clusters: Clusters) -> None:
    """A container with our label: its disk fills, it stands still, it is killed; a heal lets it go on."""
    wants = await clusters.harness.wanted()
    node = wants["east"].control_plane
    # An image that every node has, and that does nothing.
    image = (await engine.execute(node, "sh", "-c", "crictl images | awk '/pause/ {print $1 \":\" $2}'")).split()[0]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stand-in", "namespace": SYSTEM_NAMESPACE, "labels": {LABEL: "gateway"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {"name": "it", "image": image, "volumeMounts": [{"name": "state", "mountPath": STATE}]},
            ],
            "volumes": [{"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
        },
    }
    inspected = "crictl inspect --output go-template --template '{{.info.pid}}' $(crictl ps --quiet --name ^it$)"
    inside = f"where=/proc/$({inspected})/root{STATE}"
    async with clusters.connect("east") as client:
        await client.create_namespace(SYSTEM_NAMESPACE)
        await client.apply(pod)
        try:

            async def state() -> dict[str, object]:
                found = await client.get("v1", "Pod", "stand-in", SYSTEM_NAMESPACE)
                return {"ready": False, "restartCount": 0, **(found["status"].get("containerStatuses") or [{}])[0]}

            async def ready() -> object:
                return (await state())["ready"]

            await until(ready, seconds=START, what="the pod")
            await clusters.faults.disk_full("east", "gateway")
            refused = await attempt("docker", "exec", node, "sh", "-c", f"{inside}; echo more >$where/file")
            assert refused.status != 0
            await clusters.faults.pause("east", "gateway")
            assert "PAUSED" in await engine.execute(node, "ctr", "-n", "k8s.io", "tasks", "list")
            await clusters.faults.heal()
            assert "PAUSED" not in await engine.execute(node, "ctr", "-n", "k8s.io", "tasks", "list")
            assert (await state())["restartCount"] == 0
            assert await engine.execute(node, "sh", "-c", f"{inside}; echo more >$where/file; ls -A $where") == "file\n"
            await clusters.faults.kill("east", "gateway")

            async def again() -> bool:
                return (await state())["restartCount"] == 1

            await until(again, seconds=START, what="the kubelet to start it again")
        finally:
            await client.remove_namespace(SYSTEM_NAMESPACE, kinds=[("v1", "Pod")])


@pytest.mark.clusters("two-kind", installed=True)
async def test_installed_joined_and_linked(clusters: Clusters) -> None:
    """There is nothing more to install; a gateway that is killed comes back, and `up` has nothing to do again."""
    assert await clusters.harness.install() == []

    async def starts() -> tuple[int, bool]:
        """How often its containers were started again, and whether its Deployment has what it wants."""
        async with clusters.connect("west") as client:
            pods = await client.list("v1", "Pod", SYSTEM_NAMESPACE, labelSelector=f"{LABEL}=gateway")
            status = (await client.get("apps/v1", "Deployment", "isthmus-gateway", SYSTEM_NAMESPACE))["status"]
        statuses = [one for pod in pods for one in pod["status"].get("containerStatuses", ())]
        whole = bool(statuses) and all(one["ready"] for one in statuses)
        return sum(one["restartCount"] for one in statuses), whole and status.get("readyReplicas", 0) >= 1

    before, _ = await starts()
    await clusters.faults.kill("west", "gateway")

    async def back() -> bool:
        count, whole = await starts()
        return count > before and whole

    await until(back, seconds=2 * START, what="the gateway to come back")
    assert await clusters.harness.install() == []


@pytest.mark.clusters("two-kind", installed=True)
async def test_a_dump_has_what_is_asked_for(clusters: Clusters, tmp_path: Path) -> None:
    """Objects, events, logs, what the nodes have, and each Envoy's configuration; nothing secret, nothing missing."""
    await dump.dump(clusters.harness, tmp_path)
    for name in ("east", "west"):
        found = {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*") if path.is_file()}
        assert {"objects.yaml", "events.txt", "serviceimports.yaml", "nodes.json"} <= found
        assert "missing.txt" not in found
        assert [one for one in found if one.startswith("logs/isthmus-system/isthmus-gateway")]
        assert [one for one in found if one.startswith("envoy/") and one.endswith(".config_dump")]
        assert [one for one in found if one.startswith("nodes/") and one.endswith("/iptables.txt")]
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())  # noqa: ASYNC240
    assert b"PRIVATE KEY" not in everything
    assert json.loads((tmp_path / "fedctl-status.json").read_bytes())


# --- behind NAT ------------------------------------------------------------------------------------------------------


@pytest.mark.clusters("nat-kind")
async def test_behind_nat(clusters: Clusters) -> None:
    await one_way(clusters, "edge", "east")
    wants = await clusters.harness.wanted()
    await engine.execute(wants["edge"].control_plane, "iptables", "-t", "mangle", "-F", "ISTHMUS-NAT")
    await until(lambda: reaches(clusters, "east", "edge"), seconds=START, what="an answer of edge for east")
    assert await clusters.harness.up() == {"east": [], "edge": [Step("guard")]}
    await one_way(clusters, "edge", "east")
    async with clusters.connect("edge") as client:
        await client.list("v1", "Node")


@pytest.mark.clusters("nat-kind")
async def test_a_flat_network(clusters: Clusters) -> None:
    """A pod of the edge gets an answer from a pod of east at the pod's own address, and only then."""
    flat = KindHarness(
        replace(clusters.topology, flat=True),
        prefix=clusters.harness.prefix,
        where=clusters.harness.folder.path.parent,
    )
    wants = await clusters.harness.wanted()
    assert not wants["east"].ranges.pods.overlaps(wants["edge"].ranges.pods)
    pid, url = await _dns_pod(wants["edge"].control_plane), await _dns_url(clusters, "east")

    async def reached() -> bool:
        command = ("nsenter", "--net", f"--target={pid}", "curl", "--silent", "--max-time", PATIENCE, url)
        return (await attempt("docker", "exec", wants["edge"].control_plane, *command)).text == "OK"

    assert not await reached()
    try:
        assert await flat.up() == {"east": [Step("flatten")], "edge": [Step("flatten")]}
        await until(reached, seconds=START, what="an answer of the pod at its own address")
        assert await flat.up() == {"east": [], "edge": []}
    finally:
        await flat.unflatten()
    assert not await reached()


async def _dns_pod(node: str) -> int:
    """A process of CoreDNS, which every cluster has, in the network of its pod."""
    inspect = "crictl inspect --output go-template --template '{{.info.pid}}'"
    script = f"{inspect} $(crictl ps --quiet --name ^coredns$ | head -n 1)"

    async def look() -> int:
        said = (await attempt("docker", "exec", node, "sh", "-c", script)).text.strip()
        return int(said) if said.isdigit() else 0

    return int(await until(look, seconds=START, what="CoreDNS"))


async def _dns_url(clusters: Clusters, cluster: str) -> str:
    async with clusters.connect(cluster) as client:
        pods = await client.list("v1", "Pod", "kube-system", labelSelector="k8s-app=kube-dns")
    return f"http://{pods[0]['status']['podIP']}:8181/ready"
