"""Clusters of containers as a topology has them: looked at, made, repaired and removed, all of them at the same time.

Arrives: a `Topology`. What is to be done to each cluster `plan` says; here it is done. Whatever a command leaves half
done, the next `up` goes on with, and `down` removes: what is ours is known by its marks, not by a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clusters.command import attempt
from clusters.kind import engine, installation, packets
from clusters.kind.config import MADE, PREFIX, Wanted, mark, wanted
from clusters.kind.engine import Node
from clusters.kind.folder import Folder
from clusters.kind.installation import Installation
from clusters.kind.packets import Route
from clusters.kind.plan import Found, Step, plan
from clusters.kind.ranges import networks
from clusters.kubeclient import KubeClient, connect
from clusters.progress import Say, silent
from clusters.together import finish_together
from clusters.topology import Topology
from clusters.waiting import ANSWER, until
from federation.errors import IsthmusError, NotFound, StorageFailed, TimedOut

IMAGE = "ISTHMUS_KIND_IMAGE"
"""The variable that names the node image."""

READY = 300.0
"""Seconds for a cluster to come up; many at once share few cores."""
_CREATE = 900.0
_NODE_BYTES = 2 << 30
"""Room that a new node wants: its images and what runs in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A cluster as `status` shows it."""

    want: Wanted
    state: str
    """ready, not ready, stopped, paused, incomplete, missing, or the code of the error that `up` would raise."""
    nodes: tuple[Node, ...]
    steps: tuple[Step, ...]
    """What `up` would do."""

    def as_dict(self) -> dict[str, Any]:
        """A row of `status`."""
        return {
            "cluster": self.want.cluster,
            "state": self.state,
            "kind": self.want.name,
            "nodes": len(self.nodes),
            "addresses": [node.address for node in self.nodes if node.address],
            "pods": str(self.want.ranges.pods),
            "services": str(self.want.ranges.services),
            "nat": self.want.spec.nodes.nat,
            "next": [step.verb for step in self.steps],
        }


class KindHarness:
    """Makes, repairs and removes the clusters of one topology."""

    def __init__(
        self,
        topology: Topology,
        *,
        image: str = "",
        prefix: str = PREFIX,
        where: Path | None = None,
        say: Say = silent,
    ) -> None:
        """`image`: of the nodes; kind's own default where it is empty. `where`: for its files (see Folder)."""
        self.topology, self.image, self.prefix, self.say = topology, image, prefix, say
        self.mark = mark(topology.name, prefix).rpartition("/")[2]
        self.folder = Folder(topology.name, prefix=prefix, where=where)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def wanted(self) -> Mapping[str, Wanted]:
        """The clusters by name, with their ranges; raises InvalidInput."""
        taken = networks(await engine.networks())
        return wanted(self.topology, prefix=self.prefix, taken=taken)

    async def look(self, wants: Mapping[str, Wanted]) -> dict[str, Found]:
        """What there is of each cluster."""
        everything = await engine.nodes()
        own = {w.name: tuple(n for n in everything if n.cluster == w.name) for w in wants.values()}
        found = await asyncio.gather(*(self._look_at(want, own[want.name]) for want in wants.values()))
        by_name = dict(zip(wants, found, strict=True))
        if self.topology.flat and all(one.ready for one in found):
            routes = await self._routes(wants)
            for name, one in by_name.items():
                flat = await packets.is_flat(one.nodes, _others(routes, name))
                by_name[name] = replace(one, flat=flat)
        return by_name

    async def _look_at(self, want: Wanted, nodes: tuple[Node, ...]) -> Found:
        control = next((n for n in nodes if n.name == want.control_plane), None)
        if control is None or any(self.mark not in node.marks for node in nodes):
            return Found(nodes=nodes)
        made = await engine.read(control.name, MADE)
        config = control.server != "" and self.folder.server(want.cluster) == control.server
        running = all(node.state == "running" for node in nodes)
        return Found(
            nodes=nodes,
            made=None if made is None else made.decode(errors="replace").strip(),
            config=config,
            ready=config and running and await self._is_ready(want),
            guarded=want.spec.nodes.nat and running and await packets.is_guarded(nodes),
        )

    async def status(self) -> list[Seen]:
        """Each cluster of the topology as it is."""
        wants = await self.wanted()
        return self._seen(wants, await self.look(wants))

    def _seen(self, wants: Mapping[str, Wanted], found: Mapping[str, Found]) -> list[Seen]:
        rows = []
        for name, want in wants.items():
            steps: tuple[Step, ...] = ()
            try:
                steps = tuple(plan(want, found[name], mark=self.mark, flat=self.topology.flat))
                state = _state(found[name], steps)
            except IsthmusError as error:
                state = error.error_code
            rows.append(Seen(want=want, state=state, nodes=found[name].nodes, steps=steps))
        return rows

    # --- up ----------------------------------------------------------------------------------------------------------

    async def up(self, *, installed: bool = False) -> dict[str, list[Step]]:
        """Do what is missing; returns what was done to each cluster. With nothing to do it ends after one look.

        `installed`: isthmus too, joined and linked as the topology says.

        Raises InvalidInput, NotFound (`kind_missing`, `docker_missing`, `kind_image_missing`), Unavailable
        (`docker_down`), StorageFailed (`no_disk`), AlreadyExists, Conflict and TimedOut. Other clusters are finished
        before the error of one is raised. An engine that has gone meanwhile is the reason, whatever failed for it.
        """
        await self.check()
        try:
            return await self._up(installed)
        except IsthmusError:
            await engine.check()
            raise

    async def _up(self, installed: bool) -> dict[str, list[Step]]:
        wants = await self.wanted()
        with self.folder.locked():
            self.folder.save(self.topology)
            found = await self.look(wants)
            plans = {n: plan(w, found[n], mark=self.mark, flat=self.topology.flat) for n, w in wants.items()}
            await self._check_room(plans)
            works = {f"up-{name}": self._bring(wants[name], steps) for name, steps in plans.items()}
            await finish_together(works, at_once=max(2, os.cpu_count() or 2))
            for name, steps in plans.items():
                if any(step.verb == "flatten" for step in steps):
                    await self._flatten(wants, name)
            further = await Installation(self.topology, wants, self.folder, say=self.say).up() if installed else []
        if not any(plans.values()) and not further:
            self.say(f"nothing to do: {', '.join(plans)} {'are' if len(plans) > 1 else 'is'} as it should be")
        return plans

    async def check(self) -> None:
        """Whether there is what clusters are made with; raises as `up` does, before anything is made."""
        if shutil.which("kind") is None:
            raise NotFound(
                "kind is not on PATH",
                hint="install it: https://kind.sigs.k8s.io/docs/user/quick-start/",
                code="kind_missing",
            )
        await engine.check()

    async def install(self) -> list[installation.Step]:
        """Install, join and link what is not; the clusters stand. Returns what was done."""
        wants = await self.wanted()
        with self.folder.locked():
            return await Installation(self.topology, wants, self.folder, say=self.say).up()

    async def disk(self, cluster: str) -> None:
        """Give the cluster a disk that a registry may write, of the class `installation.VOLUME`."""
        await Installation(self.topology, await self.wanted(), self.folder, say=self.say).disk(cluster)

    async def _check_room(self, plans: Mapping[str, list[Step]]) -> None:
        """What every creation needs, once and before the first one."""
        new = sum(len(step.nodes) for steps in plans.values() for step in steps if step.verb == "create")
        if not new:
            return
        if self.image:
            await engine.bring_image(self.image)
        free = await engine.free_disk()
        if free is not None and free < new * _NODE_BYTES:
            raise StorageFailed(
                f"{new} nodes want about {new * _NODE_BYTES >> 30} GB where Docker keeps its data, and"
                f" {free / (1 << 30):.1f} GB are free",
                hint="make room (`docker system df` shows what Docker holds)",
                code="no_disk",
            )

    async def _bring(self, want: Wanted, steps: list[Step]) -> None:
        began = dt.datetime.now(dt.UTC)
        for step in steps:
            moment = time.monotonic()
            self.say(f"{want.cluster}: {_doing(step)} …")
            await self._do(want, step, began)
            self.say(f"{want.cluster}: {_done(step)} ({time.monotonic() - moment:.1f} s)")

    async def _do(self, want: Wanted, step: Step, began: dt.datetime) -> None:
        match step.verb:
            case "delete":
                await engine.remove(step.nodes)
                self.folder.kubeconfig(want.cluster).unlink(missing_ok=True)
            case "create":
                await self._create(want)
            case "unpause":
                await engine.unpause(step.nodes)
            case "start":
                await engine.start(step.nodes)
            case "export":
                await self._export(want)
            case "wait":
                await self.wait_ready(want, since=began)
            case "guard":
                await packets.guard(await engine.nodes(cluster=want.name))
            case "flatten":
                """When every cluster stands: see `up`."""

    async def _create(self, want: Wanted) -> None:
        words = ["kind", "create", "cluster", "--name", want.name, "--config", "-", "--wait", "0s"]
        words += [
            "--kubeconfig",
            str(self.folder.kubeconfig(want.cluster)),
            *(("--image", self.image) * bool(self.image)),
        ]
        done = await attempt(*words, text=want.config.encode(), seconds=_CREATE, long=True)
        if done.status:
            raise engine.refusal(done)
        await engine.write(want.control_plane, MADE, want.digest.encode())

    async def _export(self, want: Wanted) -> None:
        """Write the kubeconfig anew."""
        words = ("kind", "export", "kubeconfig", "--name", want.name, "--kubeconfig")
        path = self.folder.kubeconfig(want.cluster)
        path.unlink(missing_ok=True)
        done = await attempt(*words, path)
        if done.status:
            raise engine.refusal(done)

    async def _flatten(self, wants: Mapping[str, Wanted], name: str) -> None:
        await packets.flatten(await engine.nodes(cluster=wants[name].name), _others(await self._routes(wants), name))

    async def unflatten(self) -> None:
        """Take the routes between the Pods of clusters away again."""
        wants = await self.wanted()
        routes = await self._routes(wants)
        for name, want in wants.items():
            await packets.unflatten(await engine.nodes(cluster=want.name), _others(routes, name))

    async def _routes(self, wants: Mapping[str, Wanted]) -> dict[str, list[Route]]:
        """Where the Pods of each cluster are, node by node."""
        found: dict[str, list[Route]] = {}
        for name in wants:
            async with connect(self.folder.kubeconfig(name)) as client:
                found[name] = [
                    Route(node["spec"]["podCIDR"], address["address"])
                    for node in await client.list("v1", "Node")
                    for address in node["status"]["addresses"]
                    if address["type"] == "InternalIP" and ":" not in address["address"]
                ]
        return found

    # --- ready -------------------------------------------------------------------------------------------------------

    async def wait_ready(self, want: Wanted, *, since: dt.datetime | None = None) -> None:
        """Until every node is ready, as its kubelet has said after `since`, and names are resolved. Raises TimedOut."""
        detail = "its API server does not answer"

        async def ready() -> bool:
            nonlocal detail
            try:
                detail = await self._missing(want, since)
            except IsthmusError as error:
                detail = error.message
            if detail:
                await asyncio.sleep(0.2)
            return not detail

        try:
            await until(ready, seconds=READY)
        except TimedOut as error:
            raise TimedOut(
                f"{want.cluster} is not ready after {READY:g} s: {detail}",
                hint="`python -m clusters logs CLUSTER node` shows what its kubelet says",
                code="not_ready",
            ) from error

    async def _is_ready(self, want: Wanted) -> bool:
        with contextlib.suppress(IsthmusError, TimeoutError):
            async with asyncio.timeout(ANSWER):
                return not await self._missing(want, None)
        return False

    async def _missing(self, want: Wanted, since: dt.datetime | None) -> str:
        """What the cluster is not ready for; empty when it is."""
        async with connect(self.folder.kubeconfig(want.cluster)) as client:
            nodes = {node["metadata"]["name"]: node for node in await client.list("v1", "Node")}
            for name in want.nodes:
                if name not in nodes:
                    return f"{name} has not joined"
                conditions = {c["type"]: c["status"] for c in nodes[name]["status"].get("conditions", ())}
                if conditions.get("Ready") != "True":
                    return f"{name} is not ready"
            if since is not None and (silent := await _silent(client, want.nodes, since)):
                return f"the kubelet of {silent} has not been heard"
            dns = await client.get("apps/v1", "Deployment", "coredns", "kube-system")
            if not dns.get("status", {}).get("availableReplicas"):
                return "CoreDNS is not available"
        return ""

    # --- down --------------------------------------------------------------------------------------------------------

    async def down(self) -> list[str]:
        """Remove every node of the topology, whoever made it and however it ended, and our files; returns their names.

        Raises Unavailable (`docker_down`): then nothing was removed and nothing is forgotten.
        """
        await engine.check()
        with self.folder.locked(anyhow=True):
            gone = await remove_marked(self.mark, say=self.say)
            self.folder.remove()
        if not gone:
            self.say(f"there is nothing of {self.topology.name}")
        return gone


