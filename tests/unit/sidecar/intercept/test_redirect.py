from __future__ import annotations

from collections.abc import Sequence

import pytest

from federation.errors import InvalidInput, Unavailable
from sidecar.intercept.redirect import Redirect, apply, removal, remove, ruleset


class Runner:
    """Records commands; answers with the outcomes it was given, then with success."""

    def __init__(self, *outcomes: tuple[int, str]) -> None:
        self.commands: list[tuple[str, str]] = []
        self._outcomes = list(outcomes)

    def __call__(self, command: Sequence[str], text: str) -> tuple[int, str]:
        self.commands.append((" ".join(command), text))
        return self._outcomes.pop(0) if self._outcomes else (0, "")


def test_the_ruleset_redirects_one_range_and_nothing_else() -> None:
    text = ruleset(Redirect())
    assert text.splitlines()[:2] == ["add table ip isthmus", "delete table ip isthmus"]
    rules = [line.strip() for line in text.splitlines() if "redirect" in line]
    assert rules == ["ip daddr 240.64.0.0/12 meta l4proto tcp redirect to :15001"]
    assert text.count("chain") == 1


def test_apply_sets_the_route_and_the_rules() -> None:
    runner, plan = Runner(), Redirect(network="240.96.0.0/12", port=15009, table="other")
    apply(plan, run=runner)
    assert runner.commands == [
        ("ip route replace local 240.96.0.0/12 dev lo", ""),
        ("nft -f -", ruleset(plan)),
    ]


def test_remove_does_not_mind_what_is_not_there() -> None:
    runner = Runner((0, ""), (2, "RTNETLINK answers: No such process\n"))
    remove(Redirect(), run=runner)
    assert [command for command, _ in runner.commands] == ["nft -f -", "ip route del local 240.64.0.0/12 dev lo"]
    assert runner.commands[0][1] == removal(Redirect())


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        ((1, "Error: Could not process rule: Operation not permitted\nmore"), "Operation not permitted"),
        ((127, "ip is not installed"), "ip is not installed"),
        ((2, ""), "exit status 2"),
    ],
)
def test_failures_are_one_clear_line(outcome: tuple[int, str], message: str) -> None:
    for act in (apply, remove):
        with pytest.raises(Unavailable, match=message) as caught:
            act(Redirect(), run=Runner(outcome))
        assert caught.value.error_code == "redirect_failed"
        assert "\n" not in str(caught.value)


def test_a_missing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="not installed"):
        apply(Redirect())


@pytest.mark.parametrize(
    "fields",
    [
        {"network": "240.64.0.1/12"},
        {"network": "fd00::/8"},
        {"network": "0/0; flush ruleset"},
        {"port": 0},
        {"port": 65536},
        {"table": "a; flush ruleset"},
        {"table": ""},
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Redirect(**fields)  # type: ignore[arg-type]
