"""A registry in a pod: its settings are a ConfigMap, its folder a volume that is empty at the first start.

Arrives: the settings file. Leaves: a folder with a CA, a store and an operator's credential, in which the registry of
these settings serves. What is there already stays: only the settings are those of the file at each start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from federation import log
from federation import settings as files
from federation.aio.clock import Clock
from federation.errors import Conflict, StorageFailed
from federation.registry import settings as parse
from federation.registry.init import SETTINGS_FILE, make, write_settings
from federation.registry.settings import RegistrySettings

STATE_DIRECTORY = "/var/lib/isthmus"


class PodRegistrySettings(RegistrySettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a registry in a pod."""

    directory: str = STATE_DIRECTORY


def load(path: Path, changes: Sequence[str] = ()) -> PodRegistrySettings:
    """Read and check the settings at `path`, with `changes` (see federation.settings.load).

    Raises InvalidSettings or InvalidInput naming the key.
    """
    return parse.check(parse.below(files.load(path, PodRegistrySettings, changes), path.resolve().parent))


def prepare(settings: RegistrySettings, *, clock: Clock | None = None) -> None:
    """Make the registry where there is none; otherwise keep its settings up to date. Blocks.

    Raises Conflict (`other_federation`: the folder holds another one's registry), CorruptState, Denied, StorageFailed
    (`volume_closed`: the volume is not this process's to write).
    """
    _check_volume(settings.path)
    path = settings.path / SETTINGS_FILE
    try:
        there = path.exists()
    except OSError as error:
        raise StorageFailed(f"cannot read {path}: {error.strerror}") from error
    if not there:
        make(settings, clock=clock, mounted=True)
        log.get("registry").info("registry made", federation=settings.federation, directory=settings.directory)
        return
    held = parse.load(path)
    if held.federation != settings.federation:
        raise Conflict(
            f"{settings.directory} holds the registry of {held.federation}, the settings are for {settings.federation}",
            hint="a federation's domain is for good: correct `federation`, or give a new registry its own volume",
            code="other_federation",
        )
    write_settings(settings)


def _check_volume(directory: Path) -> None:
    """Storage that ignores fsGroup leaves a volume to root. What is said fits the line that a pod's status shows."""
    try:
        read_only = bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:
        return  # it is not there, or what comes next says why it cannot be read
    if not read_only and not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise StorageFailed(
            f"user {os.geteuid()} cannot write to the volume {directory}",
            hint=f"its storage ignores fsGroup: chgrp {os.getegid()} and chmod 2770 it, or set "
            "registry.persistence.storageClass",
            code="volume_closed",
        )
