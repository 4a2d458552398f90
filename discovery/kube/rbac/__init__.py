"""What the agent may do in its cluster: each rule with its reason, nothing by wildcard, no Secret but its own; and an
admission policy for what rules cannot say, which Services and EndpointSlices it may write.

`fedctl install rbac` applies it, and the tests run the agent with exactly it.
"""

from __future__ import annotations

from importlib.resources import files

from federation.model.ids import SYSTEM_NAMESPACE

ACCOUNT = "isthmus-agent"
"""The service account that the agent runs as."""


def manifests(
    *, namespace: str = SYSTEM_NAMESPACE, create_namespaces: bool = False, in_pod: bool = False
) -> tuple[str, ...]:
    """YAML files with one or more documents; `create_namespaces` as in the agent's settings, `in_pod`: it joins by
    itself."""
    folder = files("discovery.kube.rbac")
    names = ("agent", "limits", *(["namespaces"] if create_namespaces else ()), *(["joining"] if in_pod else ()))
    return tuple((folder / f"{name}.yaml").read_text().replace(SYSTEM_NAMESPACE, namespace) for name in names)
