"""The `kubernetes:` block of the agent's settings."""

from __future__ import annotations

import msgspec

from federation.errors import InvalidSettings

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
    confirm: float = 2.0
    """When more than half of what is known is missing from a list, it is asked for again after this time."""

    def check(self) -> None:
        """Raises InvalidSettings naming the key."""
        if not 1 <= self.page <= 10_000:
            raise InvalidSettings(f"kubernetes.page {self.page} is not between 1 and 10000")
        if not 1 <= self.watch <= 3600:
            raise InvalidSettings(f"kubernetes.watch {self.watch:g} is not between 1 and 3600 seconds")
        if not self.confirm >= 0:
            raise InvalidSettings("kubernetes.confirm must not be below 0 seconds")
        if self.context and not self.kubeconfig:
            raise InvalidSettings(
                "kubernetes.context is set and kubernetes.kubeconfig is not", hint="contexts stand in a kubeconfig"
            )
