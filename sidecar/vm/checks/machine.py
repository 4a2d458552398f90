"""What the results of a check make of a workload: thresholds, flapping, the pause between two runs. Pure.

A workload is not ready until its check has first passed. Afterwards one bad or good result is no news: `failures` in a
row make it not ready, `successes` in a row ready again. A check that goes to and fro has to pass longer each time
before it is believed; it is never disbelieved later than by its `failures`.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

JITTER = 0.1
"""Pauses differ by so much of the interval, so that many checks of many machines do not beat together."""
FLAPPING = 3
"""Falls within each other's memory that make a check one that flaps."""
PATIENCE = 16
"""How many times as long, at most, a check that flaps has to pass."""
CALM = 20
"""So many passes in a row, while ready, and its falls are forgotten."""


class Outcome(enum.Enum):
    """What one run of a check says."""

    PASSING = "passing"
    WARNING = "warning"
    """It passes, and somebody should look (a script's exit status 1, as in Consul)."""
    CRITICAL = "critical"

    @property
    def passed(self) -> bool:
        return self is not Outcome.CRITICAL


class State(enum.Enum):
    """What is believed of a check."""

    UNKNOWN = "unknown"
    READY = "ready"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Seconds, and results in a row."""

    interval: float = 10.0
    timeout: float = 5.0
    successes: int = 1
    failures: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`run`: results in a row that speak against the state, or for it. `falls`: how often it went down of late."""

    state: State = State.UNKNOWN
    passed: int = 0
    failed: int = 0
    falls: int = 0

    @property
    def ready(self) -> bool:
        return self.state is State.READY

    @property
    def flapping(self) -> bool:
        return self.falls >= FLAPPING


def needed(health: Health, policy: Policy) -> int:
    """Passes in a row that make it ready."""
    if health.state is State.UNKNOWN:
        return 1
    return policy.successes * min(PATIENCE, 2 ** max(0, health.falls - FLAPPING + 1))


def step(health: Health, outcome: Outcome, policy: Policy) -> Health:
    """What is believed after one more result."""
    if outcome.passed:
        passed = health.passed + 1
        if health.state is State.READY:
            return Health(state=State.READY, passed=min(passed, CALM), falls=0 if passed >= CALM else health.falls)
        ready = passed >= needed(health, policy)
        return Health(state=State.READY if ready else health.state, passed=0 if ready else passed, falls=health.falls)
    failed = health.failed + 1
    if health.state is State.READY and failed < policy.failures:
        return Health(state=State.READY, failed=failed, falls=health.falls)
    falls = health.falls + (health.state is State.READY)
    return Health(state=State.DOWN, failed=min(failed, policy.failures), falls=min(falls, FLAPPING + PATIENCE))


def pause(policy: Policy, rng: random.Random) -> float:
    """Seconds until the next run."""
    return policy.interval * rng.uniform(1 - JITTER, 1 + JITTER)
