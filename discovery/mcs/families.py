"""Which IP families the Services of a cluster can have: the API server is asked, nothing is written."""

from __future__ import annotations

import msgspec

from discovery.kube.client import KubeClient
from discovery.kube.resources import SERVICES

PROBE = "isthmus-families"


class _Spec(msgspec.Struct, rename="camel"):
    ip_families: list[str] = []


class _Service(msgspec.Struct):
    spec: _Spec = msgspec.field(default_factory=_Spec)


async def service_families(client: KubeClient) -> tuple[str, ...]:
    """The families, the default first. Raises the errors of discovery.kube.errors."""
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": PROBE, "namespace": "default"},
        "spec": {"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 1, "protocol": "TCP"}]},
    }
    answer = await client.apply(SERVICES, "default", PROBE, msgspec.json.encode(body), dry_run=True)
    return tuple(msgspec.json.decode(answer, type=_Service).spec.ip_families) or ("IPv4",)
