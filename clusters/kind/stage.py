"""The demo's stage in clusters of containers: a pair of them, with Isthmus installed, workloads in pods, and a caller.

The clusters are made for the demo and removed after it, whatever ends it; or they stand already and stay, and then only
what the demo puts into them is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from clusters.faults import NotSupported
from clusters.images.builder import Builder
from clusters.kind import dump, engine
from clusters.kind.calls import Calls
from clusters.kind.faults import KindFaults
from clusters.kind.harness import KindHarness, remove_marked
from clusters.kind.leftovers import prefix, sweep
from clusters.kind.operator import Operator
from clusters.kind.shop import CALLER as CONTAINER
from clusters.kind.shop import PODS, PORT, Shop
from clusters.load import Outcome
from clusters.processes import NAMESPACE
from clusters.progress import Say
from clusters.stage import CALLER, GLOBAL_NAME, NEAREST
from clusters.together import finish_together
from clusters.topology import ECHO, Topology
from clusters.topologyfile import find
from clusters.waiting import ANSWER, START, until
from federation.errors import AlreadyExists, IsthmusError, NotFound, Unavailable

TOPOLOGY = "two-kind"
PURPOSE = "demo"
"""What the names of clusters begin with that are the demo's own, before the process id."""
LEFT_OUT = (
    "dc1, the cluster with Consul, is left out: `fedctl demo` shows it with clusters of processes",
    "how fast changes of endpoints spread is left out: `fedctl demo` measures it with clusters of processes",
)
PATIENCE = 60.0
"""Seconds that the caller waits for an answer."""
_LOOK = 0.25
"""Seconds between looks at the caller's log."""
_QUIET = 4
"""Looks on end that find nothing, until there is nothing."""
_RESOLVE = (
    "import socket, sys; print(*sorted({a[4][0] for a in socket.getaddrinfo(sys.argv[1], None, socket.AF_INET)}))"
)
_GREETING = (
    "import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))"
    ".makefile().readline().strip())"
)
_KILL = """
for pod in $(crictl pods --quiet --namespace "$1" --label "app=$2" --state ready); do
  for id in $(crictl ps --quiet --pod "$pod"); do ctr -n k8s.io tasks kill --signal SIGKILL "$id"; done
done
"""


class PodCalls:
    """What the calling pod has sent since this was made."""

    def __init__(self, calls: Calls, pod: AsyncExitStack, sent: Sequence[Outcome]) -> None:
        """`pod`: removes it. `sent`: what it has sent before."""
        self._calls, self._pod, self._before = calls, pod, len(sent)
        self._seen, self._at, self._stopped = list(sent), 0.0, False

    async def outcomes(self, since: int = 0) -> Sequence[Outcome]:
        """As its log says; that is not read more often than is of use."""
        if not self._stopped and time.monotonic() > self._at + _LOOK:
            self._seen = await self._calls.outcomes()
            self._at = time.monotonic()
        return self._seen[self._before + since :]

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        try:
            self._seen = await self._calls.outcomes()
        finally:
            await self._pod.aclose()


