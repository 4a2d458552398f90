"""Names whose objects could not be written: when each is tried again, and the problems that an operator is shown."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from discovery.kube.errors import Conflict, Invalid, NotFound, TooMany
from discovery.mcs.apply import NotRepaired
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock
from federation.errors import AlreadyExists, Denied, IsthmusError, Unavailable
from federation.log import Logger
from federation.model.cluster import Problem
from federation.model.ids import ServiceName

ROUNDS = 12
"""So often the objects of one name are written with less than CALM_SECONDS between, while the same is wanted of them;
then somebody else is writing them, too."""
REPAIR = 4
"""Rounds that mend everything of one name; after each rest they are given again."""
CALM_SECONDS = 30.0


class Troubles:
    """No I/O. `on_problems` is given all problems whenever they change, each once. `place` is what is written to,
    `what` an object there."""

    def __init__(
        self,
        *,
        on_problems: Callable[[list[Problem]], None],
        clock: Clock,
        rng: random.Random,
        log: Logger,
        place: str = "Kubernetes",
        what: str = "ServiceImport",
    ) -> None:
        self._place, self._what = place, what
        self._on_problems, self._clock, self._rng, self._log = on_problems, clock, rng, log
        self._problems: dict[ServiceName | str, Problem] = {}
        self._backoffs: dict[ServiceName, Backoff] = {}
        self._rounds: dict[ServiceName, tuple[int, float]] = {}
        self._fights: dict[ServiceName, bool] = {}  # with somebody else; whether it was written since the last rest

    def failing(self, name: ServiceName) -> bool:
        """Its last writes failed for more than a race."""
        return name in self._backoffs

    def round(self, name: ServiceName, what: object) -> None:
        """Something is to be written. Raises NotRepaired when that has been so too often."""
        now = self._clock.monotonic()
        rounds, last = self._rounds.get(name, (0, now))
        rounds = 1 if now - last > CALM_SECONDS and name not in self._fights else rounds + 1
        if rounds > ROUNDS:
            self._rounds[name] = (ROUNDS - REPAIR, now)
            self._fights[name] = False
            raise NotRepaired(f"the objects of {name} are changed again and again: {what}")
        self._rounds[name] = (rounds, now)
        if name in self._fights:
            self._fights[name] = True

    def wanted(self, name: ServiceName) -> None:
        """Something else is wanted of it: what was written for it so far is no fight."""
        self._rounds.pop(name, None)
        self._fights.pop(name, None)

    def over(self, name: ServiceName, problem: Problem | None) -> float:
        """It is as it should be, but for `problem`, which is no failure. Seconds for which it is to be left alone.

        Where somebody else had to be overwritten only a rest shows whether it stays so.
        """
        if self._fights.get(name):
            self._fights[name] = False
            return self._backoffs[name].next() if name in self._backoffs else 0.0
        self._fights.pop(name, None)
        self._backoffs.pop(name, None)
        if self._clock.monotonic() - self._rounds.get(name, (0, 0.0))[1] > CALM_SECONDS:
            self._rounds.pop(name, None)
        self._settle(name, problem)
        return 0.0

    def failed(self, name: ServiceName, error: IsthmusError) -> float:
        """Note it; the seconds until the next attempt."""
        if isinstance(error, Conflict | AlreadyExists) and not isinstance(error, NotRepaired):
            return self._rng.uniform(0.005, 0.05)  # a race: what is there now was just looked at
        slow = isinstance(error, Denied | Invalid | NotFound | NotRepaired)
        fresh = Backoff(base=1.0 if slow else 0.2, cap=60.0 if slow else 10.0, uniform=self._rng.uniform)
        delay = self._backoffs.setdefault(name, fresh).next()
        if isinstance(error, TooMany):
            delay = max(delay, error.retry_after)
        self._log.warning("not written", service=str(name), code=error.error_code, error=error.message, again_in=delay)
        if not isinstance(error, Unavailable):  # that it is away is said by those who read
            detail = f"{error.message} ({error.hint})" if error.hint else error.message
            subject = self._place if isinstance(error, Denied) else f"{self._what} {name}"
            self._settle(name, Problem(error.error_code, subject, detail))
        return delay

    def general(self, what: str, error: IsthmusError | None) -> None:
        """Something failed that concerns no name, or (None) no longer does."""
        if error is None:
            self._settle(what, None)
            return
        self._log.warning("not written", what=what, code=error.error_code, error=error.message)
        if not isinstance(error, Unavailable):
            self._settle(what, Problem(error.error_code, self._place, str(error)))

    def forget(self) -> None:
        """Somebody else writes now."""
        for known in (self._backoffs, self._rounds, self._fights):
            known.clear()
        if self._problems:
            self._problems.clear()
            self._on_problems([])

    def problem(self, what: str, problem: Problem | None) -> None:
        """Something that concerns no name is not as it should be, or (None) it is."""
        self._settle(what, problem)

    def _settle(self, key: ServiceName | str, problem: Problem | None) -> None:
        if self._problems.get(key) == problem:
            return
        if problem is None:
            del self._problems[key]
        else:
            self._problems[key] = problem
        self._on_problems(list(_each(self._problems.values())))


def _each(problems: Iterable[Problem]) -> Iterable[Problem]:
    """A rule that is missing is missing for every name."""
    return dict.fromkeys(sorted(problems, key=lambda p: (p.code, p.subject)))
