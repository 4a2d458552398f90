"""Checks of workloads: what is believed follows from the results by the rules, whatever they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.vm.checks.machine import CALM, FLAPPING, PATIENCE, Health, Outcome, Policy, State, needed, step

policies = st.builds(Policy, successes=st.integers(1, 4), failures=st.integers(1, 4))
results = st.lists(st.sampled_from(Outcome), max_size=80)


def states(drawn: list[Outcome], policy: Policy) -> list[Health]:
    health = [Health()]
    for outcome in drawn:
        health.append(step(health[-1], outcome, policy))
    return health


def run(drawn: list[Outcome], end: int, *, passed: bool) -> int:
    """Results of one kind in a row that end before `end`."""
    count = 0
    while count < end and drawn[end - 1 - count].passed is passed:
        count += 1
    return count


@given(policies, results)
def test_nothing_is_ready_before_its_first_pass(policy, drawn):
    for count, health in enumerate(states(drawn, policy)):
        if not any(outcome.passed for outcome in drawn[:count]):
            assert not health.ready
        assert (health.state is State.UNKNOWN) == (count == 0)


@given(policies, results)
def test_it_goes_down_exactly_by_its_failures_in_a_row(policy, drawn):
    seen = states(drawn, policy)
    for count in range(1, len(seen)):
        if seen[count - 1].ready:
            assert seen[count].ready == (run(drawn, count, passed=False) < policy.failures)


@given(policies, results)
def test_it_comes_up_by_passes_in_a_row_and_never_asks_for_too_many(policy, drawn):
    seen = states(drawn, policy)
    for count in range(1, len(seen)):
        before, after = seen[count - 1], seen[count]
        if before.state is State.DOWN and after.ready:
            assert run(drawn, count, passed=True) >= policy.successes
        if run(drawn, count, passed=True) >= policy.successes * PATIENCE:
            assert after.ready
        if before.state is State.DOWN and not before.flapping and run(drawn, count, passed=True) >= policy.successes:
            assert after.ready, "who does not flap waits for no more than is asked"
        assert policy.successes * PATIENCE >= needed(after, policy)


@given(policies, results)
def test_falls_are_counted_until_it_was_calm(policy, drawn):
    """A plain count over the whole history, beside the machine's."""
    seen = states(drawn, policy)
    falls = calm = 0
    for count in range(1, len(seen)):
        before, after, outcome = seen[count - 1], seen[count], drawn[count - 1]
        calm = calm + 1 if before.ready and outcome.passed else 0
        if before.ready and not after.ready:
            falls += 1
        if calm >= CALM:
            falls = 0
        assert after.falls == min(falls, FLAPPING + PATIENCE)
        assert after.flapping == (falls >= FLAPPING)