class KindStage:
    """A pair of clusters, of which nothing stands yet or all does."""

    def __init__(self, directory: Path, *, image: str = "", standing: str = "", state: Path | None = None) -> None:
        """`image`: of the nodes (see KindHarness). `standing`: the prefix of clusters that stay; their files: `state`.

        Of the demo's own clusters the files are below `directory`, and so is what is known of them when it fails.
        """
        self._own, self.logs = not standing, directory
        where = directory / "kind" if self._own else state
        self._harness = KindHarness(find(TOPOLOGY), image=image, prefix=standing or prefix(PURPOSE), where=where)
        self._faults = KindFaults(self._harness)
        self._shop, self._operator = Shop(self._harness, NAMESPACE), Operator(self._harness)
        self._pod = AsyncExitStack()
        self._calls: Calls | None = None
        self._say: Say | None = None
        """Of whom builds it; None until something may have been made."""
        self._opened = False
        """Whether there may be something of ours in clusters that stay."""

    left_out = LEFT_OUT

    @property
    def topology(self) -> Topology:
        return self._harness.topology

    @property
    def faults(self) -> KindFaults:
        return self._faults

    async def build(self, say: Say) -> None:
        """Raises what `KindHarness.up` does, before anything is made NotFound (`source_missing`) and what it lacks.

        In clusters that stand also AlreadyExists.
        """
        Builder(say=say).check()
        await self._harness.check()
        if self._own:
            await sweep(PURPOSE, say=say)
        self._say = self._harness.say = say
        await self._harness.up(installed=True)
        if not self._own:
            await self._refuse_what_is_there()
        say("starting the workloads and exporting their services")
        self._opened = True
        await self._shop.open()
        await finish_together(
            {
                f"offer-{spec.name}-{offer.name}": self._shop.offer(spec.name, offer.name, app=offer.app)
                for spec in self.topology.clusters
                for offer in spec.offers
            }
        )
        say(f"starting a pod in {CALLER} that calls {GLOBAL_NAME}")
        calling = self._shop.calling(CALLER, GLOBAL_NAME, way="redirect", timeout=PATIENCE)
        self._calls = await self._pod.enter_async_context(calling)
        await self._calls.answered_by(CALLER)

    async def _refuse_what_is_there(self) -> None:
        """What the demo puts into clusters that stay is removed with its namespace, and nobody else's may be."""
        for name in self.topology.names:
            async with self._shop.connect(name) as client:
                try:
                    await client.get("v1", "Namespace", NAMESPACE)
                except NotFound:
                    continue
            raise AlreadyExists(
                f"{name} has a namespace {NAMESPACE} already, and the demo removes its own at the end",
                hint=f"if a demo has left it: kubectl delete namespace {NAMESPACE}",
            )

    # --- calls -------------------------------------------------------------------------------------------------------

    async def look_up(self, name: str) -> list[str]:
        """What the pod's own resolver says; a name that is new takes a moment to come."""
        found: list[str] = await until(lambda: self._resolved(name), seconds=START, what=f"an address of {name}")
        return found

    async def _resolved(self, name: str) -> list[str]:
        with contextlib.suppress(Unavailable):
            return (await self._in_pod(_RESOLVE, name)).split()
        return []

    async def calling(self, name: str) -> PodCalls:
        if name != GLOBAL_NAME or self._calls is None:
            raise NotSupported(f"nobody calls {name} here")
        sent = await self._calls.outcomes()
        # What the pod sent before it was answered at all is no part of the story, nor what came before this moment.
        return PodCalls(self._calls, self._pod, sent)

    async def greeting(self, name: str) -> str:
        return (await self._in_pod(_GREETING, name, str(PORT), str(ANSWER))).strip()

    async def _in_pod(self, code: str, *words: str) -> str:
        """What Python says in the calling pod; raises Unavailable when it fails."""
        async with self._shop.connect(CALLER) as client:
            pods = await client.list("v1", "Pod", NAMESPACE)
        for pod in pods:
            for status in pod["status"].get("containerStatuses", ()):
                if status["name"] == CONTAINER:
                    container = status["containerID"].partition("://")[2]
                    return await engine.execute(
                        pod["spec"]["nodeName"], "crictl", "exec", container, "python3", "-c", code, *words
                    )
        raise Unavailable(f"the calling pod is not in {CALLER} any more")

    # --- what goes wrong ---------------------------------------------------------------------------------------------

    async def end_copy(self, cluster: str) -> float:
        """As by `kill -9`, and its kubelet may not start it again for long: no copy is wanted any more."""
        want = (await self._harness.wanted())[cluster]
        moment = time.monotonic()
        for node in want.nodes:
            await engine.execute(node, "sh", "-c", _KILL, "kill", NAMESPACE, ECHO.name)
        await self._shop.scale(cluster, ECHO.name, 0)
        return moment

    async def start_copy(self, cluster: str) -> float:
        moment = time.monotonic()
        await self._shop.scale(cluster, ECHO.name, 1)
        async with self._shop.connect(cluster) as client:

            async def started() -> bool:
                pods = await client.list("v1", "Pod", NAMESPACE, labelSelector=f"app={ECHO.name}")
                return any(
                    "running" in status["state"] and "deletionTimestamp" not in pod["metadata"]
                    for pod in pods
                    for status in pod["status"].get("containerStatuses", ())
                )

            await client.until(started, timeout=PODS, what=f"a new pod in {cluster}")
        return moment

    async def end_registry(self) -> float:
        """It stands still: its kubelet would start it again after anything else."""
        return await self._faults.pause(self.topology.home, "registry")

    async def thaw(self, cluster: str) -> float:
        want = (await self._harness.wanted())[cluster]
        moment = time.monotonic()
        await engine.unpause(want.nodes)
        return moment

    async def turn(self, cluster: str, service: str, status: str) -> float:
        raise NotSupported("there is no Consul here")

    async def heal(self) -> float:
        moment = time.monotonic()
        await self._faults.heal()
        await self._shop.scale(CALLER, ECHO.name, 1)
        await self._shop.scaled(CALLER, ECHO.name, 1)
        return moment

    async def whole(self) -> None:
        await self._operator.ok("status", "--wait", "--timeout", f"{PODS:.0f}", seconds=PODS + START)

    async def measure(self, changes: int, say: Say) -> None:
        """See `left_out`."""

    # --- the end, and what can be tried before it --------------------------------------------------------------------

    async def report(self) -> None:
        if self._say is not None:
            self._say("writing what is known of the clusters")
            with contextlib.suppress(IsthmusError):
                await dump.dump(self._harness, self.logs / "dump")

    async def close(self) -> None:
        """The clusters, if they are the demo's own, otherwise what it has put into them."""
        if self._say is None:
            return
        with contextlib.suppress(IsthmusError):
            await self._pod.aclose()
        if self._own:
            # A container that Docker was still making when `up` was ended is there a moment later.
            seen = _QUIET
            while seen:
                seen = _QUIET if await remove_marked(self._harness.mark, say=self._say) else seen - 1
                await asyncio.sleep(_LOOK)
            self._harness.folder.remove()
            return
        if self._faults.broken:
            await self._faults.heal()
        if self._opened:
            self._say(f"removing the namespace {NAMESPACE}")
            await self._shop.close()

    def kill(self) -> None:
        """What is being removed stays half removed if nobody waits: it is waited for."""

    def commands(self) -> Sequence[str]:
        folder = self._harness.folder
        fedctl = Path(sys.executable).with_name("fedctl")
        configs = ":".join(str(folder.kubeconfig(name)) for name in self.topology.names)
        context = f"kind-{self._harness.prefix}-{TOPOLOGY}-{CALLER}"
        return (
            f"export ISTHMUS_HOME={folder.home} KUBECONFIG={configs}",
            f"{fedctl} status",
            f"{fedctl} get services",
            f"{fedctl} resolve {GLOBAL_NAME} --from {CALLER}",
            f"{fedctl} verify",
            f"kubectl --context {context} get serviceimports,services,endpointslices,pods -n {NAMESPACE}",
            f"{fedctl} unlink {CALLER} {NEAREST}",
        )
