"""The Envoy beside an edge process: its bootstrap and its supervision, from the settings."""

from __future__ import annotations

from pathlib import Path

from federation.envoy.bootstrap import bootstrap
from federation.envoy.process import EnvoyProcess, find_envoy
from federation.registry.edge.settings import EdgeSettings
from federation.registry.edge.state import StateDirectory


def make_envoy(settings: EdgeSettings, state: StateDirectory, *, drain_seconds: float) -> EnvoyProcess:
    """Raises Unavailable or InvalidInput where there is no Envoy that can be used: before anything else is started."""
    executable = find_envoy(Path(settings.envoy.path) if settings.envoy.path else None)
    return EnvoyProcess(
        bootstrap(
            node_id=settings.name,
            cluster=settings.namespace,
            ads_path=state.ads,
            admin_path=state.admin,
            max_connections=settings.envoy.max_connections,
            region=settings.locality.region,
            zone=settings.locality.zone,
        ),
        state.path,
        executable=executable,
        concurrency=settings.envoy.concurrency,
        drain_seconds=drain_seconds,
        log_level=settings.envoy.log_level,
    )
