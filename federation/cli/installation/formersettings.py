"""Settings of before: a component's ConfigMap is named by what is in it, and pods of an older revision keep theirs.

They find it when their container begins anew, so it goes after them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from discovery.kube.objects import Name
from federation.cli.installation.record import COMPONENTS

Object = Mapping[str, Any]
_NAME = re.compile(r"isthmus-([a-z]+)(?:-[0-9a-f]{10})?\Z", re.ASCII)
"""As the chart makes it (`isthmus.settings.name`), or as it was before it told what is in it."""
_TITLES = {key: title for title, key in COMPONENTS.items()}


def component_of(name: Name) -> str:
    """Whose settings it is, as `fedctl` calls the component; empty for everything else."""
    found = _NAME.match(name.name) if name.kind == "ConfigMap" else None
    return _TITLES.get(found[1], "") if found else ""


def still_read(gone: Iterable[Name], components: Collection[str], pods: Iterable[Object]) -> frozenset[Name]:
    """Those of `gone` that have to stay: settings of `components` that stay, which a pod may begin anew with.

    `pods`: those of the namespace, and templates that may make some yet.
    """
    read = {name for pod in pods if _may_begin(pod) for name in mounted(pod.get("spec") or {})}
    return frozenset(name for name in gone if name.name in read and component_of(name) in components)


def mounted(pod: Object) -> Iterator[str]:
    """The ConfigMaps that a pod of this specification mounts."""
    for volume in pod.get("volumes") or ():
        sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        yield from (source["configMap"].get("name", "") for source in sources if source.get("configMap"))


def _may_begin(pod: Object) -> bool:
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not ended and not pod["metadata"].get("deletionTimestamp")
