"""Faults of clusters of containers: in the network, the processes and the disks of their nodes.

Rules are in a chain of our own, queues have a handle of our own, ballast has a name of our own: `heal` finds them in
the nodes, whoever put them there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clusters.faults import NotSupported, check_share, check_slow
from clusters.kind import engine, packets
from clusters.kind.config import Wanted
from clusters.kind.engine import Node
from clusters.kind.harness import KindHarness
from clusters.kind.installation import COMPONENTS, wait_ready
from clusters.kind.packets import FAULTS, INTERFACE
from federation.errors import NotFound, Unavailable
from federation.model.ids import SYSTEM_NAMESPACE

HANDLE = "1517:"
"""Of our queues."""
STATE = "/var/lib/isthmus"
"""Where a component keeps its state, in its container."""
BALLAST = ".isthmus-ballast"
LARGEST = 1 << 30
"""Bytes of a disk that may be filled: larger ones are the machine's."""
_LATE = 1000
"""Milliseconds that a packet may wait for its turn where the rate is bounded; then it is lost."""

_TASKS = """
for pod in $(crictl pods --quiet --namespace "$1" --label "app.kubernetes.io/component=$2" --state ready); do
  crictl ps --quiet --pod "$pod"
done
"""
_UNSLOW = f"tc qdisc show dev {INTERFACE} root | grep -q ' {HANDLE} ' && tc qdisc del dev {INTERFACE} root"
_HEAL = f"""
for id in $(ctr -n k8s.io tasks list | awk '$3 == "PAUSED" {{ print $1 }}'); do ctr -n k8s.io tasks resume "$id"; done
{_UNSLOW}
for pid in $(crictl ps --quiet | xargs -r -n1 crictl inspect --output go-template --template '{{{{.info.pid}}}}'); do
  rm -f "/proc/$pid/root{STATE}/{BALLAST}"
done
true
"""
_FILL = f"""
set -e
pid=$(crictl inspect --output go-template --template '{{{{.info.pid}}}}' "$1")
where=/proc/$pid/root{STATE}
[ -d "$where" ] || {{ echo "none"; exit 0; }}
size=$(($(stat --file-system --format='%S * %b' "$where")))
[ "$size" -le {LARGEST} ] || {{ echo "large $size"; exit 0; }}
dd if=/dev/zero of="$where/{BALLAST}" bs=64k 2>/dev/null || true
dd if=/dev/zero of="$where/{BALLAST}" bs=1 oflag=append conv=notrunc 2>/dev/null || true
echo full
"""


@dataclass(frozen=True, slots=True)
class Lost:
    """What the nodes of one cluster lose of what comes to them."""

    sources: tuple[str, ...] = ()
    """Addresses and networks of which nothing comes in."""
    share: float = 0.0
    """Of the packets of everybody else but its own nodes and this machine."""


def rules(lost: Lost, nodes: Sequence[Node], *, six: bool = False) -> list[str]:
    """The rules of the chain in each node of the cluster."""
    found = [f"-s {source} -j DROP" for source in sorted(lost.sources) if (":" in source) is six]
    if lost.share:
        own = {node.address6 if six else node.address for node in nodes} - {""}
        gateways = {gateway for node in nodes for gateway in node.gateways if (":" in gateway) is six}
        found += [f"-s {address} -j RETURN" for address in sorted(own | gateways)]
        found.append(f"-m statistic --mode random --probability {lost.share:.6f} -j DROP")
    return found


