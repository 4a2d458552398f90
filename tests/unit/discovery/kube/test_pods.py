"""Which pod an operator's question goes to, and what is said where there is none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from discovery.kube.pods import NoPod, Pod, PodDown, Target, choose

RUNNING = {"running": {}}
CRASH_LOOP = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting"}}


def pod(
    name: str, *, ready: bool = True, containers: tuple[str, ...] = ("agent",), going: bool = False, **more: Any
) -> Pod:
    state = more.pop("state", RUNNING)
    statuses = [{"name": one, "ready": ready, "state": state, **more} for one in containers]
    tree = {
        "metadata": {"name": name, "deletionTimestamp": "2026-01-01T00:00:00Z" if going else None},
        "spec": {"containers": [{"name": one} for one in containers]},
        "status": {"phase": "Running", "containerStatuses": statuses},
    }
    return msgspec.convert(tree, Pod)


def of(*pods: Pod, leader: str = "") -> Target:
    return choose(pods, component="agent", namespace="isthmus-system", leader=leader)[0]


@pytest.mark.parametrize(
    ("pods", "leader", "chosen"),
    [
        ((pod("a"),), "", "a"),
        ((pod("a"), pod("b")), "b_0f3c", "b"),
        ((pod("a"), pod("b")), "c_0f3c", "a"),  # the Lease names one that is gone
        ((pod("a"), pod("b", ready=False)), "b_0f3c", "a"),  # it leads, and cannot be asked
        ((pod("a", ready=False), pod("b")), "", "b"),
        ((pod("a", going=True), pod("b")), "a_0f3c", "b"),
        ((pod("a", ready=False),), "", "a"),  # it says itself what it waits for
        ((pod("a", state=CRASH_LOOP, ready=False), pod("b", ready=False)), "", "b"),
    ],
)
def test_the_leader_then_who_is_ready_then_who_runs(pods: tuple[Pod, ...], leader: str, chosen: str) -> None:
    assert of(*pods, leader=leader).pod == chosen


def test_all_that_run_can_be_asked() -> None:
    pods = (pod("a"), pod("b", state=CRASH_LOOP), pod("c", ready=False), pod("d"))
    found = choose(pods, component="agent", namespace="isthmus-system", leader="d_0f3c")
    assert [target.pod for target in found] == ["d", "a", "c"]


def test_the_container_of_the_name_or_the_first() -> None:
    assert of(pod("a", containers=("proxy", "agent"))).container == "agent"
    assert of(pod("a", containers=("main", "proxy"))).container == "main"


@pytest.mark.parametrize(
    ("found", "says", "hint"),
    [
        (
            pod("a", state=CRASH_LOOP, lastState={"terminated": {"exitCode": 5, "reason": "Error"}}),
            "pod isthmus-system/a has crashed (exit status 5, Error)",
            "kubectl logs -n isthmus-system a -c agent --previous",
        ),
        (
            pod("a", state={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
            "exit status 137, OOMKilled",
            "logs",
        ),
        (pod("a", state={"waiting": {"reason": "ImagePullBackOff"}}), "waits (ImagePullBackOff)", "describe pod"),
        (
            msgspec.convert(
                {
                    "metadata": {"name": "a"},
                    "spec": {"containers": [{"name": "agent"}]},
                    "status": {
                        "phase": "Pending",
                        "conditions": [
                            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
                        ],
                    },
                },
                Pod,
            ),
            "is Pending: 0/1 nodes are available",
            "kubectl describe pod -n isthmus-system a",
        ),
    ],
)
def test_why_none_runs(found: Pod, says: str, hint: str) -> None:
    with pytest.raises(PodDown) as caught:
        of(found)
    assert says in caught.value.message
    assert hint in caught.value.hint
    assert (caught.value.error_code, caught.value.exit_status) == ("pod_down", 6)


def test_no_pod_at_all() -> None:
    with pytest.raises(NoPod, match="no pod of the agent in the namespace isthmus-system") as caught:
        of()
    assert (caught.value.error_code, caught.value.exit_status) == ("no_pod", 3)
