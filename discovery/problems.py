"""What is wrong with this cluster now, by where it was noticed, each with the time since when it has been so."""

from __future__ import annotations

from collections.abc import Iterable

from federation.aio.clock import Clock
from federation.aio.latest import Latest
from federation.model.cluster import Problem

MAX_SHOWN = 100
"""Problems that travel and are shown; the rest is counted. A folder of nonsense must not fill the catalog."""


class ProblemBook:
    """Groups of problems; `changed` is set when the whole differs. A problem that stays keeps its `since_ns`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._groups: dict[str, tuple[Problem, ...]] = {}
        self.changed: Latest[tuple[Problem, ...]] = Latest(())

    def set(self, group: str, problems: Iterable[Problem]) -> None:
        """Replace what `group` ("source", "registry" …) has to say."""
        old = {(p.code, p.subject, p.detail): p for p in self._groups.get(group, ())}
        now = self._clock.wall_ns()
        new = []
        for problem in problems:
            known = old.get((problem.code, problem.subject, problem.detail))
            since = problem.since_ns or (known.since_ns if known else now)
            new.append(known or Problem(problem.code, problem.subject, problem.detail, since))
        if tuple(new) == self._groups.get(group, ()):
            return
        self._groups[group] = tuple(new)
        self.changed.set(self.all())

    def all(self) -> tuple[Problem, ...]:
        """Every problem, by group and in its order; at most MAX_SHOWN and a line that counts the others."""
        everything = [p for group in sorted(self._groups) for p in self._groups[group]]
        if len(everything) > MAX_SHOWN:
            more = len(everything) - MAX_SHOWN
            last = Problem("more_problems", "", f"{more} more; see the agent's log", everything[MAX_SHOWN].since_ns)
            return (*everything[:MAX_SHOWN], last)
        return tuple(everything)
