"""The state folder of an agent: one agent at a time, what it was told when it joined, and what it saves as it goes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import DecodeError

from discovery.join import KEYS, REGISTRY_BUNDLE
from discovery.state import Saver, load_or_none
from federation.aio.clock import Clock
from federation.aio.files import read_state, write_atomic
from federation.errors import Conflict, CorruptState, NotFound, StorageFailed
from federation.log import Logger
from federation.model.cluster import Bundle, Problem
from federation.model.wire import bundle_from_pb
from federation.proto.v1 import records_pb2

PORTS = "ports.json"

T = TypeVar("T")


class StateFolder:
    """Locked from the moment when it is made until `close`."""

    def __init__(self, path: Path, *, clock: Clock, log: Logger) -> None:
        """Raises NotFound (no cluster has joined there), Conflict (in use), StorageFailed."""
        self.path, self._clock, self._log = path, clock, log
        self._lock = _lock(path)
        self._savers: dict[str, Saver] = {}
        self._ports: dict[str, int] = {}

    def registry_bundle(self) -> Bundle:
        """By what the registry is known. Unlike a view, it cannot be rebuilt from elsewhere: raises NotFound,
        CorruptState."""
        path = self.path / REGISTRY_BUNDLE
        data = read_state(path)
        if data is None:
            raise NotFound(f"{path} is missing", hint="join again in a new directory", code="not_joined")
        try:
            return bundle_from_pb(records_pb2.Bundle.FromString(data))
        except DecodeError as error:
            raise CorruptState(f"{path} holds no bundle", hint="join again in a new directory") from error

    def load(self, name: str, decode: Callable[[bytes], T]) -> T | None:
        """What `decode` makes of the file `name`; None where there is none, or where it is damaged."""
        return load_or_none(self.path / name, decode, self._log)

    def keep(
        self,
        dumps: Mapping[str, Callable[[], bytes | Callable[[], bytes]]],
        *,
        interval: Callable[[str], float],
        on_problem: Callable[[], None],
    ) -> None:
        """Save what these make in the files of their names after `touch`, once in `interval` seconds at most."""
        for name, dump in dumps.items():
            self._savers[name] = Saver(
                self.path / name,
                dump,
                interval=interval(name),
                clock=self._clock,
                log=self._log,
                on_problem=on_problem,
            )

    def touch(self, name: str) -> None:
        """What belongs into the file `name` has changed."""
        self._savers[name].touch()

    def saving(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What is to run, by name, so that it is saved."""
        return {f"save-{name}": saver.run() for name, saver in self._savers.items()}

    def problems(self) -> Iterator[Problem]:
        """What could not be written."""
        return (saver.problem for saver in self._savers.values() if saver.problem is not None)

    def write_ports(self, **ports: int) -> None:
        """Add to ports.json the ports that were picked, by their settings."""
        self._ports.update(ports)
        try:
            write_atomic(self.path / PORTS, msgspec.json.encode(self._ports) + b"\n", mode=0o644)
        except StorageFailed as error:
            self._log.error("ports not written", error=str(error))

    async def flush(self) -> None:
        """Save what was touched now."""
        for saver in self._savers.values():
            await saver.flush()

    def close(self) -> None:
        """Another agent may use it."""
        os.close(self._lock)


def in_use(path: Path) -> bool:
    """Whether an agent runs in this state folder. Raises StorageFailed."""
    try:
        os.close(_lock(path))
    except NotFound:
        return False
    except Conflict:
        return True
    return False


def _lock(path: Path) -> int:
    """Held by the descriptor that is returned."""
    if not (path / KEYS).is_dir():
        raise NotFound(f"{path} holds no cluster that has joined", hint="run: fedctl cluster join", code="not_joined")
    try:
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFailed(f"cannot use the state directory {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Conflict(f"another agent uses {path}", code="state_directory_in_use") from error
    return descriptor
