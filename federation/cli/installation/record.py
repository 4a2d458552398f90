"""What an installation remembers of itself, in ConfigMap isthmus-values of its namespace.

What a person gave, the version that runs, the highest that was begun, and every object that was made; nothing secret.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from discovery.kube.objects import PART_OF, Name
from federation.cli.chart import values as trees
from federation.cli.chart.values import Values
from federation.cli.installation.skew import Version
from federation.errors import CorruptState, InvalidInput

NAME = "isthmus-values"
LABEL = "isthmus.io/record"
"""Label of the ConfigMap, by which installations in other namespaces are found."""
COMPONENTS: Mapping[str, str] = {
    "registry": "registry",
    "agent": "agent",
    "gateway": "gateway",
    "webhook": "injector",
}
"""What `fedctl` calls a component, in the order of an upgrade → its key in the values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`values` is what was given, without the chart's defaults; `resource_version` is that of what was read."""

    namespace: str
    version: str = ""
    """All of what is installed is of it, or was before an upgrade that has not ended."""
    reached: str = ""
    """The highest that was begun since all was last of one version: it may have written to disk what others cannot
    read. Empty: `version`."""
    values: Values = field(default_factory=dict)
    objects: frozenset[Name] = frozenset()
    made_namespace: bool = False
    resource_version: str = ""

    @property
    def components(self) -> tuple[str, ...]:
        """Those that are installed, as `fedctl` calls them."""
        return tuple(name for name, key in COMPONENTS.items() if enabled(self.values, key))

    def document(self) -> dict[str, Any]:
        """The ConfigMap; with a resourceVersion it is only written over what was read."""
        metadata: dict[str, Any] = {
            "name": NAME,
            "namespace": self.namespace,
            "labels": {PART_OF: "isthmus", LABEL: "values", "app.kubernetes.io/managed-by": "isthmus"},
        }
        if self.resource_version:
            metadata["resourceVersion"] = self.resource_version
        data = {
            "version": self.version,
            "reached": self.reached or self.version,
            "values.yaml": trees.dump(self.values),
            "objects": "".join(f"{one}\n" for one in sorted(self.objects)),
            "namespace": "made" if self.made_namespace else "found",
        }
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}

    @classmethod
    def parse(cls, body: bytes) -> Record:
        """Raises CorruptState where somebody has changed it to what cannot be read."""
        held = json.loads(body)
        metadata, data = held["metadata"], held.get("data") or {}
        where = f"ConfigMap {metadata['namespace']}/{NAME}"
        try:
            values = trees.parse(data["values.yaml"], where=where)
            objects = frozenset(Name.parse(line) for line in data["objects"].split())
            return cls(
                namespace=metadata["namespace"],
                version=data["version"],
                reached=data.get("reached", data["version"]),
                values=values,
                objects=objects,
                made_namespace=data.get("namespace") == "made",
                resource_version=metadata["resourceVersion"],
            )
        except (KeyError, ValueError, TypeError, yaml.YAMLError, InvalidInput) as error:
            raise CorruptState(
                f"{where} cannot be read: {error}", hint="restore it, or delete it and install with all values again"
            ) from error


def begin(before: Record | None, after: Record, names: Iterable[Name]) -> Record:
    """What is written down before the first of `names` is applied: all of before is there until `after` is done."""
    if before is None:
        return replace(after, objects=frozenset(names))
    reached = max(before.version, before.reached or before.version, after.version, key=Version.parse)
    return replace(after, objects=before.objects | frozenset(names), version=before.version, reached=reached)


def end(now: Record, begun: Record, after: Record, gone: Iterable[Name]) -> Record:
    """What `now` is when all of `after` is there, as this run has `begun` it. Another one may have begun with a higher
    version meanwhile, of which this one knows nothing."""
    kept = replace(now, objects=now.objects - frozenset(gone))
    if now.reached != (begun.reached or begun.version):
        return kept
    return replace(kept, version=after.version, reached=after.version)


def enabled(values: Mapping[str, Any], key: str) -> bool:
    """Whether the values turn the component on."""
    part = values.get(key)
    return isinstance(part, Mapping) and part.get("enabled") is True


def switched(names: Iterable[str], *, on: bool) -> Values:
    """Values that turn components on or off."""
    return {COMPONENTS[name]: {"enabled": on} for name in names}