async def remove_marked(mark: str, *, say: Say = silent) -> list[str]:
    """Remove every node that bears the mark, in whatever state; returns their names."""
    nodes = [node for node in await engine.nodes() if mark in node.marks]
    if nodes:
        say(f"removing {', '.join(sorted({node.cluster for node in nodes}))} …")
        await engine.remove([node.name for node in nodes])
        say(f"{len(nodes)} nodes were removed")
    return [node.name for node in nodes]


def _others(routes: Mapping[str, list[Route]], name: str) -> list[Route]:
    return [route for other, theirs in routes.items() if other != name for route in theirs]


async def _silent(client: KubeClient, nodes: tuple[str, ...], since: dt.datetime) -> str:
    """The first node whose kubelet has not renewed its lease after `since`; a state from before says nothing."""
    for name in nodes:
        lease = await client.get("coordination.k8s.io/v1", "Lease", name, "kube-node-lease")
        if dt.datetime.fromisoformat(lease["spec"]["renewTime"]) < since:
            return name
    return ""


def _state(found: Found, steps: tuple[Step, ...]) -> str:
    if not found.nodes:
        return "missing"
    if found.made is None:
        return "incomplete"
    if found.stopped:
        return "stopped"
    if found.paused:
        return "paused"
    return "not ready" if steps else "ready"


def _doing(step: Step) -> str:
    nodes = ", ".join(step.nodes)
    return {
        "delete": f"removing it, because {step.why}",
        "create": f"creating {len(step.nodes)} node{'s' * (len(step.nodes) > 1)}",
        "unpause": f"thawing {nodes}",
        "start": f"starting {nodes}",
        "export": "writing its kubeconfig",
        "wait": "waiting until it is ready",
        "guard": "closing it to connections from outside",
        "flatten": "leading its pods to the others",
    }[step.verb]


def _done(step: Step) -> str:
    return {
        "delete": "removed",
        "create": "created",
        "unpause": "thawed",
        "start": "started",
        "export": "kubeconfig written",
        "wait": "ready",
        "guard": "behind NAT",
        "flatten": "flat, when all stand",
    }[step.verb]
