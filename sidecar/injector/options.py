"""What every pod of a cluster gets alike: from the injector's settings, its agent and its own resolv.conf."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from federation import __version__
from federation.errors import InvalidInput

PREFIX = "isthmus.io/"
INJECT = f"{PREFIX}inject"
"""Label of namespaces and pods: enabled or disabled."""
ENABLED, DISABLED = ("enabled", "true"), ("disabled", "false")
WAY = f"{PREFIX}way"
INJECTED = f"{PREFIX}injected"
"""Annotation that tells which version of ours changed the pod."""
SETTINGS = f"{PREFIX}sidecar"
"""Annotation with the settings of the sidecar (docs/settings.md), which it reads as a file."""
TRUST = f"{PREFIX}trust"
"""Annotation with the roots (PEM) that the agent may prove itself by."""

SIDECAR = "isthmus-sidecar"
REDIRECT = "isthmus-redirect"
USER = 65532
DNS_ADDRESS, DNS_PORT = "127.0.0.1", 53
METRICS_PORT = 15464
"""Not the 9464 of our own pods: here the ports are the workload's too, and exporters of OpenTelemetry are at 9464."""
OUTBOUND_PORT = 15001
AUDIENCE = "isthmus"

_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi)?\Z", re.ASCII)


class Way(StrEnum):
    """How calls of a pod are caught (docs/injection.md)."""

    REDIRECT = "redirect"
    LOOPBACK = "loopback"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Quantities as Kubernetes writes them; an empty limit: none."""

    cpu: str = "10m"
    memory: str = "96Mi"
    cpu_limit: str = ""
    memory_limit: str = "256Mi"

    def __post_init__(self) -> None:
        for key in ("cpu", "memory", "cpu_limit", "memory_limit"):
            text = getattr(self, key)
            if text or not key.endswith("_limit"):
                check_quantity(text, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterDns:
    """Names as kubelet has pods resolve them: who answers, the cluster's domain, and the search list of the nodes."""

    servers: tuple[str, ...]
    domain: str = "cluster.local"
    searches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Of one cluster. `enrolment`: ADDRESS:PORT of the agent, no names: those a pod asks the sidecar for.

    `trust_domain` empty: whatever the roots vouch for. `roots`: PEM. `range` empty: the way's own default.
    `gateway_dns`: who answers pods of the gateway way, where the cluster's own DNS does not know the global names;
    empty: that is left as it is.
    """

    image: str
    trust_domain: str
    enrolment: tuple[str, ...]
    roots: str
    dns: ClusterDns
    image_pull_policy: str = "IfNotPresent"
    way: Way = Way.REDIRECT
    suffix: str = "global"
    range: str = ""
    gateway_dns: str = ""
    resources: Resources = field(default_factory=Resources)
    log_level: str = "info"
    names_limit: int = 1000
    own_namespace: str = "isthmus-system"
    version: str = __version__


def check_quantity(text: str, *, key: str) -> str:
    """`text` if it is a quantity as Kubernetes writes it; raises InvalidInput."""
    if not _QUANTITY.match(text):
        raise InvalidInput(f"{key} {text[:40]!r} is no quantity", hint="such as 50m or 128Mi", code="invalid_quantity")
    return text
