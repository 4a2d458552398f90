"""What is missing of a rollout, and why."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.kube.objects import Name
from federation.cli.installation.rollout import missing, reasons, unregistered

DEPLOYMENT = Name("Deployment", "x", "isthmus-agent")
STATEFUL_SET = Name("StatefulSet", "x", "isthmus-registry")
DAEMON_SET = Name("DaemonSet", "kube-system", "coredns")
ON_NODES = {"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberReady": 3}


def workload(generation: int = 2, wanted: int = 2, **status: Any) -> dict[str, Any]:
    return {"metadata": {"generation": generation}, "spec": {"replicas": wanted}, "status": status}


def deployment(**status: Any) -> dict[str, Any]:
    return workload(**{"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, **status})


@pytest.mark.parametrize(
    ("name", "held", "wanted"),
    [
        (DEPLOYMENT, deployment(), ""),
        (DEPLOYMENT, {"metadata": {"generation": 1}, "spec": {"replicas": 2}}, "not taken up yet"),
        (DEPLOYMENT, deployment(observedGeneration=1), "not taken up yet"),
        (DEPLOYMENT, deployment(updatedReplicas=1), "1 of 2 replicas are of this version"),
        (DEPLOYMENT, deployment(replicas=3), "1 old replicas have not ended"),
        (DEPLOYMENT, deployment(readyReplicas=1), "1 of 2 replicas are ready"),
        (DEPLOYMENT, workload(wanted=0, observedGeneration=2), ""),
        (DAEMON_SET, workload(**ON_NODES), ""),
        (DAEMON_SET, workload(**{**ON_NODES, "observedGeneration": 1}), "not taken up yet"),
        (DAEMON_SET, workload(**{**ON_NODES, "updatedNumberScheduled": 1}), "1 of 3 pods are of this version"),
        (DAEMON_SET, workload(**{**ON_NODES, "numberReady": 2}), "2 of 3 pods are ready"),
        (STATEFUL_SET, workload(wanted=1, observedGeneration=2), "0 of 1 replicas are of this version"),
        (
            STATEFUL_SET,
            workload(
                wanted=1,
                observedGeneration=2,
                replicas=1,
                currentReplicas=1,
                readyReplicas=1,
                currentRevision="a",
                updateRevision="a",
            ),
            "",
        ),
        (
            STATEFUL_SET,
            workload(
                wanted=1,
                observedGeneration=2,
                replicas=1,
                currentReplicas=1,
                readyReplicas=1,
                currentRevision="a",
                updateRevision="b",
            ),
            "0 of 1 replicas are of this version",
        ),
    ],
)
def test_what_is_missing(name: Name, held: dict[str, Any], wanted: str) -> None:
    assert missing(name, held) == wanted


def pod(*containers: dict[str, Any], conditions: list[dict[str, Any]] | None = None, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p"},
        "status": {"phase": "Pending", "containerStatuses": list(containers), "conditions": conditions, **status},
    }


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (
            pod({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off\n pulling"}}}),
            ["pod p: ImagePullBackOff: Back-off pulling"],
        ),
        (pod({"state": {"waiting": {"reason": "ContainerCreating"}}}), ["pod p: ContainerCreating"]),
        (
            pod(
                {
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                    "lastState": {"terminated": {"exitCode": 5, "message": "starting\ntoken_used: used before\n"}},
                }
            ),
            ["pod p: CrashLoopBackOff: token_used: used before"],
        ),
        (
            pod({"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}),
            ["pod p: ended with 137: OOMKilled"],
        ),
        (pod({"state": {"running": {}}}), ["pod p: runs, and is not ready"]),
        (
            pod(
                conditions=[
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no nodes"}
                ]
            ),
            ["pod p: Unschedulable: no nodes"],
        ),
        (pod(), ["pod p: Pending, not ready"]),
        (pod(phase="Failed", reason="Evicted"), ["pod p: Evicted, not ready"]),
        (pod({"state": {"running": {}}}, conditions=[{"type": "Ready", "status": "True"}]), []),
        ({**pod(), "metadata": {"name": "p", "deletionTimestamp": "now"}}, []),
        (
            pod(
                {"state": {"waiting": {"reason": "PodInitializing"}}, "ready": True},
                initContainerStatuses=[{"state": {"waiting": {"reason": "ErrImageNeverPull"}}}],
            ),
            ["pod p: ErrImageNeverPull"],
        ),
    ],
)
def test_why(found: dict[str, Any], wanted: list[str]) -> None:
    assert reasons(workload(), [found]) == wanted


def test_what_the_workload_itself_says_comes_first_and_each_thing_once() -> None:
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": "forbidden: PodSecurity",
    }
    held = workload(conditions=[failure, {"type": "Available", "status": "False", "reason": "x"}])
    assert reasons(held, [pod(), pod()]) == ["FailedCreate: forbidden: PodSecurity", "pod p: Pending, not ready"]


def test_a_long_message_is_cut() -> None:
    (line,) = reasons(workload(), [pod({"state": {"waiting": {"reason": "x", "message": "y" * 1000}}})])
    assert len(line) <= 300


@pytest.mark.parametrize(
    ("bundles", "wanted"),
    [
        ({"a": "LS0t", "b": "LS0t"}, ""),
        ({"a": "LS0t", "b": ""}, "no certificates yet for b: pods get no sidecar"),
        ({"a": "", "b": ""}, "no certificates yet for a, b: pods get no sidecar"),
        ({}, ""),
    ],
)
def test_webhooks_that_nobody_can_call(bundles: dict[str, str], wanted: str) -> None:
    hooks = [{"name": name, "clientConfig": {"caBundle": text} if text else {}} for name, text in bundles.items()]
    assert unregistered({"webhooks": hooks}) == wanted