class KindFaults:
    """Faults of the clusters of one harness."""

    def __init__(self, harness: KindHarness) -> None:
        self._harness = harness
        self._lost: dict[str, Lost] = {}
        self.broken = False
        """Whether anything was done since the last `heal` of this object."""
        self._wants: Mapping[str, Wanted] = {}

    # --- the network -------------------------------------------------------------------------------------------------

    async def partition(self, a: str, b: str, *, one_way: bool = False) -> float:
        """What Pods of `a` send has the address of their node, or in a flat network their own: both are lost."""
        for source, target in ((a, b), (b, a))[: 1 if one_way else 2]:
            want, nodes = await self._nodes(source)
            addresses = [address for node in nodes for address in (node.address, node.address6) if address]
            other, _ = await self._nodes(target)
            if not want.ranges.pods.overlaps(other.ranges.pods):
                addresses.append(str(want.ranges.pods))
            before = self._lost.get(target, Lost())
            await self._lose(target, Lost((*before.sources, *addresses), before.share))
        return time.monotonic()

    async def drop(self, cluster: str, share: float) -> float:
        before = self._lost.get(cluster, Lost())
        await self._lose(cluster, Lost(before.sources, check_share(share)))
        return time.monotonic()

    async def _lose(self, cluster: str, lost: Lost) -> None:
        _, nodes = await self._nodes(cluster)
        for node in nodes:
            await packets.apply(node.name, FAULTS, rules(lost, nodes))
            if node.address6:
                await packets.apply(node.name, FAULTS, rules(lost, nodes, six=True), family="ip6tables")
        self._lost[cluster] = lost

    async def slow(self, cluster: str, *, delay: float = 0.0, rate: int = 0) -> float:
        """What the nodes send to anybody, this machine too."""
        check_slow(delay, rate)
        if delay:
            how = f"netem delay {delay * 1000:.0f}ms limit 10000"
        else:
            how = f"tbf rate {rate * 8}bit burst {max(rate // 50, 3000)} latency {_LATE}ms"
        _, nodes = await self._nodes(cluster)
        for node in nodes:
            script = f"{_UNSLOW}; tc qdisc add dev {INTERFACE} root handle {HANDLE} {how}"
            try:
                await engine.execute(node.name, "sh", "-c", script)
            except Unavailable as error:
                if "qdisc kind is unknown" not in error.message:
                    raise
                raise NotSupported(
                    f"the kernel of this machine has no {how.split()[0]} queue",
                    hint="give a rate instead" if delay else "it takes the module sch_tbf",
                ) from error
        return time.monotonic()

    # --- processes ---------------------------------------------------------------------------------------------------

    async def kill(self, cluster: str, part: str = "") -> float:
        """Of a cluster its nodes as by a power cut; of a component its containers, which the kubelet starts again."""
        want, nodes = await self._nodes(cluster)
        if part in COMPONENTS:
            await self._tasks(cluster, part, nodes, "kill --signal SIGKILL")
        else:
            await engine.kill([node.name for node in _chosen(want, nodes, part)])
        return time.monotonic()

    async def pause(self, cluster: str, part: str = "") -> float:
        want, nodes = await self._nodes(cluster)
        if part in COMPONENTS:
            await self._tasks(cluster, part, nodes, "pause")
        else:
            await engine.pause([node.name for node in _chosen(want, nodes, part)])
        return time.monotonic()

    async def _tasks(self, cluster: str, part: str, nodes: Sequence[Node], verb: str) -> None:
        """By the node's containerd: it works while the API server does not."""
        for node, container in await self._containers(cluster, part, nodes):
            await engine.execute(node, "ctr", "-n", "k8s.io", "tasks", *verb.split(), container)

    async def _containers(self, cluster: str, part: str, nodes: Sequence[Node]) -> list[tuple[str, str]]:
        found = []
        for node in nodes:
            said = await engine.execute(node.name, "sh", "-c", _TASKS, "tasks", SYSTEM_NAMESPACE, part)
            found += [(node.name, container) for container in said.split()]
        if not found:
            raise NotFound(f"no {part} runs in {cluster}", hint="`python -m clusters status` shows what stands")
        return found

    # --- disks and clocks --------------------------------------------------------------------------------------------

    async def disk_full(self, cluster: str, part: str = "") -> float:
        """Of a component whose state is a volume of its own of at most 1 GiB: nobody else's disk is filled."""
        if part not in COMPONENTS:
            raise NotSupported(
                "the disk of a node is this machine's own, and others need it",
                hint=f"name a component whose state has a volume of its own: {', '.join(COMPONENTS)}",
            )
        _, nodes = await self._nodes(cluster)
        done = []
        for node, container in await self._containers(cluster, part, nodes):
            done.append((await engine.execute(node, "sh", "-c", _FILL, "fill", container)).strip())
        if "full" not in done:
            raise NotSupported(
                f"the state of the {part} in {cluster} is on the node's disk, which is this machine's own",
                hint="give it a volume with a size of its own, such as an emptyDir with medium Memory and a sizeLimit",
            )
        return time.monotonic()

    async def clock(self, cluster: str, seconds: float) -> float:
        raise NotSupported("containers have the clock of their machine: one cluster's cannot be set alone")

    # --- healing -----------------------------------------------------------------------------------------------------

    async def heal(self) -> None:
        """What is in the nodes is undone: chains, queues, pauses, ballast; then they are thawed and started by `up`.

        Where isthmus is installed its pods are waited for. Raises as `up`, TimedOut (`not_ready`).
        """
        self._lost.clear()
        self.broken = False
        names = {want.name for want in (await self._harness.wanted()).values()}
        nodes = [node for node in await engine.nodes() if node.cluster in names]
        await self._undo([node for node in nodes if node.state == "running"])
        await self._harness.up()
        await self._undo([node for node in nodes if node.state != "running"])
        configs = [self._harness.folder.kubeconfig(name) for name in await self._harness.wanted()]
        await asyncio.gather(*(wait_ready(path) for path in configs))

    async def _undo(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            for family in packets.FAMILIES:
                await packets.remove(node.name, FAULTS, family=family)
            await engine.execute(node.name, "sh", "-c", _HEAL)

    async def _nodes(self, cluster: str) -> tuple[Wanted, list[Node]]:
        """The cluster and its nodes that run."""
        self._wants = self._wants or await self._harness.wanted()
        if cluster not in self._wants:
            raise NotFound(f"there is no cluster {cluster}", hint=f"one of {', '.join(self._wants)}", code="no_cluster")
        want = self._wants[cluster]
        nodes = [node for node in await engine.nodes(cluster=want.name) if node.state == "running"]
        if not nodes:
            raise NotFound(f"no node of {cluster} runs", hint="heal first", code="no_node")
        self.broken = True
        return want, nodes


def _chosen(want: Wanted, nodes: Sequence[Node], part: str) -> list[Node]:
    """All nodes, or the one of that name; raises NotFound."""
    if not part:
        return list(nodes)
    found = [node for node in nodes if node.name in (part, f"{want.name}-{part}")]
    if not found:
        raise NotFound(
            f"{want.cluster} has no part {part}",
            hint=f"a component ({', '.join(COMPONENTS)}) or a node ({', '.join(n.name for n in nodes)})",
        )
    return found
