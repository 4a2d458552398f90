"""The pods of Isthmus in a cluster, and the one that an operator's question goes to.

`choose` is pure: the leader where it is ready, another one that is, one that runs at least; or why there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from discovery.kube import lease
from discovery.kube.client import KubeClient
from discovery.kube.errors import Forbidden, NotFound
from discovery.kube.resources import LEASES, PODS
from discovery.kube.types import LeaseObject
from federation.errors import IsthmusError, Unavailable

PART_OF, COMPONENT = "app.kubernetes.io/part-of", "app.kubernetes.io/component"


class NoPod(IsthmusError):
    """The component is not installed there."""

    code = "no_pod"
    exit_status = 3


class PodDown(Unavailable):
    """There are pods, and none of them runs."""

    code = "pod_down"


@dataclass(frozen=True, slots=True)
class Target:
    """A container to ask; `ready` as its readiness probe says."""

    pod: str
    container: str
    ready: bool


class _Terminated(msgspec.Struct, rename="camel"):
    exit_code: int = 0
    reason: str = ""


class _Waiting(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _State(msgspec.Struct):
    running: dict[str, object] | None = None
    waiting: _Waiting | None = None
    terminated: _Terminated | None = None


class _ContainerStatus(msgspec.Struct, rename="camel"):
    name: str
    ready: bool = False
    state: _State | None = None
    last_state: _State | None = None


class _Condition(msgspec.Struct):
    type: str
    status: str = ""
    message: str = ""


class _Status(msgspec.Struct, rename="camel"):
    phase: str = ""
    container_statuses: list[_ContainerStatus] | None = None
    conditions: list[_Condition] | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    deletion_timestamp: str | None = None


class _Container(msgspec.Struct):
    name: str


class _Spec(msgspec.Struct):
    containers: list[_Container] = []


class Pod(msgspec.Struct):
    """As far as it is looked at."""

    metadata: _Metadata
    spec: _Spec
    status: _Status


def choose(pods: Sequence[Pod], *, component: str, namespace: str, leader: str = "") -> list[Target]:
    """Who can be asked, the best first; `leader`: the identity of the replica that leads, which begins with the name of
    its pod.

    Raises NoPod, PodDown.
    """
    if not pods:
        raise NoPod(
            f"there is no pod of the {component} in the namespace {namespace}",
            hint=f"is it another namespace? kubectl get pods -A -l {COMPONENT}={component}; or --context of another "
            "cluster",
        )
    running = [target for pod in pods if (target := _target(pod, component)) is not None]
    leading = leader.rpartition("_")[0]
    running.sort(key=lambda t: (not t.ready, not leading or not t.pod.startswith(leading), t.pod))
    if running:
        return running
    worst = min(pods, key=lambda pod: (pod.metadata.deletion_timestamp is not None, pod.metadata.name))
    reason, hint = _why(worst, component, namespace)
    raise PodDown(f"the {component} does not run: pod {namespace}/{worst.metadata.name} {reason}", hint=hint)


def _target(pod: Pod, component: str) -> Target | None:
    status = _own(pod, component)
    if status is None or status.state is None or status.state.running is None:
        return None
    return Target(pod.metadata.name, status.name, status.ready and pod.metadata.deletion_timestamp is None)


def _own(pod: Pod, component: str) -> _ContainerStatus | None:
    """The container of that name, or the first one."""
    names = [container.name for container in pod.spec.containers]
    wanted = component if component in names else next(iter(names), "")
    return next((s for s in pod.status.container_statuses or () if s.name == wanted), None)


def _why(pod: Pod, component: str, namespace: str) -> tuple[str, str]:
    name, status = pod.metadata.name, _own(pod, component)
    state = status.state if status is not None else None
    if status is not None and state is not None and (state.terminated or (state.waiting and _crashed(status))):
        ended = (state.terminated or (status.last_state and status.last_state.terminated)) or _Terminated()
        return (
            f"has crashed (exit status {ended.exit_code}{f', {ended.reason}' if ended.reason else ''})",
            f"kubectl logs -n {namespace} {name} -c {status.name} --previous",
        )
    if state is not None and state.waiting is not None:
        message = f": {state.waiting.message}" if state.waiting.message else ""
        reason = f"waits ({state.waiting.reason}{message})"
    else:
        said = next((c.message for c in pod.status.conditions or () if c.status == "False" and c.message), "")
        reason = f"is {pod.status.phase or 'not known'}{f': {said}' if said else ''}"
    return reason[:300], f"kubectl describe pod -n {namespace} {name}"


def _crashed(status: _ContainerStatus) -> bool:
    return status.last_state is not None and status.last_state.terminated is not None


async def find(client: KubeClient, namespace: str, component: str) -> list[Target]:
    """The containers of the component that run, first the one to ask.

    Raises NoPod, PodDown, and the errors of discovery.kube.errors.
    """
    selector = f"{PART_OF}=isthmus,{COMPONENT}={component}"
    pods = [
        msgspec.json.decode(raw, type=Pod)
        async for page in client.pages(PODS, namespace=namespace, label_selector=selector)
        for raw in page.items
    ]
    leader = ""
    if component == "agent" and len(pods) > 1:
        try:
            held = msgspec.json.decode(await client.get(LEASES, namespace, lease.NAME), type=LeaseObject)
            leader = held.spec.holder_identity or ""
        except (NotFound, Forbidden, msgspec.MsgspecError):
            pass  # any of them answers
    return choose(pods, component=component, namespace=namespace, leader=leader)
