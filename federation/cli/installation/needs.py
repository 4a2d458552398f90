"""Who goes on without its agent only until its certificate expires, within the hour: gateways, the webhook, sidecars.

Imports are then kept up to date by nobody, and lead to clusters that may have gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from discovery.kube.objects import PODS
from discovery.kube.resources import MCS, MCS_VERSIONS, service_imports
from discovery.kube.types import MANAGER
from discovery.sources.manifests import MANAGED_BY
from federation.errors import Conflict

if TYPE_CHECKING:
    from federation.cli.installation.work import Worker

_SHOWN = 3
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """`components` as `fedctl` calls them; the rest as NAMESPACE/NAME."""

    components: Sequence[str] = ()
    pods: Sequence[str] = ()
    imports: Sequence[str] = ()

    def check(self, cluster: str) -> None:
        """Raises Conflict (`needed_by`) when there is anybody. `cluster`: its name, empty where nobody has given it."""
        told = list(self.components)
        if self.pods:
            told.append(f"{counted(len(self.pods), 'pod')} with a sidecar ({some(self.pods)})")
        if self.imports:
            told.append(f"{counted(len(self.imports), 'import')} ({some(self.imports)})")
        if told:
            leave = f"fedctl cluster leave {cluster}".strip()
            raise Conflict(
                f"the agent is needed by {', '.join(told)}",
                hint=f"`{leave}` takes the imports away, `fedctl uninstall all` the components too; pods lose their "
                "sidecar when they are made anew without the label; --force removes the agent all the same",
                code="needed_by",
            )


async def look(worker: Worker, components: Iterable[str]) -> Needs:
    """What needs the agent, beside the `components` that stay. Raises the errors of discovery.kube.errors."""
    return Needs(
        components=[one for one in components if one in ("gateway", "webhook")],
        pods=await injected_pods(worker),
        imports=await worker.patiently(lambda: _imports(worker)),
    )


async def injected_pods(worker: Worker) -> list[str]:
    """The pods of the cluster that run with a sidecar."""
    return await worker.patiently(lambda: _injected_pods(worker))


async def _injected_pods(worker: Worker) -> list[str]:
    from sidecar.injector.options import INJECTED

    found = []
    async for page in worker.client.pages(PODS):
        for item in page.items:
            pod: dict[str, Any] = msgspec.json.decode(item)
            metadata = pod["metadata"]
            ended = (pod.get("status") or {}).get("phase") in _ENDED or metadata.get("deletionTimestamp")
            if INJECTED in (metadata.get("annotations") or {}) and not ended:
                found.append(f"{metadata['namespace']}/{metadata['name']}")
    return sorted(found)


async def _imports(worker: Worker) -> list[str]:
    """The imports that the agents have written."""
    version = (await worker.client.served(MCS, refresh=True)).version("serviceimports", MCS_VERSIONS)
    if version is None:
        return []
    pages = worker.client.pages(service_imports(version), label_selector=f"{MANAGED_BY}={MANAGER}")
    metadata = [msgspec.json.decode(item)["metadata"] async for page in pages for item in page.items]
    return sorted(f"{one['namespace']}/{one['name']}" for one in metadata)


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def some(names: Sequence[str]) -> str:
    """The first of them."""
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
