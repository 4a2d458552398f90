"""The workloads whose pods read a Corefile: restarted pod by pod, so that all of them serve what is in it now.

By itself each pod of CoreDNS takes a change up when it likes: kubelets look at ConfigMaps once a minute, the plugin
`reload` once in 45 s, and a Corefile without it is never read again. Which of them has, no pod tells. A pod that
started afterwards has; so the template of the pods says in an annotation which change they began with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from discovery.kube.objects import DAEMON_SETS, DEPLOYMENTS, Name
from discovery.kube.stubdomain import Edit
from federation.cli.installation.formersettings import mounted
from federation.cli.installation.plan import Wave
from federation.cli.installation.work import Worker

ANNOTATION = "isthmus.io/corefile"
"""On the template: the block of ours in the Corefile and the version of the ConfigMap that its pods began with."""
_MANAGER = "isthmus-corefile"

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Reader:
    """A workload whose pods read the Corefile. `mark`: the annotation that its template is to get; empty where its pods
    have begun with this Corefile."""

    name: Name
    mark: str


async def readers(worker: Worker, configmap: str, edit: Edit) -> list[Reader]:
    """The workloads of the worker's namespace that mount `configmap`."""
    return sorted(
        [
            Reader(Name(resource.kind, worker.namespace, held["metadata"]["name"]), due(held, edit))
            for resource in (DEPLOYMENTS, DAEMON_SETS)
            async for page in worker.client.pages(resource, namespace=worker.namespace)
            for held in map(msgspec.json.decode, page.items)
            if reads(held, configmap)
        ]
    )


async def renew(worker: Worker, found: Sequence[Reader], *, wait: float) -> None:
    """Restart those that are due, and wait up to `wait` seconds for each until all of its pods have begun anew.

    Raises NotReady.
    """
    for reader in found:
        if reader.mark:
            await _mark(worker, reader)
    for reader in found:
        name = reader.name
        what = "is restarted pod by pod" if reader.mark else "has this Corefile"
        worker.say(f"{name.title} {what}: waiting until each of its pods has begun with it")
        hint = f"kubectl -n {name.namespace} rollout status {name.kind.lower()}/{name.name}; the same command goes on"
        await worker.wait(Wave(name.title, (), (name,)), wait, hint=hint)


def reads(workload: Object, configmap: str) -> bool:
    """Whether its pods mount the ConfigMap."""
    return configmap in mounted(workload["spec"]["template"].get("spec") or {})


def due(workload: Object, edit: Edit) -> str:
    """See Reader.mark."""
    annotations = workload["spec"]["template"].get("metadata", {}).get("annotations") or {}
    block, _, _ = annotations.get(ANNOTATION, "none").partition("@")
    wanted = edit.block or "none"
    return f"{wanted}@{edit.version}" if edit.diff or block != wanted else ""


async def _mark(worker: Worker, reader: Reader) -> None:
    name = reader.name
    body = {
        "apiVersion": name.resource.api_version,
        "kind": name.kind,
        "metadata": {"name": name.name, "namespace": name.namespace},
        "spec": {"template": {"metadata": {"annotations": {ANNOTATION: reader.mark}}}},
    }
    data = msgspec.json.encode(body)
    await worker.client.apply(name.resource, name.namespace, name.name, data, field_manager=_MANAGER)
