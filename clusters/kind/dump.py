"""What stands, what it says, and all that can be known of it in one folder.

Everything is asked of the nodes, as root and with the tools that they have: it works while an API server is down, and
needs no kubectl here. Secrets are not read.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusters.command import attempt
from clusters.kind import engine
from clusters.kind.config import Wanted
from clusters.kind.engine import Node
from clusters.kind.folder import base
from clusters.kind.harness import KindHarness
from clusters.kind.installation import COMPONENTS
from federation.errors import InvalidInput, IsthmusError, NotFound, StorageFailed
from federation.model.ids import SYSTEM_NAMESPACE

NODE = "node"
"""Stands for what a node itself says: its kubelet and its containerd."""

KUBECTL = ("kubectl", "--kubeconfig=/etc/kubernetes/admin.conf")
PART = "app.kubernetes.io/part-of=isthmus"

_KINDS = (
    "nodes,namespaces,pods,services,endpointslices,deployments,statefulsets,daemonsets,poddisruptionbudgets,"
    "networkpolicies,leases,configmaps,serviceaccounts,persistentvolumeclaims,mutatingwebhookconfigurations"
)
_CUSTOM = ("serviceexports", "serviceimports", "clusterproperties")
_ADMIN = """
for id in $(crictl ps --quiet); do
  pid=$(crictl inspect --output go-template --template '{{.info.pid}}' "$id")
  for socket in $(find "/proc/$pid/root/var/lib/isthmus" "/proc/$pid/root/tmp" -type s -name '*admin*.sock' 2>/dev/null)
  do echo "$id $socket"; done
done
"""
"""Prints a container and the admin socket of the Envoy in it, for each."""


async def topologies(prefix: str, where: Path | None = None) -> list[str]:
    """Those of which there are nodes or files."""
    found = {mark for node in await engine.nodes() for mark in node.marks}
    folder = where or base()
    if folder.is_dir():
        found |= {path.name for path in folder.iterdir() if path.is_dir()}
    return sorted(name.removeprefix(f"{prefix}.") for name in found if name.startswith(f"{prefix}."))


async def logs(harness: KindHarness, cluster: str = "", component: str = "", *, tail: int = 200) -> None:
    """Print what the components of a cluster, or of each, have said last, or its nodes. Raises NotFound."""
    if component not in ("", NODE, *COMPONENTS):
        raise InvalidInput(f"there is no component {component}", hint=f"one of {', '.join((*COMPONENTS, NODE))}")
    wants = await harness.wanted()
    if cluster and cluster not in wants:
        raise NotFound(f"there is no cluster {cluster}", hint=f"one of {', '.join(wants)}", code="no_cluster")
    for name in [cluster] if cluster else list(wants):
        nodes = [node for node in await engine.nodes(cluster=wants[name].name) if node.state == "running"]
        if not nodes:
            print(f"{name}: no node runs (`python -m clusters up` starts it)", file=sys.stderr)
            continue
        if component == NODE:
            for node in nodes:
                print(await engine.execute(node.name, *_journal(tail)), end="")
            continue
        selector = PART + f",app.kubernetes.io/component={component}" * bool(component)
        words = (
            "logs",
            f"--namespace={SYSTEM_NAMESPACE}",
            f"--selector={selector}",
            f"--tail={tail}",
            "--all-containers",
        )
        said = await engine.execute(wants[name].control_plane, *KUBECTL, *words, "--prefix", "--max-log-requests=64")
        print(said, end="")
        if not said:
            print(f"{name}: no {component or 'component'} of isthmus runs there, or it says nothing", file=sys.stderr)


def _journal(tail: int) -> tuple[str, ...]:
    return "journalctl", "--no-pager", f"--lines={tail}", "--unit=kubelet", "--unit=containerd"


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of a dump, and the command in a node that prints it."""

    file: str
    node: str
    command: Sequence[str]


async def dump(harness: KindHarness, folder: Path) -> Path:
    """Write all of it below `folder`: a folder per cluster, and what could not be had in its `missing.txt`.

    Raises StorageFailed, and Unavailable where Docker does not answer.
    """
    wants = await harness.wanted()
    everything = await engine.nodes()
    for name, want in wants.items():
        harness.say(f"{name}: dumping …")
        await _dump_cluster(want, [n for n in everything if n.cluster == want.name], folder / name)
    if harness.folder.home.exists():
        fedctl = Path(sys.executable).with_name("fedctl")
        done = await attempt(fedctl, "--home", harness.folder.home, "status", "-o", "json")
        _write(folder / "fedctl-status.json", done.out or done.err.encode())
    return folder


