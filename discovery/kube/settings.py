"""The `kubernetes:` block of the agent's settings."""

from __future__ import annotations

import msgspec

from federation.errors import InvalidSettings
from federation.model.ids import SYSTEM_NAMESPACE, parse_label

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class KubernetesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which API server the agent reads and writes. Durations are seconds."""

    kubeconfig: str = ""
    """Relative paths start at the settings file. Empty: the service account of the pod that the agent runs in."""
    context: str = ""
    """Empty: the kubeconfig's current context."""
    page: int = 500
    """Objects per page of a list."""
    watch: float = 45.0
    """The server is asked to end a watch after this time; it is resumed where it ended. One that has not ended a third
    of it later (15 seconds at most) is taken for broken, so that a half-open connection is noticed within a minute."""
    create_namespaces: bool = False
    """Create the namespaces that imports need and the cluster lacks; otherwise those services are not imported."""
    namespace: str = SYSTEM_NAMESPACE
    """Where the agent keeps what its replicas share: Leases, pins, the cluster's identity."""
    gateway_service: str = ""
    """The Service before the gateways, in `namespace`: those whose address is `service` are reached where it says."""
    lease: float = 8.0
    """A replica that leads and was not heard of for this time is replaced by another."""
    renew: float = 2.0
    """Seconds between two renewals of the Lease."""
    confirm: float = 2.0
    """When all or more than half of what is known is missing from a list, it is asked for again after this time."""

    def check(self) -> None:
        """Raises InvalidSettings or InvalidName naming the key."""
        if not 1 <= self.page <= 10_000:
            raise InvalidSettings(f"kubernetes.page {self.page} is not between 1 and 10000")
        if not 1 <= self.watch <= 3600:
            raise InvalidSettings(f"kubernetes.watch {self.watch:g} is not between 1 and 3600 seconds")
        parse_label(self.namespace, what="kubernetes.namespace")
        if self.gateway_service:
            parse_label(self.gateway_service, what="kubernetes.gateway_service")
        if not 0 < self.renew * 3 <= self.lease <= 3600:
            raise InvalidSettings(
                f"kubernetes.lease {self.lease:g} is not at least three times kubernetes.renew {self.renew:g}, "
                "and at most an hour"
            )
        if not self.confirm >= 0:
            raise InvalidSettings("kubernetes.confirm must not be below 0 seconds")
        if self.context and not self.kubeconfig:
            raise InvalidSettings(
                "kubernetes.context is set and kubernetes.kubeconfig is not", hint="contexts stand in a kubeconfig"
            )
