"""Makes the one source that the settings name."""

from __future__ import annotations

from pathlib import Path

from discovery.settings import AgentSettings
from discovery.sources.base import Source
from discovery.sources.files import FileSource
from discovery.sources.kubernetes import KubernetesSource
from federation.aio.clock import Clock
from federation.log import Logger

MANIFESTS, KUBERNETES = "manifests.state", "kubernetes.state"
"""Files in the state directory."""


def make_source(settings: AgentSettings, *, clock: Clock, log: Logger) -> Source:
    """The source of settings that were checked."""
    if settings.kubernetes is not None:
        return KubernetesSource(
            settings.kubernetes,
            cache_path=settings.path / KUBERNETES,
            locality=settings.place,
            clock=clock,
            log=log,
            cache_seconds=settings.save,
        )
    assert settings.files is not None  # noqa: S101 - checked: one of the two is set
    return FileSource(
        Path(settings.files.folder),
        cache_path=settings.path / MANIFESTS,
        locality=settings.place,
        clock=clock,
        log=log,
        poll_seconds=settings.files.poll,
        confirm_seconds=settings.files.confirm,
        max_bytes=settings.files.max_bytes,
        cache_seconds=settings.save,
    )
