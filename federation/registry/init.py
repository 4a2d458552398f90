"""Makes a new federation: the registry's CA, its store, settings.yaml, and the operator's credentials."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import yaml

from federation.aio.clock import Clock, SystemClock
from federation.aio.files import write_atomic
from federation.errors import AlreadyExists, StorageFailed
from federation.registry import settings as parse
from federation.registry.credentials import open_authority, write_operator
from federation.registry.settings import (
    DEFAULT_ENROLMENT,
    DEFAULT_LISTEN,
    DEFAULT_METRICS,
    RegistrySettings,
)
from federation.store.sqlite import SqliteStore

STORE_FILE = "registry.db"
SETTINGS_FILE = "settings.yaml"


def init(
    directory: Path,
    federation: str,
    *,
    listen: str = DEFAULT_LISTEN,
    enrolment: str = DEFAULT_ENROLMENT,
    metrics: str = DEFAULT_METRICS,
    advertise: str = "",
    advertise_enrolment: str = "",
    single_machine: bool = False,
    clock: Clock | None = None,
    **more: Any,
) -> Path:
    """Make a registry below `directory` and return its settings file; `more` are further settings.

    Blocks (keys, disk). Raises AlreadyExists where there is one, InvalidName, InvalidSettings, StorageFailed.
    """
    path = directory / SETTINGS_FILE
    settings = parse.check(
        RegistrySettings(
            federation=federation,
            directory=str(directory.resolve()),
            listen=listen,
            enrolment=enrolment,
            metrics=metrics,
            advertise=advertise,
            advertise_enrolment=advertise_enrolment,
            single_machine=single_machine,
            **more,
        )
    )
    if path.exists():
        raise AlreadyExists(
            f"{directory} holds a registry already", hint="choose another directory, or start it: fedctl registry serve"
        )
    make(settings, clock=clock)
    return path


def make(settings: RegistrySettings, *, clock: Clock | None = None, mounted: bool = False) -> None:
    """Make what `settings` need in their directory; what an attempt before has left there counts. Blocks.

    `mounted`: it may be the root of a volume, which belongs to somebody else and is only this process's to see. Raises
    CorruptState, Conflict, Denied, StorageFailed.
    """
    clock, directory = clock or SystemClock(), settings.path
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(*((PermissionError,) if mounted else ())):
            directory.chmod(0o700)
    except OSError as error:
        raise StorageFailed(f"cannot make {directory}: {error.strerror}") from error
    write_operator(settings, open_authority(settings, clock))
    SqliteStore.open(directory / STORE_FILE, clock=clock).close_now()
    write_settings(settings)  # last: what has settings is whole


def write_settings(settings: RegistrySettings) -> None:
    """Keep them in their directory, for the next start. Raises StorageFailed."""
    tree = msgspec.to_builtins(settings)
    tree["directory"] = "."  # the folder may be moved
    text = "# Settings of this registry; docs/settings.md explains each.\n" + yaml.safe_dump(tree, sort_keys=False)
    write_atomic(settings.path / SETTINGS_FILE, text.encode())