async def _dump_cluster(want: Wanted, nodes: Sequence[Node], folder: Path) -> None:
    missing: list[str] = []
    told = [{"name": n.name, "state": n.state, "address": n.address, "marks": list(n.marks)} for n in nodes]
    _write(folder / "nodes.json", json.dumps(told, indent=2).encode())
    running = [node for node in nodes if node.state == "running"]
    missing += [f"{node.name} is {node.state}" for node in nodes if node.state != "running"]
    pieces = [piece for node in running for piece in _of_node(node)]
    if any(node.name == want.control_plane for node in running):
        pieces += _of_cluster(want.control_plane)
        pieces += [piece async for piece in _of_pods(want.control_plane, missing)]
    pieces += [piece async for piece in _of_envoys(running, missing)]
    limit = asyncio.Semaphore(4)

    async def bring(piece: Piece) -> None:
        async with limit:
            try:
                said = await engine.execute(piece.node, *piece.command)
            except IsthmusError as error:
                missing.append(f"{piece.file}: {error.message}")
            else:
                _write(folder / piece.file, said.encode())

    async with asyncio.TaskGroup() as tasks:
        for piece in pieces:
            tasks.create_task(bring(piece), name=f"dump-{piece.file}")
    if missing:
        _write(folder / "missing.txt", "\n".join([*missing, ""]).encode())


def _of_node(node: Node) -> Iterable[Piece]:
    for file, command in (
        ("journal.txt", _journal(5000)),
        ("containers.txt", ("crictl", "ps", "--all")),
        ("images.txt", ("crictl", "images", "--digests")),
        ("iptables.txt", ("iptables-save",)),
        ("network.txt", ("sh", "-c", "ip address; ip route; tc qdisc show")),
        ("disk.txt", ("df", "-h")),
    ):
        yield Piece(f"nodes/{node.name}/{file}", node.name, command)


def _of_cluster(node: str) -> Iterable[Piece]:
    yield Piece("objects.yaml", node, (*KUBECTL, "get", _KINDS, "--all-namespaces", "--output=yaml"))
    for kind in _CUSTOM:
        yield Piece(f"{kind}.yaml", node, (*KUBECTL, "get", kind, "--all-namespaces", "--output=yaml"))
    wide = ("--all-namespaces", "--output=wide")
    yield Piece("events.txt", node, (*KUBECTL, "get", "events", "--sort-by=.lastTimestamp", *wide))
    yield Piece("pods.txt", node, (*KUBECTL, "get", "pods", *wide))


async def _of_pods(node: str, missing: list[str]) -> AsyncIterator[Piece]:
    """The logs of every container that has one, and of the one before where it was started again."""
    try:
        tree = json.loads(await engine.execute(node, *KUBECTL, "get", "pods", "--all-namespaces", "--output=json"))
    except IsthmusError as error:
        missing.append(f"pods: {error.message}")
        return
    for pod in tree["items"]:
        space, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        status = pod["status"]
        for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
            words = ("logs", f"--namespace={space}", name, f"--container={one['name']}", "--tail=20000")
            yield Piece(f"logs/{space}/{name}.{one['name']}.log", node, (*KUBECTL, *words))
            if one.get("restartCount"):
                yield Piece(f"logs/{space}/{name}.{one['name']}.previous.log", node, (*KUBECTL, *words, "--previous"))


async def _of_envoys(nodes: Sequence[Node], missing: list[str]) -> AsyncIterator[Piece]:
    """The configuration, the clusters and the counters of every Envoy of ours."""
    for node in nodes:
        try:
            found = await engine.execute(node.name, "sh", "-c", _ADMIN)
        except IsthmusError as error:
            missing.append(f"envoys of {node.name}: {error.message}")
            continue
        for line in found.splitlines():
            container, socket = line.split(" ", 1)
            for path in ("config_dump", "clusters?format=json", "stats"):
                file = f"envoy/{container[:12]}.{path.partition('?')[0]}"
                command = ("curl", "--silent", "--show-error", "--max-time", "20", "--unix-socket", socket)
                yield Piece(file, node.name, (*command, f"http://envoy/{path}"))


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StorageFailed(f"cannot write {path}: {error.strerror}", hint="free or repair the disk") from error
