"""State files of the agent: what cannot be written is shown; what is damaged is put aside and rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from federation.aio import saver
from federation.aio.clock import Clock
from federation.aio.files import read_state
from federation.errors import CorruptState, IsthmusError
from federation.log import Logger
from federation.model.cluster import Problem

T = TypeVar("T")


def read_or_none(path: Path, log: Logger) -> bytes | None:
    """The state at `path`; None where there is none or where it is damaged, which is logged and put aside."""
    try:
        return read_state(path)
    except CorruptState as error:
        set_aside(path, log, error)
    except IsthmusError as error:
        log.error("state unreadable", file=path.name, error=str(error))
    return None


def load_or_none(path: Path, decode: Callable[[bytes], T], log: Logger) -> T | None:
    """What `decode` makes of the state at `path`; None as `read_or_none`, and where it raises CorruptState."""
    data = read_or_none(path, log)
    if data is None:
        return None
    try:
        return decode(data)
    except CorruptState as error:
        set_aside(path, log, error)
        return None


def set_aside(path: Path, log: Logger, error: Exception) -> None:
    """Keep a damaged file beside itself as `<name>.corrupt`, for whoever wants to know why."""
    log.error("state damaged, rebuilding it", file=path.name, error=str(error))
    try:
        path.replace(path.with_name(path.name + ".corrupt"))
    except OSError as failure:
        log.warning("the damaged state stays", file=path.name, error=str(failure))


class Saver(saver.Saver):
    """federation.aio.saver.Saver that logs what fails and shows it as a Problem."""

    def __init__(
        self,
        path: Path,
        dump: Callable[[], bytes | Callable[[], bytes]],
        *,
        interval: float,
        clock: Clock,
        log: Logger,
        on_problem: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(path, dump, interval=interval, clock=clock, on_result=self._result)
        self._log, self._on_problem = log, on_problem
        self.problem: Problem | None = None

    def _result(self, error: IsthmusError | None) -> None:
        if (error is None) == (self.problem is None):
            return
        if error is not None:
            self._log.error("state not written", file=self._path.name, error=str(error))
            self.problem = Problem(error.error_code, self._path.name, error.message, self._clock.wall_ns())
        else:
            self.problem = None
        self._on_problem()
