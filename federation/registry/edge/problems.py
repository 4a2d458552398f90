"""What is wrong at an edge process now: for Presence (and so `fedctl status`), for logs, and since when."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from federation.aio.clock import Clock
from federation.log import Logger
from federation.model.cluster import Problem

MAX_PROBLEMS = 50
"""Problems that are reported; more of them tell a reader no more."""

MAX_DETAIL = 500


class Problems:
    """A set of problems keyed by (code, subject); `on_change` is called when it changes."""

    def __init__(self, *, clock: Clock, log: Logger, on_change: Callable[[], None]) -> None:
        self._clock, self._log, self._on_change = clock, log, on_change
        self._items: dict[tuple[str, str], Problem] = {}

    def set(self, code: str, subject: str, detail: str) -> None:
        """Something is wrong; telling it again with the same detail changes nothing."""
        detail = detail[:MAX_DETAIL]
        old = self._items.get((code, subject))
        if old is not None and old.detail == detail:
            return
        since = old.since_ns if old is not None else self._clock.wall_ns()
        self._items[code, subject] = Problem(code, subject, detail, since)
        self._log.warning("problem", code=code, subject=subject, detail=detail)
        self._on_change()

    def clear(self, code: str, subject: str) -> None:
        """It is not wrong any more."""
        if self._items.pop((code, subject), None) is not None:
            self._log.info("problem ended", code=code, subject=subject)
            self._on_change()

    def replace(self, code: str, details: Mapping[str, str]) -> None:
        """All problems of `code` are exactly these: subject → detail."""
        for subject in [s for c, s in self._items if c == code and s not in details]:
            self.clear(code, subject)
        for subject, detail in details.items():
            self.set(code, subject, detail)

    def all(self) -> tuple[Problem, ...]:
        """The first MAX_PROBLEMS, in the order in which they began."""
        return tuple(sorted(self._items.values(), key=lambda p: (p.since_ns, p.code, p.subject))[:MAX_PROBLEMS])

    def __len__(self) -> int:
        return len(self._items)
