"""Isthmus in the clusters of a topology: image, registry, agents that join, gateways, webhooks, links.

Everything is done by the `fedctl` that a user has, with the kubeconfigs of the harness and contexts of its own; `plan`
(pure) says what is missing. What fedctl installs it installs again without harm, so a look asks only what is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clusters.command import Done, attempt
from clusters.kind import engine
from clusters.kind.config import Wanted
from clusters.kind.folder import Folder
from clusters.kubeclient import KubeClient, connect
from clusters.progress import Say
from clusters.together import finish_together
from clusters.topology import Topology
from federation.cli.home import Home
from federation.errors import IsthmusError, NotFound, TimedOut, Unavailable
from federation.model.ids import SYSTEM_NAMESPACE

if TYPE_CHECKING:
    from clusters.images.archive import Image

IMAGE = "isthmus"
REGISTRY = "registry"
FLAT = "flat"
"""The network that the agents of a flat topology say they are on."""
COMPONENTS = ("registry", "agent", "gateway", "injector")
"""As their label says; fedctl calls the last one webhook."""
LABEL = "app.kubernetes.io/component"
VOLUME = "isthmus-registry"
"""The volume of the registry, and the class of which it is the only one."""
DISK, _USER = "/var/local/isthmus-registry", 65532
_SECONDS = 300.0
_LOOK = 0.2

Verb = Literal["registry", "operator", "agent", "context", "gateway", "webhook", "link"]
"""`operator`, `context`: let fedctl know the registry, or the cluster's agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What a look has found of isthmus."""

    ready: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By cluster the components of which every wanted replica is ready."""
    known: frozenset[str] = frozenset()
    """Clusters that fedctl's contexts name; `REGISTRY` for the registry."""
    links: frozenset[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """One call of fedctl or two, for one cluster, or for the two of a link."""

    verb: Verb
    clusters: tuple[str, ...]


def plan(topology: Topology, found: Installed) -> list[list[Step]]:
    """Stages, one after the other; the steps of each are done at the same time.

    A component that is not ready is installed again: it may have lost what it needs, and fedctl says what it waits for.
    """
    home, names = topology.home, topology.names

    def lacking(component: str) -> list[str]:
        return [name for name in names if component not in found.ready.get(name, ())]

    first = [Step("registry", (home,))] if home in lacking("registry") else []
    operator = [Step("operator", (home,))] if first or REGISTRY not in found.known else []
    agents = [Step("agent", (name,)) for name in lacking("agent")]
    contexts = [
        Step("context", (name,)) for name in names if name not in found.known or Step("agent", (name,)) in agents
    ]
    gateways = [Step("gateway", (name,)) for name in lacking("gateway")]
    webhooks = [Step("webhook", (name,)) for name in lacking("injector")]
    links = [Step("link", link) for link in topology.links if frozenset(link) not in found.links]
    # Two installations in one cluster would be in each other's way.
    stages = [first, operator, agents, contexts, [*gateways, *links], webhooks]
    return [stage for stage in stages if stage]


class Installation:
    """Installs isthmus in the clusters that `wants` names; they stand already."""

    def __init__(self, topology: Topology, wants: Mapping[str, Wanted], folder: Folder, *, say: Say) -> None:
        self._topology, self._wants, self._folder, self._say = topology, wants, folder, say

    async def up(self) -> list[Step]:
        """Do what is missing; returns what was done. Raises what fedctl refuses, with its code."""
        await self._load()
        done: list[Step] = []
        for stage in plan(self._topology, await self.look()):
            await self._together(stage)
            done += stage
        await self._fedctl("status", "--wait", "--timeout", f"{_SECONDS:.0f}")
        return done

    # --- looking -----------------------------------------------------------------------------------------------------

    async def look(self) -> Installed:
        """Raises Unavailable where an API server does not answer."""
        ready = await asyncio.gather(*(self._ready(name) for name in self._wants))
        home = Home.load(self._folder.home)
        known = frozenset(home.clusters) | ({REGISTRY} if home.operator is not None else frozenset())
        links: Iterable[frozenset[str]] = ()
        if REGISTRY in known:
            try:
                links = [frozenset((link["a"], link["b"])) for link in await self._json("get", "links")]
            except IsthmusError:
                links = ()  # the registry is not there, or no longer at this address: both are repaired
        return Installed(ready=dict(zip(self._wants, ready, strict=True)), known=known, links=frozenset(links))

    async def _ready(self, name: str) -> frozenset[str]:
        async with connect(self._folder.kubeconfig(name)) as client:
            found = await _workloads(client, SYSTEM_NAMESPACE)
        return frozenset(str(one["metadata"]["labels"].get(LABEL)) for one in found if _is_ready(one))

    # --- doing -------------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Build the image, or take it from the cache, and bring it to every node that does not have it."""
        moment = time.monotonic()
        image = await asyncio.to_thread(self._build)
        self._say(f"{image.reference}: bringing it to every node …")
        from clusters.images import delivery

        await asyncio.gather(
            *(asyncio.to_thread(delivery.load_into_kind, [image], want.name) for want in self._wants.values())
        )
        self._say(f"{image.reference} is in every node ({time.monotonic() - moment:.1f} s)")

    def _build(self) -> Image:
        from clusters.images.builder import Builder

        return Builder(say=self._say).image(IMAGE)

    async def _together(self, stage: list[Step]) -> None:
        """Links are made one after the other, as each asks both agents; the rest at once."""
        links = [step for step in stage if step.verb == "link"]

        async def linked() -> None:
            for step in links:
                await self._timed(step)

        works = {f"{s.verb}-{s.clusters[0]}": self._timed(s) for s in stage if s.verb != "link"}
        await finish_together({**works, "links": linked()})

    async def _timed(self, step: Step) -> None:
        moment, who = time.monotonic(), " and ".join(step.clusters)
        self._say(f"{who}: {_DOING[step.verb]} …")
        await self._do(step)
        self._say(f"{who}: {_DONE[step.verb]} ({time.monotonic() - moment:.1f} s)")

    async def _do(self, step: Step) -> None:
        name = step.clusters[0]
        match step.verb:
            case "registry":
                # By its name, which outlives the address of the node.
                where = self._wants[name].control_plane
                await self.disk(name)
                sets = {"registry.persistence.storageClass": VOLUME}
                told = ("--federation", self._topology.federation, "--address", where)
                await self._install("registry", name, *told, *_sets(sets))
            case "agent":
                token = (await self._json("token", "issue", name))["token"]
                place = self._wants[name].spec.locality
                sets = {"agent.replicas": "1", "locality.region": place.region, "locality.zone": place.zone}
                if self._topology.flat:  # endpoints of headless services are then told to the others, and reached
                    sets |= {"agent.settings.network": FLAT}
                await self._install("agent", name, "--token", "-", *_sets(sets), text=token.encode())
            case "gateway":
                sets = {"gateway.replicas": "1"}
                if self._wants[name].spec.nodes.nat:
                    sets |= {"gateway.service.type": "None"}
                await self._install("gateway", name, *_sets(sets))
            case "webhook":
                await self._install("webhook", name, *_sets({"injector.replicas": "1"}))
            case "operator":
                await self._fedctl("registry", "use", *self._target(name))
            case "context":
                await self._fedctl("cluster", "use", name, *self._target(name))
            case "link":
                await self._fedctl("link", *step.clusters)

    async def disk(self, name: str) -> None:
        """Give the cluster a disk for the registry that it may write (class `VOLUME`): what nodes provide themselves
        belongs to root.

        It is a folder of one node; when what claimed it is gone, the next registry gets it empty.
        """
        node = self._wants[name].nodes[-1]
        async with connect(self._folder.kubeconfig(name)) as client:
            try:
                there = await client.get("v1", "PersistentVolume", VOLUME)
            except NotFound:
                there = None
            if there is not None and there["status"].get("phase") != "Released":
                return
            if there is not None:
                await client.delete("v1", "PersistentVolume", VOLUME)
                await client.gone("v1", "PersistentVolume", VOLUME)
            clean = f"rm -rf {DISK} && install -d -m 700 -o {_USER} -g {_USER} {DISK}"
            await engine.execute(node, "sh", "-c", clean)
            await client.apply(volume(node))

    async def _install(self, component: str, cluster: str, *words: str, text: bytes = b"") -> None:
        await self._fedctl("install", component, *self._target(cluster), *words, "--wait", text=text)

    def _target(self, cluster: str) -> tuple[str, ...]:
        return (
            "--kubeconfig",
            str(self._folder.kubeconfig(cluster)),
            "--context",
            self._wants[cluster].context,
        )

    async def _fedctl(self, *words: str, text: bytes = b"") -> Done:
        """Raises the error that fedctl printed. It ends with us: the next `up` would meet it at work."""
        fedctl = (Path(sys.executable).with_name("fedctl"), "--home", self._folder.home)
        done = await attempt(*fedctl, *words, "-o", "json", text=text, seconds=_SECONDS, long=True)
        if done.status:
            raise refusal(done)
        return done

    async def _json(self, *words: str) -> Any:
        return json.loads((await self._fedctl(*words)).out)


_DOING: Mapping[Verb, str] = {
    "registry": "installing the registry",
    "agent": "installing the agent, which joins by a token",
    "gateway": "installing the gateway",
    "webhook": "installing the webhook",
    "operator": "letting fedctl know its registry",
    "context": "letting fedctl know it",
    "link": "linking",
}
_DONE: Mapping[Verb, str] = {
    "registry": "registry installed",
    "agent": "agent installed, and joined",
    "gateway": "gateway installed",
    "webhook": "webhook installed",
    "operator": "its registry is known to fedctl",
    "context": "known to fedctl",
    "link": "linked",
}


def volume(node: str) -> dict[str, Any]:
    """The folder of the node as a volume."""
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": VOLUME},
        "spec": {
            "storageClassName": VOLUME,
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": DISK, "type": "Directory"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }


def refusal(done: Done) -> IsthmusError:
    """The error object that fedctl printed last, as an error of its code."""
    what = " ".join(done.words[3:])
    for line in reversed(done.err.splitlines()):
        if line.startswith('{"error"'):
            told = json.loads(line)["error"]
            return Unavailable(f"fedctl {what[:80]}: {told['message']}", hint=told["hint"], code=told["code"])
    return Unavailable(f"fedctl {what[:80]}: {done.reason}", code="fedctl_failed")


async def wait_ready(kubeconfig: Path, *, namespace: str = SYSTEM_NAMESPACE, seconds: float = _SECONDS) -> None:
    """Until every pod that is wanted of isthmus is ready; at once where nothing is installed, or scaled to nothing.

    Raises TimedOut (`not_ready`), which names what is not.
    """
    missing: list[str] = ["its API server does not answer"]
    async with connect(kubeconfig) as client:

        async def ready() -> bool:
            nonlocal missing
            found = await _workloads(client, namespace)
            wanted = [one for one in found if one["spec"].get("replicas", 1) and LABEL in one["metadata"]["labels"]]
            missing = sorted(str(one["metadata"]["name"]) for one in wanted if not _is_ready(one))
            if missing:
                await asyncio.sleep(_LOOK)
            return not missing

        try:
            await client.until(ready, timeout=seconds)
        except TimedOut as error:
            raise TimedOut(
                f"not ready after {seconds:g} s: {', '.join(missing)}",
                hint=f"kubectl --kubeconfig {kubeconfig} -n {namespace} get pods",
                code="not_ready",
            ) from error


async def _workloads(client: KubeClient, namespace: str) -> list[dict[str, Any]]:
    found = []
    for kind in ("Deployment", "StatefulSet"):
        with contextlib.suppress(NotFound):
            found += await client.list("apps/v1", kind, namespace)
    return found


def _is_ready(workload: Mapping[str, Any]) -> bool:
    wanted = workload["spec"].get("replicas", 1)
    status = workload.get("status", {})
    seen = status.get("observedGeneration") == workload["metadata"].get("generation")
    return bool(seen and wanted and status.get("readyReplicas", 0) >= wanted)


def _sets(values: Mapping[str, str]) -> list[str]:
    """As options of fedctl; what is empty is left out."""
    return [word for key, value in values.items() if value != "" for word in ("--set", f"{key}={value}")]
