"""Makes the sources that the settings name, in the order in which they decide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from discovery.consul.cache import NEW
from discovery.settings import AgentSettings
from discovery.sources.combined import Part
from discovery.sources.consul import ConsulSource
from discovery.sources.files import FileSource
from discovery.sources.kubernetes import KubernetesSource
from federation.aio.clock import Clock
from federation.log import Logger

MANIFESTS, KUBERNETES, CONSUL = "manifests.state", "kubernetes.state", "consul.state"
"""Files in the state directory."""


def make_parts(settings: AgentSettings, *, clock: Clock, log: Logger) -> list[Part]:
    """The sources of settings that were checked."""
    parts = []
    if settings.kubernetes is not None:
        kubernetes = KubernetesSource(
            settings.kubernetes,
            cache_path=settings.path / KUBERNETES,
            locality=settings.place,
            clock=clock,
            log=log,
            cache_seconds=settings.save,
        )
        parts.append(Part("kubernetes", kubernetes))
    if settings.consul is not None:
        consul = ConsulSource(
            settings.consul,
            cache_path=settings.path / CONSUL,
            locality=settings.place,
            single_machine=settings.single_machine,
            clock=clock,
            log=log,
            cache_seconds=settings.save,
            first=settings.path / NEW,
            alone=settings.kubernetes is None,
        )
        parts.append(Part("consul", consul))
    if settings.files is not None:
        files = FileSource(
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
        parts.append(Part("files", files))
    return parts


def kubernetes_of(parts: Sequence[Part]) -> KubernetesSource | None:
    """The one among them that reads, and can write to, an API server."""
    return next((part.source for part in parts if isinstance(part.source, KubernetesSource)), None)
