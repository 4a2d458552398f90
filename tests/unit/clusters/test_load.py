from clusters.load import Outcome, account


def outcome(begin: float, cluster: str, error: str = "") -> Outcome:
    return Outcome(begin, begin + 0.01, cluster, error)


def test_a_phase_is_summed_up():
    outcomes = [
        outcome(1.0, "east"),
        outcome(2.0, "east"),
        outcome(2.1, "", "ConnectionResetError"),
        outcome(2.2, "west"),
        outcome(2.3, "west"),
    ]
    phase = account("workload_killed", outcomes, began=1.9, expect="west")
    assert (phase.requests, phase.failed) == (5, 1)
    assert phase.answered_by == {"east": 2, "west": 2}
    assert phase.switch_ms == 310.0
    assert phase.errors == ("ConnectionResetError",)
    assert set(phase.as_dict()) == {"name", "requests", "failed", "answered_by", "switch_ms", "seconds"}


def test_nothing_had_to_switch():
    assert account("steady", [outcome(1, "east")], began=0, expect=None).switch_ms is None


def test_an_answer_that_was_asked_for_before_the_fault_is_no_switch():
    assert account("x", [outcome(1.0, "west")], began=1.005, expect="west").switch_ms is None
