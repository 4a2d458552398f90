"""The story of an upgrade: every component of both clusters gets the next version while pods call all the while.

The next version is the image of this source with another number in it and a key of the settings that this one refuses,
as it refuses all that it does not know. Pods of east call west, one that nobody injected and one with a sidecar. There
is no way back over a minor version: nobody goes on with these clusters.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from clusters.images import delivery
from clusters.kind import engine
from clusters.kind.installation import LABEL
from clusters.kind.operator import Operator
from clusters.kind.shop import Shop
from clusters.kubeclient import KubeClient
from clusters.pytest_plugin import Clusters
from clusters.together import finish_together
from clusters.waiting import START, until
from federation import __version__
from federation.model.ids import SYSTEM_NAMESPACE

pytestmark = [pytest.mark.e2e, pytest.mark.clusters("two-kind", installed=True, spent=True)]

EAST, WEST = "east", "west"
_MAJOR, _MINOR, _ = __version__.split(".")
NEXT = f"{_MAJOR}.{int(_MINOR) + 1}.0"
TOO_FAR = f"{_MAJOR}.{int(_MINOR) + 2}.0"
MISSING = f"{_MAJOR}.{int(_MINOR) + 1}.9"
"""A version of which there is no image."""
_LEVEL = '    level: str = "info"\n'
ADDED = {"federation/settings.py": (_LEVEL, f'{_LEVEL}    flavour: str = ""\n')}
"""`log.flavour` of every component."""
COMPONENTS = ("registry", "agent", "gateway", "injector")
CHANGED = (
    "--set=gateway.drainSeconds=20",
    "--set=agent.settings.log.level=debug",
    *(f"--set={component}.settings.log.flavour=new" for component in COMPONENTS),
)
LONG = 4 * START
"""Seconds for what takes several calls of fedctl, or a roll of all components."""
TIMEOUT, SLOWEST = 30.0, 15.0
"""Seconds that a request waits, and in which every one is answered: none is held for as long as something is away."""


async def test_every_component_of_both_clusters_rolls_under_requests(
    clusters: Clusters, shop: Shop, operator: Operator, record_property: Callable[[str, object], None]
) -> None:
    names = [want.name for want in (await clusters.harness.wanted()).values()]
    await finish_together(
        {
            "image": asyncio.to_thread(delivery.bring, names, "isthmus", version=NEXT, changes=ADDED),
            "names": operator.serve_names(EAST),
            **{f"gateways-{name}": _two_gateways(operator, name) for name in (EAST, WEST)},
            "echo": shop.offer(WEST, "echo"),
        }
    )
    async with (
        clusters.connect(EAST) as east,
        clusters.connect(WEST) as west,
        shop.calling(EAST, shop.clusterset("echo"), timeout=TIMEOUT) as plain,
        shop.calling(EAST, shop.name("echo"), way="redirect", timeout=TIMEOUT) as injected,
    ):
        for calls in (plain, injected):
            await calls.answered_by(WEST)
        await until(operator.finds, seconds=LONG, what="a whole federation")
        began = time.monotonic()

        # 1. over a minor version nobody jumps: it is refused before anything is touched
        before = await _pods(east)
        await _refused(operator, EAST, TOO_FAR, "version_skew")
        assert await _pods(east) == before
        assert {version for _, version in before} == {__version__}

        # 2. somebody mistypes the version: the registry's pod waits for an image that is not there, all else goes on.
        # There is no way back, and the right version replaces that pod
        await _stuck(operator, EAST)
        await east.until(lambda: _waits(east, "isthmus-registry-0"), timeout=LONG, what="a pod without an image")
        await _refused(operator, EAST, __version__, "downgrade_refused")

        # 3. east, with changed values: registry, agent, gateway and webhook, each when the one before it is ready
        await _upgrade(operator, EAST)
        assert await _pods(east) == {(component, NEXT) for component, _ in before}
        for calls in (plain, injected):
            await calls.answered_by(WEST)

        # 4. neighbours work together: a new pod of east, with the next version's sidecar, calls west; checks say who is
        # of which version, and find nothing wrong in it
        await until(lambda: _old_ones_have_ended(east), seconds=LONG, what="the end of the old pods")
        async with shop.calling(EAST, shop.name("echo"), way="redirect") as late:
            await late.answered_by(WEST)
            assert await _sidecars(east, shop.namespace) == {__version__, NEXT}
            assert await late.lost() == []
        await until(lambda: _told(operator, {EAST: NEXT, WEST: __version__}), seconds=LONG, what="both versions")
        (versions,) = [one for one in (await operator.told("check"))["findings"] if one["code"] == "versions"]
        assert (versions["level"], versions["detail"].partition(":")[0]) == ("ok", "within one minor version")

        # 5. west: the roll of the agent is stuck. The agent of before, whose container begins anew, finds the settings
        # that it knows
        (agent,) = await _of(west, "agent")
        await _stuck(operator, WEST)
        assert agent["metadata"]["name"] in {pod["metadata"]["name"] for pod in await _of(west, "agent")}
        await _ends(agent)
        await west.until(lambda: _began_anew(west, agent), timeout=LONG, what="the agent of before, ready again")

        # 6. whoever upgrades it is killed in the midst, and somebody runs the same command again
        await _killed(operator, west)
        await _upgrade(operator, WEST)
        assert {version for _, version in await _pods(west)} == {NEXT}
        await until(lambda: _old_ones_have_ended(west), seconds=LONG, what="the end of the old pods")
        for calls in (plain, injected):
            await calls.answered_by(WEST)
        await until(lambda: _told(operator, {EAST: NEXT, WEST: NEXT}), seconds=LONG, what="the next version")
        await until(operator.finds, seconds=LONG, what="a whole federation")

        # 7. back over a minor version is refused, and nothing changes
        after = await _pods(east)
        await _refused(operator, EAST, __version__, "downgrade_refused")
        assert await _pods(east) == after

        # 8. settings of before are nowhere left, and not one request of all this has failed, or was held
        for client in (east, west):
            assert len(await _settings(client)) == len(await _pods(client))
        sent = [one for calls in (plain, injected) for one in await calls.since(began)]
        lost = [one for one in sent if one.error]
        record_property("requests", len(sent))
        took, slowest = time.monotonic() - began, max(one.end - one.begin for one in sent)
        record_property("slowest", round(slowest, 1))
        print(f"{len(sent)} requests in {took:.0f} s, {len(lost)} failed, the slowest took {slowest:.1f} s")
        assert len(sent) > 500
        assert lost == [], lost[:3]
        assert slowest < SLOWEST


async def _upgrade(operator: Operator, cluster: str) -> None:
    done = await operator("upgrade", *await operator.place(cluster), "--to", NEXT, *CHANGED, seconds=2 * LONG)
    assert done.status == 0, done.err


async def _two_gateways(operator: Operator, cluster: str) -> None:
    """As many as the chart has by default; the harness has one."""
    place = await operator.place(cluster)
    await operator.ok("install", "gateway", *place, "--set=gateway.replicas=2", "--wait", seconds=LONG)


async def _stuck(operator: Operator, cluster: str) -> None:
    """Upgrade it to a version of which there is no image: it ends when its time is over."""
    words = ("upgrade", *await operator.place(cluster), "--to", MISSING, *CHANGED, "--timeout", "5")
    done = await operator(*words, seconds=LONG)
    assert (done.status, json.loads(done.err.splitlines()[-1])["error"]["code"]) == (11, "not_ready"), done.err


async def _of(client: KubeClient, component: str) -> list[dict[str, Any]]:
    pods = await client.list("v1", "Pod", SYSTEM_NAMESPACE, labelSelector=f"{LABEL}={component}")
    return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]


async def _waits(client: KubeClient, name: str) -> bool:
    """Whether the pod is of the version that there is not, and so cannot begin."""
    pod = await client.get("v1", "Pod", name, SYSTEM_NAMESPACE)
    states = [one["state"] for one in pod["status"].get("containerStatuses") or ()]
    return _version(pod["spec"]["containers"][0]) == MISSING and any("waiting" in state for state in states)


async def _ends(pod: dict[str, Any]) -> None:
    """End the only container of a pod, whose node makes another one."""
    (container,) = pod["status"]["containerStatuses"]
    await engine.execute(pod["spec"]["nodeName"], "crictl", "stop", container["containerID"].partition("://")[2])


async def _began_anew(client: KubeClient, pod: dict[str, Any]) -> bool:
    now = await client.get("v1", "Pod", pod["metadata"]["name"], SYSTEM_NAMESPACE)
    (before,), (after,) = (one["status"]["containerStatuses"] for one in (pod, now))
    return bool(after["ready"] and after["restartCount"] > before["restartCount"])


async def _settings(client: KubeClient) -> list[str]:
    """The ConfigMaps of the components."""
    found = await client.list("v1", "ConfigMap", SYSTEM_NAMESPACE, labelSelector=LABEL)
    return [one["metadata"]["name"] for one in found]


async def _killed(operator: Operator, client: KubeClient) -> None:
    """Begin the upgrade of west, and kill fedctl when the agent's next version is applied: before the gateway's is."""
    upgrade = asyncio.create_task(_upgrade(operator, WEST), name="upgrade-that-is-killed")

    async def applied() -> bool:
        agent = await client.get("apps/v1", "Deployment", "isthmus-agent", SYSTEM_NAMESPACE)
        return bool(_version(agent["spec"]["template"]["spec"]["containers"][0]) == NEXT)

    try:
        await client.until(applied, timeout=LONG, what="the agent's next version")
        assert not upgrade.done()
    finally:
        upgrade.cancel()
        await asyncio.wait([upgrade])


async def _refused(operator: Operator, cluster: str, to: str, code: str) -> None:
    done = await operator("upgrade", *await operator.place(cluster), "--to", to)
    assert done.status == 7, done.err
    assert json.loads(done.err.splitlines()[-1])["error"]["code"] == code


async def _told(operator: Operator, wanted: dict[str, str]) -> bool:
    return {one["name"]: one["version"] for one in await operator.ok("get", "clusters")} == wanted


async def _pods(client: KubeClient) -> set[tuple[str, str]]:
    """Component and version of each pod that is not about to end."""
    pods = await client.list("v1", "Pod", SYSTEM_NAMESPACE, labelSelector=LABEL)
    staying = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    return {(pod["metadata"]["labels"][LABEL], _version(pod["spec"]["containers"][0])) for pod in staying}


async def _old_ones_have_ended(client: KubeClient) -> bool:
    """They serve until nobody comes any more, also the webhook, which gives pods its own version's sidecar."""
    pods = await client.list("v1", "Pod", SYSTEM_NAMESPACE, labelSelector=LABEL)
    return not any(pod["metadata"].get("deletionTimestamp") for pod in pods)


async def _sidecars(client: KubeClient, namespace: str) -> set[str]:
    """The versions of the sidecars of injected pods."""
    pods = await client.list("v1", "Pod", namespace)
    containers = [one for pod in pods for one in pod["spec"].get("initContainers", ())]
    return {_version(one) for one in containers if one["name"] == "isthmus-sidecar"}


def _version(container: Any) -> str:
    return str(container["image"].rpartition(":")[2])
