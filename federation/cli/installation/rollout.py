"""Whether a workload runs as it was applied, and if not, what keeps it.

Pure: from the objects as the API server has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from discovery.kube.objects import Name

Object = Mapping[str, Any]
_LINE = 300
"""Characters of a reason: the line with which a process of ours ended, hint and all."""


def missing(name: Name, workload: Object) -> str:
    """What the workload lacks; empty when every replica is of this revision and ready."""
    spec, status = workload.get("spec", {}), workload.get("status", {})
    wanted = spec.get("replicas", 1)
    if status.get("observedGeneration", 0) < workload["metadata"].get("generation", 0):
        return "not taken up yet"
    if name.kind == "DaemonSet":
        return _on_nodes(status)
    updated, ready = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
    if name.kind == "StatefulSet" and status.get("updateRevision") == status.get("currentRevision"):
        updated = max(updated, status.get("currentReplicas", 0))
    if updated < wanted:
        return f"{updated} of {wanted} replicas are of this version"
    if status.get("replicas", 0) > updated:
        return f"{status['replicas'] - updated} old replicas have not ended"
    if ready < wanted:
        return f"{ready} of {wanted} replicas are ready"
    return ""


def unregistered(configuration: Object) -> str:
    """What a MutatingWebhookConfiguration of ours lacks; empty when API servers can call all of it."""
    lacking = [one["name"] for one in configuration.get("webhooks") or () if not one["clientConfig"].get("caBundle")]
    return f"no certificates yet for {', '.join(lacking)}: pods get no sidecar" if lacking else ""


def _on_nodes(status: Object) -> str:
    wanted, updated = status.get("desiredNumberScheduled", 0), status.get("updatedNumberScheduled", 0)
    if updated < wanted:
        return f"{updated} of {wanted} pods are of this version"
    if (ready := status.get("numberReady", 0)) < wanted:
        return f"{ready} of {wanted} pods are ready"
    return ""


def reasons(workload: Object, pods: Iterable[Object]) -> list[str]:
    """What the pods that are not ready, and the workload itself, say about it; each once."""
    found = [f"{one['reason']}: {one.get('message', '')}" for one in _failing(workload)]
    for pod in pods:
        if not pod["metadata"].get("deletionTimestamp"):
            found += [f"pod {pod['metadata']['name']}: {text}" for text in _of_pod(pod)]
    return list(dict.fromkeys(_line(text) for text in found))


def _failing(workload: Object) -> Iterable[Mapping[str, str]]:
    for one in workload.get("status", {}).get("conditions") or ():
        if (one["type"], one["status"]) in (("ReplicaFailure", "True"), ("Progressing", "False")):
            yield one


def _of_pod(pod: Object) -> list[str]:
    status = pod.get("status", {})
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    if conditions.get("Ready", {}).get("status") == "True":
        return []
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    told = [text for one in containers if (text := _of_container(one))]
    if told:
        return told
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return [f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}"]
    return [f"{status.get('reason') or status.get('phase', 'Pending')}, not ready"]


def _of_container(container: Object) -> str:
    if container.get("ready"):
        return ""
    state, last = container.get("state") or {}, container.get("lastState") or {}
    ended = state.get("terminated") or last.get("terminated") or {}
    said = (ended.get("message") or "").strip().splitlines()
    if waiting := state.get("waiting"):
        detail = said[-1] if said else waiting.get("message", "")
        return f"{waiting.get('reason', 'waiting')}: {detail}"
    if ended and "running" not in state:
        return f"ended with {ended.get('exitCode')}: {said[-1] if said else ended.get('reason', '')}"
    return "runs, and is not ready"


def _line(text: str) -> str:
    text = " ".join(text.split()).rstrip(": ")
    return text if len(text) <= _LINE else text[: _LINE - 1] + "…"
