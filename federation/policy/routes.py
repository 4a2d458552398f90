"""Which names a service answers to. The sidecar and the gateway ask the same functions, so that they agree."""

from __future__ import annotations

from federation.model.ids import ServiceName

CLUSTERSET = "svc.clusterset.local"
"""The zone of the MCS DNS specification."""


def global_names(name: ServiceName, *, suffix: str) -> tuple[str, ...]:
    """The names that mean the whole federation: `<svc>.<ns>.svc.clusterset.local` and `<svc>.<ns>.<suffix>`."""
    return (f"{name.name}.{name.namespace}.{CLUSTERSET}", f"{name.name}.{name.namespace}.{suffix}")


def zones(*, suffix: str) -> tuple[str, str]:
    """What all names of services end with."""
    return (CLUSTERSET, suffix)


def pinned_name(name: ServiceName, cluster: str, *, suffix: str) -> str:
    """The name that means one cluster's copies: `<svc>.<ns>.<cluster>.<suffix>`."""
    return f"{name.name}.{name.namespace}.{cluster}.{suffix}"


def names(name: ServiceName, *, suffix: str, pinned: str | None) -> tuple[str, ...]:
    """What a caller may put into Host or :authority on its way to the service (pinned: to that one cluster)."""
    return global_names(name, suffix=suffix) if pinned is None else (pinned_name(name, pinned, suffix=suffix),)


def exported_names(name: ServiceName, cluster: str, *, suffix: str) -> tuple[str, ...]:
    """What the gateway of `cluster` accepts for its exported service: the global names and its own pinned one."""
    return (*global_names(name, suffix=suffix), pinned_name(name, cluster, suffix=suffix))
