"""Puts our stub domain into the ConfigMap of a cluster's CoreDNS, and takes it out.

Read, changed by discovery.kube.corefile, written back under the resourceVersion that was read: what somebody else
writes at the same time is never lost.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from discovery.kube import corefile
from discovery.kube.client import KubeClient
from discovery.kube.errors import Conflict, NotFound
from discovery.kube.objects import MANAGER
from discovery.kube.resources import CONFIG_MAPS
from federation.errors import InvalidInput

_KEY = "Corefile"
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Edit:
    """What was done, or would be. `diff`: in unified form, empty where nothing changes. `reloads`, `block`: see
    corefile. `version`: the resourceVersion of the ConfigMap with this Corefile."""

    diff: str
    reloads: bool
    block: str = ""
    version: str = ""


async def edit(
    client: KubeClient, namespace: str, name: str, change: Callable[[str], str], *, dry_run: bool = False
) -> Edit:
    """Let `change` make another Corefile of the ConfigMap's.

    Raises NotFound (no_coredns), InvalidInput, Conflict; and what `change` raises.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        held = await _read(client, namespace, name)
        data = held.get("data") or {}
        if not isinstance(text := data.get(_KEY), str):
            raise InvalidInput(f"the ConfigMap {namespace}/{name} has no {_KEY}", code="corefile_not_understood")
        changed = change(text)
        version = held["metadata"]["resourceVersion"]
        made = Edit(_diff(text, changed), corefile.reloads(changed), corefile.block_of(changed), version)
        if dry_run or not made.diff:
            return made
        body = msgspec.json.encode({**held, "data": {**data, _KEY: changed}})
        try:
            written = await client.update(CONFIG_MAPS, namespace, name, body, field_manager=MANAGER)
        except Conflict:
            if attempt == _ATTEMPTS:
                raise
        else:
            return replace(made, version=msgspec.json.decode(written)["metadata"]["resourceVersion"])
    raise AssertionError("the loop returns or raises")


async def _read(client: KubeClient, namespace: str, name: str) -> dict[str, Any]:
    try:
        held: dict[str, Any] = msgspec.json.decode(await client.get(CONFIG_MAPS, namespace, name))
    except NotFound as error:
        raise NotFound(
            f"there is no ConfigMap {namespace}/{name}: does this cluster use CoreDNS?",
            hint="name the one with its Corefile: --configmap NAMESPACE/NAME",
            code="no_coredns",
        ) from error
    held.get("metadata", {}).pop("managedFields", None)
    return held


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), fromfile=f"{_KEY} now", tofile=f"{_KEY} then", lineterm=""
    )
    text = "\n".join(lines)
    return text or ("(white space at its end)" if before != after else "")
