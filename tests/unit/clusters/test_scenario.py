"""The story of the demo: which phases a topology has, and what of the requests belongs to which."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from clusters import scenario
from clusters.load import Account, Outcome
from clusters.scenario import Phase, checks, play, story
from clusters.topology import DEMO, DEMO_WITH_CONSUL, EAST, WEST, Topology
from federation.errors import TimedOut, Unavailable

PAIR = Topology.full_mesh("test.isthmus", EAST, WEST)


class Calls:
    """Answers of who is to answer, one with each look; nothing comes after `stop`."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._sent, self.stopped = stage, list[Outcome](), 0

    async def outcomes(self, since: int = 0) -> Sequence[Outcome]:
        if not self.stopped:
            now = time.monotonic()
            error = "" if self._stage.answers else "ConnectionRefusedError"
            self._sent.append(Outcome(now, now, self._stage.answers, error))
        return self._sent[since:]

    async def stop(self) -> None:
        self.stopped += 1


class Stage:
    """A federation in which everything that is done is noted, and has the effect that its clusters should have."""

    def __init__(self, topology: Topology) -> None:
        self.topology, self.done, self.answers = topology, list[str](), "east"
        self.left_out = ["what cannot be"]
        self.greets = ""
        self.faults = SimpleNamespace(pause=self._fault("pause"), kill=self._fault("kill"))
        self.calls = Calls(self)

    def _act(self, what: str, *where: str) -> float:
        self.done.append(" ".join((what, *where)))
        effect = {"end_copy east": "west", "thaw west": "west", "kill west gateway": "edge", "heal": "east"}
        effect |= {"start_copy east": "east", "pause west": "edge" if "edge" in self.topology.names else "east"}
        self.answers = effect.get(self.done[-1], self.answers)
        return time.monotonic()

    def _fault(self, what: str) -> Any:
        async def fault(*where: str) -> float:
            return self._act(what, *where)

        return fault

    def __getattr__(self, what: str) -> Any:
        if what in ("end_copy", "start_copy", "thaw", "end_registry", "heal", "whole", "turn"):
            return self._fault(what)
        raise AttributeError(what)

    async def look_up(self, name: str) -> list[str]:
        return ["127.0.0.1"]

    async def calling(self, name: str) -> Calls:
        return self.calls

    async def greeting(self, name: str) -> str:
        self.done.append(f"call {name}")
        return self.greets or name.split(".")[2]

    async def measure(self, changes: int, say: Any) -> None: ...


class Teller:
    def __init__(self) -> None:
        self.phases: list[tuple[Account, str]] = []

    def step(self, text: str) -> None: ...
    def names(self, names: dict[str, list[str]]) -> None: ...
    def live(self, name: str, requests: int, failed: int) -> None: ...

    def phase(self, phase: Account, told: str) -> None:
        self.phases.append((phase, told))


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        (
            DEMO,
            {
                "steady": "east",
                "workload_killed": "west",
                "cluster_paused": "edge",
                "cluster_back": "west",
                "gateway_killed": "edge",
                "registry_down": "edge",
                "healed": "east",
            },
        ),
        (
            PAIR,
            {
                "steady": "east",
                "workload_killed": "west",
                "registry_down": "west",
                "cluster_paused": "east",
                "healed": "east",
            },
        ),
    ],
)
def test_who_answers_in_which_phase(topology: Topology, expected: dict[str, str]):
    assert {phase.name: phase.expect for phase in story(topology)} == expected
    assert story(DEMO_WITH_CONSUL)[0].name == "steady"


def test_a_datacenter_has_phases_of_its_own():
    assert [(phase.name, phase.expect) for phase in checks("dc1")] == [
        ("consul", "dc1"),
        ("consul_critical", "edge"),
        ("consul_passing", "dc1"),
    ]


@pytest.mark.parametrize(
    ("topology", "done"),
    [
        (
            DEMO,
            [
                "end_copy east",
                "pause west",
                "thaw west",
                "kill west gateway",
                "end_registry",
                "call kv.shop.edge.global",
                "heal",
                "whole",
            ],
        ),
        (
            PAIR,
            [
                "end_copy east",
                "end_registry",
                "call kv.shop.west.global",
                "start_copy east",
                "pause west",
                "heal",
                "whole",
            ],
        ),
    ],
)
async def test_the_story_from_its_beginning_to_its_end(topology: Topology, done: list[str]):
    stage, teller = Stage(topology), Teller()
    result = await scenario.tell(stage, teller, hold=0.01)  # type: ignore[arg-type]
    assert stage.done == done
    assert result.failed == 0
    assert [phase.name for phase, _ in teller.phases] == [phase.name for phase in story(topology)]
    assert result.phases == [phase for phase, _ in teller.phases]
    assert all(phase.requests and phase.seconds > 0 for phase in result.phases)
    assert result.as_dict()["left_out"] == ["what cannot be"]
    assert stage.calls.stopped


async def test_every_request_is_in_one_account_and_the_last_ones_too():
    stage = Stage(DEMO)
    phases = [Phase("one", "east", ""), Phase("two", "west", "", by=lambda s: s.end_copy("east"))]
    accounts = await play(stage, Teller(), "name", phases, hold=0.01)  # type: ignore[arg-type]
    assert sum(account.requests for account in accounts) == len(await stage.calls.outcomes())
    assert accounts[0].switch_ms is None
    assert accounts[1].switch_ms is not None


async def test_a_phase_in_which_nobody_takes_over_ends_the_story(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scenario, "DEADLINE", 0.05)
    stage = Stage(DEMO)
    stage.answers = ""
    with pytest.raises(TimedOut, match=r"phase steady: east has not answered .*: ConnectionRefusedError"):
        await play(stage, Teller(), "name", [Phase("steady", "east", "")], hold=0.01)  # type: ignore[arg-type]
    assert stage.calls.stopped


async def test_what_a_phase_cannot_begin_with_is_told_as_it_is():
    stage = Stage(DEMO)

    async def refused(_stage: Any) -> float:
        raise Unavailable("no such node")

    with pytest.raises(Unavailable, match="no such node"):
        await play(stage, Teller(), "name", [Phase("x", "east", "", by=refused)], hold=0.01)  # type: ignore[arg-type]
    assert stage.calls.stopped


async def test_a_name_that_another_cluster_answers_ends_the_story():
    stage = Stage(PAIR)
    stage.greets = "east"
    with pytest.raises(Unavailable, match=r"kv\.shop\.west\.global was answered by east"):
        await scenario.tell(stage, Teller(), hold=0.01)  # type: ignore[arg-type]
