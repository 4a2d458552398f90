"""What is read from the log of a pod that calls: which requests count, and when it has settled."""

from __future__ import annotations

import itertools
import time

import pytest

from clusters.caller import line
from clusters.kind.calls import Calls, failed
from clusters.load import Outcome
from federation.errors import TimedOut

FUTURE = float(round(time.monotonic() + 1e6))
"""Begin of requests that are sent after whatever a test does."""


def sent(*clusters: str, begin: float = FUTURE) -> list[Outcome]:
    """A request for each; an empty name: it failed."""
    return [Outcome(begin + n, begin + n + 0.5, one, "" if one else "OSError: no") for n, one in enumerate(clusters)]


def calls(*logs: list[Outcome]) -> Calls:
    """Each look sees the next of `logs`, and the last one for ever."""
    looks = itertools.chain(logs, itertools.repeat(logs[-1]))

    async def read() -> str:
        return "\n".join(map(line, next(looks)))

    return Calls(read)


async def test_an_answer_counts_when_it_was_asked_for_after_the_look_began():
    old, new = sent("east", "east", begin=0.0), sent("west", "east", "east")
    found = await calls(old, [*old, *new[:2]], [*old, *new]).answered_by("east", number=2, seconds=5)
    assert found == new


async def test_any_of_several_clusters_may_answer_and_a_failure_is_no_answer():
    log = sent("east", "", "west", "east")
    assert await calls(log).answered_by("east", "west", number=2, seconds=5) == log
    with pytest.raises(TimedOut, match=r"3 answers on end of east or west .*the last ones: .*OSError: no"):
        await calls(log).answered_by("east", "west", number=3, seconds=0.1)


async def test_refused_are_the_last_when_all_of_them_failed():
    log = sent("east", "", "", "")
    assert await calls(sent("east", ""), log).refused(number=2, seconds=5) == log[2:]
    with pytest.raises(TimedOut, match="4 failures on end"):
        await calls(log).refused(number=4, seconds=0.1)


async def test_what_fails_before_the_first_answer_is_not_lost():
    log = sent("", "", "east", "", "west")
    assert await calls(log).lost() == [log[3]]
    assert await calls(sent("", "")).lost() == []
    assert failed(log) == [log[0], log[1], log[3]]


async def test_requests_since_a_moment():
    log = sent("east", "west", begin=10.0)
    assert await calls(log).since(10.0) == log[1:]
