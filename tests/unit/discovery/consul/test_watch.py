"""The driver of blocking queries, against scripted answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from discovery.consul.belief import Doubt
from discovery.consul.client import Answer, Meta
from discovery.consul.errors import TooMany, Unreachable
from discovery.consul.watch import Watch
from federation import log
from federation.errors import IsthmusError

from .conftest import QuickClock


class Script:
    """Answers in order; an exception is raised."""

    def __init__(self, clock: QuickClock, answers: Sequence[Answer | IsthmusError], **options: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[int, bool]] = []
        self.at: list[float] = []
        self.taken: list[bytes] = []
        self.told: list[str] = []
        self._clock = clock
        self.watch = Watch(
            self._read,
            self._take,
            what="web",
            wait=40.0,
            stale=bool(options.get("stale", False)),
            max_stale=5.0,
            tell=self._tell,
            clock=clock,
            log=log.get("test"),
            rng=random.Random(1),
        )

    async def _read(self, *, index: int, wait: float, stale: bool) -> Answer:
        self.asked.append((index, stale))
        self.at.append(self._clock.monotonic())
        answer = self.answers.pop(0)
        if isinstance(answer, IsthmusError):
            raise answer
        return answer

    def _take(self, answer: Answer) -> bool:
        msgspec.json.decode(answer.body)
        changed = self.taken[-1:] != [answer.body]
        self.taken.append(answer.body)
        return changed

    def _tell(self, what: IsthmusError | Doubt | None) -> None:
        self.told.append("" if what is None else what.error_code if isinstance(what, IsthmusError) else what.code)

    async def play(self) -> None:
        while self.answers:
            await self.watch.turn()


def answer(body: bytes, index: int, **meta: Any) -> Answer:
    return Answer(body, Meta(index=index, **meta))


async def test_indexes_follow_the_answers(clock: QuickClock) -> None:
    script = Script(clock, [answer(b"1", 10), answer(b"2", 12), answer(b"3", 5), answer(b"3", 5)])
    await script.play()
    assert [index for index, _ in script.asked] == [0, 10, 12, 0]
    assert script.told == ["", "", "", ""]


async def test_what_is_not_believed_is_not_taken_and_the_leader_is_asked(clock: QuickClock) -> None:
    script = Script(
        clock,
        [
            answer(b"1", 10),
            answer(b"[]", 11, known_leader=False),
            answer(b"[]", 12, last_contact=60.0),
            answer(b"2", 13),
            answer(b"2", 13),
        ],
        stale=True,
    )
    await script.play()
    assert script.taken == [b"1", b"2", b"2"]
    assert script.asked == [(0, True), (10, True), (0, False), (0, False), (13, True)]
    assert script.told == ["", "consul_no_leader", "consul_stale", "", ""]


async def test_failures_wait_longer_and_longer_and_keep_the_index(clock: QuickClock) -> None:
    script = Script(
        clock, [answer(b"1", 10), *(Unreachable("away") for _ in range(8)), TooMany("busy"), answer(b"1", 10)]
    )
    await script.play()
    assert [index for index, _ in script.asked] == [0] + [10] * 10
    gaps = [b - a for a, b in zip(script.at, script.at[1:], strict=False)]
    assert all(0.0 < gap <= 5.01 for gap in gaps)
    assert gaps[-1] >= 5.0  # told to be quieter
    assert script.told == ["", *["consul_unreachable"] * 8, "consul_busy", ""]


async def test_an_answer_that_makes_no_sense_is_a_failure(clock: QuickClock) -> None:
    script = Script(clock, [answer(b"{", 10), answer(b"1", 10)])
    await script.play()
    assert script.told == ["consul_server_failed", ""]
    assert [index for index, _ in script.asked] == [0, 0]


async def test_an_index_that_runs_wild_is_followed_less_than_once_a_second(clock: QuickClock) -> None:
    script = Script(clock, [answer(b"1", index) for index in range(1, 200)])
    begun = clock.monotonic()
    await script.play()
    assert script.watch.queries == 199
    assert 199 / (clock.monotonic() - begun) < 1
