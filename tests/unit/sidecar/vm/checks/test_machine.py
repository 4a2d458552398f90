"""What the results of a check make of it, as transcripts: p passes, w warns, f fails."""

from __future__ import annotations

import random

import pytest

from sidecar.vm.checks.machine import CALM, FLAPPING, PATIENCE, Health, Outcome, Policy, State, needed, pause, step

OUTCOMES = {"p": Outcome.PASSING, "w": Outcome.WARNING, "f": Outcome.CRITICAL}


def play(results: str, *, successes: int = 1, failures: int = 3, health: Health | None = None) -> tuple[str, Health]:
    """(what was believed after each result: R ready, D down, ? unknown; the last health)."""
    policy = Policy(successes=successes, failures=failures)
    health = health or Health()
    said = ""
    for letter in results:
        health = step(health, OUTCOMES[letter], policy)
        said += {State.READY: "R", State.DOWN: "D", State.UNKNOWN: "?"}[health.state]
    return said, health


@pytest.mark.parametrize(
    ("results", "options", "believed"),
    [
        ("p", {}, "R"),
        ("w", {}, "R"),
        ("f", {}, "D"),
        ("p", {"successes": 5}, "R"),  # the first is enough, whatever comes later
        ("fpp", {"successes": 2}, "DDR"),
        ("fpfpp", {"successes": 2}, "DDDDR"),
        ("pffp", {}, "RRRR"),
        ("pfff", {}, "RRRD"),
        ("pffpff", {}, "RRRRRR"),
        ("pffpfff", {}, "RRRRRRD"),
        ("pffwfff", {}, "RRRRRRD"),
        ("pf", {"failures": 1}, "RD"),
        ("pfffp", {}, "RRRDR"),
    ],
)
def test_transcripts(results: str, options: dict[str, int], believed: str) -> None:
    assert play(results, **options)[0] == believed


def test_who_goes_to_and_fro_is_believed_later_each_time() -> None:
    health = Health()
    waits = []
    for _ in range(9):
        passes = 0
        while not health.ready:
            health = step(health, Outcome.PASSING, Policy(failures=1))
            passes += 1
        waits.append(passes)
        health = step(health, Outcome.CRITICAL, Policy(failures=1))
    assert waits == [1, 1, 1, 2, 4, 8, PATIENCE, PATIENCE, PATIENCE]
    assert health.flapping


def test_after_a_calm_time_all_is_forgotten() -> None:
    falls = "pf" + "p" * 1 + "f" + "p" + "f"
    _, health = play(falls, failures=1)
    assert health.falls == FLAPPING
    _, health = play("p" * (2 + CALM - 1), failures=1, health=health)
    assert (health.ready, health.falls) == (True, FLAPPING)
    _, health = play("p", failures=1, health=health)
    assert health.falls == 0
    assert needed(health, Policy(successes=2)) == 2


def test_pauses_differ_by_a_tenth() -> None:
    rng, policy = random.Random(1), Policy(interval=10)
    pauses = [pause(policy, rng) for _ in range(200)]
    assert 9 <= min(pauses) < 9.5
    assert 10.5 < max(pauses) <= 11
